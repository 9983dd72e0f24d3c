"""KEEP AND SHOW: the study file, its store, the front, plots, export and the command line."""
