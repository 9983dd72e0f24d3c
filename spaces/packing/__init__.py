"""Packing: weights of few bits and many zeros stored compactly, unpacked by standard operators at load."""

from __future__ import annotations

from .report import PackedTensor, PackingReport
from .whole_file import pack

__all__ = ["PackedTensor", "PackingReport", "pack"]
