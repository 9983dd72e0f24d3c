"""Load time and memory: what it takes the runtime to open the file, unpacking and optimizing it."""

from __future__ import annotations

from ..errors import CandidateFailure, KaruiError
from ..spaces.artifact import Artifact
from .measurement import Measurement
from .metric import Metric
from .targets.target import Target
from .timing.alternating import PairTiming, TimingSettings


class LoadEvaluator:
    """Measures ``load_ms``, ``load_ratio`` and ``load_peak_bytes`` of a file, beside a reference.

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
        self._reference_peak_bytes: int | None = None

    def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
        """Return ``load_ms``, ``load_ratio`` (candidate over reference) and ``load_peak_bytes``, where they are told.

        Time is taken in alternation with the reference, memory of each in a fresh process; the peak of the reference
        is among the conditions of the candidate's, as ``reference_bytes``.

        Raises:
            CandidateFailure: Where the target cannot open the file.
            KaruiError: Where the reference cannot be opened, or the target is at fault.
        """
        timing = self._target.time_load_pair(self._reference.path, artifact.path, self._settings)
        return (*(() if timing is None else self._times(timing)), *self._measure_peak(artifact))

    def _times(self, timing: PairTiming) -> tuple[Measurement, ...]:
        conditions = {
            **timing.machine,
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

    def _measure_peak(self, artifact: Artifact) -> tuple[Measurement, ...]:
        peak_bytes = self._target.load_peak_bytes(artifact.path)
        if self._reference_peak_bytes is None:
            self._reference_peak_bytes = self._open_reference()
        if peak_bytes is None or self._reference_peak_bytes is None:
            return ()
        conditions = {
            **self._target.conditions(),
            "reference_bytes": self._reference_peak_bytes,
            "reference_digest": self._reference.digest,
        }
        return (Measurement("load_peak_bytes", peak_bytes, "bytes", conditions=conditions),)

    def _open_reference(self) -> int | None:
        try:
            return self._target.load_peak_bytes(self._reference.path)
        except CandidateFailure as failure:
            raise KaruiError(
                "the reference cannot be opened on this target, so nothing can be compared with it",
                where=str(self._reference.path),
                got=failure.reason,
            ) from failure


LOAD = Metric(
    name="load",
    measurement="load_ms",
    direction="minimize",
    unit="ms",
    bound="max_load",
    title="Load time",
    evaluator=lambda by: LoadEvaluator(by.target, by.reference, by.settings),
    ratio="load_ratio",
)
