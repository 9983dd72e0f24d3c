"""ONNX files: export with proof, rounding, packing."""
