"""The study file: what it may say, and what is told of it that has no meaning."""
