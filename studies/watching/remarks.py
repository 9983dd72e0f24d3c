"""What the user should know about how candidates were measured, each told once in a search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class MeasuringRemarks:
    """Makes sentences of the conditions of latencies, and none twice."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def of(self, conditions: Mapping[str, Any]) -> list[str]:
        """Return what these conditions say that was not told before.

        Args:
            conditions: Of one latency.
        """
        found = {kind: sentence for kind, sentence in _sentences(conditions) if kind not in self._told}
        self._told |= found.keys()
        return list(found.values())


def _sentences(conditions: Mapping[str, Any]) -> list[tuple[str, str]]:
    told = []
    if conditions.get("busy"):
        share = f"{100 * conditions['others_share']:.0f} %"
        told.append(
            (
                "busy",
                f"the machine is busy: while a candidate was measured, other processes took {share} of the cores used; "
                "ratios stand up to that, but take longer to measure, and a machine of its own gives better ones",
            )
        )
    if conditions.get("throttled"):
        told.append(
            (
                "throttled",
                "the processor slowed itself down while a candidate was measured, for heat or for want of power; "
                "cool it, or expect latencies that change with the weather",
            )
        )
    if conditions.get("fallback", "none") != "none":
        provider = conditions.get("provider", "the provider")
        told.append(("fallback", f"{conditions['fallback']}: {provider} does not have their operators"))
    return told
