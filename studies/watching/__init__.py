"""A search while it runs: its progress, its log, and a look at it from another terminal."""
