"""MEASURE: size, latency and accuracy of a file, never changing it."""
