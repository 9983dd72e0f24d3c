"""Failures that are nobody's candidate: whose they are, and what is tried again."""
