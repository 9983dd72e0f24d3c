"""Probes: small networks of the user's own largest layers, on which a target shows what each axis can win there."""
