"""The runtimes that open and run a file."""
