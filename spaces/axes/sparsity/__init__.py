"""Sparsity: channels removed for good, weights set to zero."""
