"""Bit-width: weights rounded to a few bits, activations to eight, as QDQ or unpacked weights in ONNX."""
