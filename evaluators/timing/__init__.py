"""Timing in alternation, and what a machine must be like for it."""
