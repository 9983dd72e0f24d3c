"""Energy of one inference, where the target can tell it."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ..errors import KaruiError
from ..spaces.artifact import Artifact
from ..spaces.data.named import contiguous
from .measurement import Measurement
from .metric import Metric
from .targets.target import MeasuresEnergy, Target
from .timing.alternating import TimingSettings


class EnergyEvaluator:
    """Measures ``energy_mj`` and ``energy_ratio`` of a file beside a reference.

    Args:
        target: Where to measure.
        reference: The file that all candidates are compared with.
        inputs: One batch of real data, shape (batch, *input_shape); the energy is that of one such batch.
        settings: Its ``max_seconds`` holds.

    Raises:
        KaruiError: Where the target is of a kind that measures no energy.
    """

    name = "energy"

    def __init__(self, target: Target, reference: Artifact, inputs: NDArray[Any], settings: TimingSettings) -> None:
        if not isinstance(target, MeasuresEnergy):
            raise _no_energy(target)
        self._target = target
        self._reference = reference
        self._inputs = contiguous(inputs)
        self._settings = settings

    def measure(self, artifact: Artifact) -> tuple[Measurement, ...]:
        """Return two measurements, ``energy_mj`` and ``energy_ratio`` (candidate over reference).

        Raises:
            CandidateFailure: Where the target cannot load or run the file.
            KaruiError: Where the target does not tell its energy, or is at fault.
        """
        found = self._target.energy_pair(self._reference.path, artifact.path, self._inputs, self._settings)
        if found is None:
            raise _no_energy(self._target)
        conditions = {
            "target": self._target.name,
            "meter": found.meter,
            "batch_size": len(self._inputs),
            "raw_reference_mj": found.reference_mj,
            "reference_digest": self._reference.digest,
        }
        spread = found.ratio_spread * found.reference_mj
        return (
            Measurement("energy_mj", found.candidate_mj, "mJ", spread, found.pairs, conditions),
            Measurement("energy_ratio", found.ratio, "1", found.ratio_spread, found.pairs, conditions),
        )


def _no_energy(target: Target) -> KaruiError:
    return KaruiError(
        "the energy of an inference cannot be measured on this target",
        where=f"target {target.name}",
        expected="a counter of energy (RAPL), an INA power sensor or a battery in use, under /sys, that may be read",
        got="none that moves",
        remedy="let the search read /sys/class/powercap/*/energy_uj, or take max_energy out of [bounds] and energy out "
        "of further_objectives",
    )


ENERGY = Metric(
    name="energy",
    measurement="energy_mj",
    direction="minimize",
    unit="mJ",
    bound="max_energy",
    title="Energy of a run",
    evaluator=lambda by: EnergyEvaluator(by.target, by.reference, by.inputs, by.settings),
    ratio="energy_ratio",
)
