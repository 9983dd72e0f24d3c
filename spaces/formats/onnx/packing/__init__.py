"""Packing: weights of few bits and many zeros stored compactly, unpacked by standard operators at load."""

from __future__ import annotations

from .packed_file_check import pack
from .report import PackedTensor, PackingReport

__all__ = ["PackedTensor", "PackingReport", "pack"]
