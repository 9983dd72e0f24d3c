"""Rounding and zeroing of weights, whatever the file: numbers in, numbers out, and no graph of any format."""
