"""Formats of files: how a network becomes a file, and what can be done to it there."""
