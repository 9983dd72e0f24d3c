"""The sections of a study file that say how is searched and measured: bounds, latency, cache, gates, preflight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model, field_validator

from ...evaluators.metric import METRICS
from ...evaluators.runtimes.runtime_registry import RUNTIMES
from ...search.objectives import LIMITS, OBJECTIVES, Objective, bounded_limits, parse_bound, with_bounds
from ...search.stopping.pruning_rules import RuleCheck
from ...spaces.section import Section, Text

MOST_THREADS = 1_024
MOST_SECONDS = 1e6

if TYPE_CHECKING:
    RuntimeName = str
else:
    RuntimeName = Literal[RUNTIMES.names]

Threads = Annotated[int, Field(ge=1, le=MOST_THREADS)]


_BOUNDS = dict(
    zip(
        ("max_size", "max_latency", "min_accuracy", *(metric.bound for metric in METRICS.all.values())),
        (*OBJECTIVES, *LIMITS),
        strict=True,
    )
)
"""What each key of ``[bounds]`` bounds."""


class OwnBounds(Section):
    """Bounds; a candidate that breaks one is kept, marked infeasible, and never on the front.

    Args:
        max_size: Bytes on disk.
        max_latency: Time of one run.
        min_accuracy: The metric.

    What else is measured (:data:`~karui.evaluators.metric.METRICS`) is bounded by the key that it says.
    """

    max_size: str | float | None = None
    max_latency: str | float | None = None
    min_accuracy: str | float | None = None

    @field_validator(*_BOUNDS, mode="before", check_fields=False)
    @classmethod
    def _is_quantity(cls, text: Any, info: Any) -> Any:
        if text is not None:
            if not isinstance(text, (str, int, float)):
                raise ValueError("a bound is a number, or a text with a unit")
            parse_bound(text, _BOUNDS[info.field_name])
        return text

    def objectives(self) -> tuple[Objective, ...]:
        """Return the three objectives that every study has, with these bounds."""
        return with_bounds(self._by_name())

    def limits(self) -> tuple[Objective, ...]:
        """Return what else has a bound; measured of every candidate then."""
        return bounded_limits(self._by_name())

    def of(self, limit: Objective) -> Objective:
        """Return a further objective with its bound, where it has one."""
        return next((bounded for bounded in self.limits() if bounded.name == limit.name), limit)

    def _by_name(self) -> dict[str, str | float | None]:
        return {objective.name: getattr(self, key) for key, objective in _BOUNDS.items()}


if TYPE_CHECKING:

    class BoundsSpec(OwnBounds):
        """Bounds, with a key for each thing that may be measured."""

        def __init__(self, /, **keys: str | float | None) -> None: ...

else:
    BoundsSpec = create_model(
        "BoundsSpec",
        __base__=OwnBounds,
        __module__=__name__,
        __doc__=OwnBounds.__doc__,
        **{metric.bound: (str | float | None, None) for metric in METRICS.all.values()},
    )


class LatencySpec(Section):
    """How latency is measured.

    Args:
        objective: The target whose latency counts, or ``worst``: the one on which a file is slowest beside the
            baseline, or ``each``: one objective for every target; the first target where left out.
        threads: Threads of the runtime within one operator.
        batch_size: Samples in one run.
        provider: Execution provider of onnxruntime, or device of OpenVINO.
        runtime: What runs the files.
        inputs: ``real``: of the task's data; ``random``: of the same shape, drawn from a normal law.
        max_seconds: Longest time for one measurement; with exits, four passes over the inputs are made in any case.
    """

    objective: Text | None = None
    threads: Threads = 1
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 1
    provider: Text = "CPUExecutionProvider"
    runtime: RuntimeName = "onnxruntime"
    inputs: Literal["real", "random"] = "real"
    max_seconds: Annotated[float, Field(gt=0, le=MOST_SECONDS)] = 1.5


class CacheSpec(Section):
    """Where trained networks are kept, for all studies that name the same place.

    Args:
        folder: The folder, relative to the study file; ``karui-cache`` beside the results folder where left out.
        gigabytes: Size above which those go that were not used for the longest time; at 0 none is kept, and every
            candidate trains its own.
    """

    folder: Text | None = None
    gigabytes: Annotated[float, Field(ge=0, le=1e6)] = 20.0


class GatesSpec(Section):
    """What stops a candidate before it is dear.

    Args:
        stop_at: ``draft``: before training, where the size and latency of its untrained file break a bound or are
            dominated whatever its accuracy; ``rungs``: while it trains, where the trainings before it say that it
            will come to too little. Nothing in the list: no gates.
        audit: Share of what would be stopped that goes on all the same, to measure how often gates are wrong.
    """

    stop_at: Annotated[tuple[RuleCheck, ...], Field(max_length=16, strict=False)] = ("draft", "rungs")
    audit: Annotated[float, Field(ge=0, le=1)] = 0.1


class PreflightSpec(Section):
    """What is tried on the target before the search begins.

    Args:
        layers: Kinds of layers of the model, those of the most multiply-adds, that probes are built of; 0 for no
            preflight.
        max_seconds: Longest time for one probe; of each kind of layer there are about a dozen.
    """

    layers: Annotated[int, Field(ge=0, le=1_000)] = 2
    max_seconds: Annotated[float, Field(gt=0, le=MOST_SECONDS)] = 0.4
