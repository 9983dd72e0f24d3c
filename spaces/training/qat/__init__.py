"""Quantization-aware training: a network trained on with its weights on the grid, and the grids it ends with."""
