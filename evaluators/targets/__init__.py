"""The targets: the machines on which files are measured, and how each is reached."""
