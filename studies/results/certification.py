"""How a front stood its test when it was measured again, as it is kept and told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ...errors import DAMAGED
from ..storage.folder import RunFolder, write_atomically
from ..storage.reading import read_json

Mark = Literal["holds", "within noise", "fell off"]
HOLDS: Mark = "holds"
WITHIN_NOISE: Mark = "within noise"
FELL_OFF: Mark = "fell off"

CHOSEN_BY_TEST = (
    "An earlier version measured this front again: marks, and points from the edge of the front, were chosen by the "
    "very test accuracies that are shown. Run the search once more to have them chosen by validation."
)

_IN_WORDS: dict[str, str] = {HOLDS: "hold", WITHIN_NOISE: "within noise", FELL_OFF: "fell off"}


@dataclass(frozen=True)
class Certification:
    """How a front stood its test, as ``certification.json`` keeps it.

    Args:
        time: When, ISO 8601, UTC.
        same_process: Why it was measured in the search's own process; empty where it was in a new one.
        conditions: Of the latencies.
        test_samples: Samples of the test split.
        points: Points of the table.
        edge_measured: Files of the edge of the front that were measured beside it.
        edge_admitted: How many of those came to the front.
        marks: How many points have each mark.
        accuracy_tau: Kendall's tau-b between validation accuracy in the search and test accuracy, over the points;
            None where they cannot be ranked.
        latency_tau: The same between latency in the search and measured again.
        accuracy_fall_points: By how many points of accuracy more the median point lost against the baseline on the test
            split than on validation: the winner's curse. None without points.
        latency_rise_percent: By how many percent the median point was slower than in the search; None without points.
        lost: For each file of the front that could not be measured one sentence that says why.
        chosen_by: The split by which edge points were admitted and points compared with each other; earlier versions
            did so by ``test``, and did not say it.
    """

    time: str
    same_process: str
    conditions: Mapping[str, Any]
    test_samples: int
    points: int
    edge_measured: int
    edge_admitted: int
    marks: Mapping[str, int]
    accuracy_tau: float | None
    latency_tau: float | None
    accuracy_fall_points: float | None
    latency_rise_percent: float | None
    lost: tuple[str, ...] = ()
    chosen_by: str = "test"
    format: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; :meth:`from_dict` reads them back."""
        return {**asdict(self), "lost": list(self.lost)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Certification:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError, TypeError, LookupError, AttributeError: Where that is something else.
        """
        found = cls(**{**plain, "lost": tuple(map(str, plain["lost"]))})
        found.describe()  # which shows that every number is one
        return found

    def describe(self) -> str:
        """Return in a line or two how the front stood its test."""
        where = "in the search's own process" if self.same_process else "in a new process"
        told = ", ".join(f"{count} {_IN_WORDS[mark]}" for mark, count in self.marks.items() if count)
        lines = [f"measured again {where}: {told or 'nothing'}"]
        ranked = [
            f"{name} {'cannot be ranked' if tau is None else f'{tau:.2f}'}"
            for name, tau in (("accuracy", self.accuracy_tau), ("latency", self.latency_tau))
        ]
        if self.points > 1:
            lines.append(f"rank correlation of the search's values with these (Kendall's tau): {', '.join(ranked)}")
        if self.chosen_by == "test":
            lines.append(CHOSEN_BY_TEST)
        return "\n".join(lines)


def write_certification(folder: RunFolder, certification: Certification) -> None:
    """Write ``certification.json``, whole or not at all."""
    text = json.dumps(certification.to_dict(), indent=2, ensure_ascii=False)
    write_atomically(folder.certification, text.encode())


def read_certification(folder: RunFolder) -> Certification | None:
    """Return how the front in a results folder stood its test; None where that is not known."""
    try:
        return Certification.from_dict(read_json(folder.certification))
    except (OSError, *DAMAGED):
        return None  # a search of an earlier version has left none; the next one writes it
