"""DECIDE: which candidate comes next, and which of those measured are worth keeping."""
