"""Bit-width: how few bits weights and activations may have, and the steps that round them."""
