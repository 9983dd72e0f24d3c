"""Plots of the front and of a search."""
