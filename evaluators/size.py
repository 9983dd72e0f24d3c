"""Size: bytes on disk of the file that is deployed."""

from __future__ import annotations

from ..errors import CandidateFailure
from ..spaces.artifact import Artifact
from .measurement import Measurement


class SizeEvaluator:
    """Measures ``size_bytes``, the bytes on disk of the artifact's file, an exact number."""

    name = "size"

    def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
        """Return one measurement, ``size_bytes``.

        Raises:
            CandidateFailure: Where the file is empty.
        """
        size_bytes = artifact.path.stat().st_size
        if size_bytes == 0:
            raise CandidateFailure(self.name, f"{artifact.path.name} is empty")
        return (Measurement(name="size_bytes", value=float(size_bytes), unit="bytes"),)
