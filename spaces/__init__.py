"""MAKE: what may be searched, and how a choice becomes a file."""
