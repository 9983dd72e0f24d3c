"""Load time: how long the runtime takes to open the file, unpacking and optimizing it."""

from __future__ import annotations

from ..spaces.artifact import Artifact
from .measurement import Measurement
from .targets import Target
from .timing import TimingSettings


class LoadEvaluator:
    """Measures ``load_ms`` and ``load_ratio`` of a file against a reference opened in alternation with it.

    Packed weights are unpacked when the file is opened: what that costs is shown beside the bytes that it saves.

    Args:
        target: Where to measure.
        reference: The file that all candidates are compared with.
        settings: When to stop, and how long a block lasts.
    """

    name = "load"

    def __init__(self, target: Target, reference: Artifact, settings: TimingSettings) -> None:
        self._target = target
        self._reference = reference
        self._settings = settings

    def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
        """Return two measurements, ``load_ms`` and ``load_ratio`` (candidate over reference).

        Raises:
            CandidateFailure: Where the target cannot open the file.
            KaruiError: Where the reference cannot be opened, or the target is at fault.
        """
        timing = self._target.time_load_pair(self._reference.path, artifact.path, self._settings)
        conditions = {
            **self._target.conditions(),
            "raw_reference_ms": timing.reference_ms,
            "reference_digest": self._reference.digest,
            "p95_ms": timing.candidate_p95_ms,
            "pairs": timing.pairs,
        }
        # The spread of the ratio, in which drift of the machine cancels, is the one that can be told from noise.
        spread = timing.ratio_spread * timing.reference_ms
        return (
            Measurement("load_ms", timing.candidate_ms, "ms", spread, timing.pairs, conditions),
            Measurement("load_ratio", timing.ratio, "1", timing.ratio_spread, timing.pairs, conditions),
        )
