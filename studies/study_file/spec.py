"""A study, as its file says it: the task, the axes, the bounds and how long to search."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, create_model, field_validator
from pydantic_core import to_jsonable_python

from ...evaluators.metric import METRICS
from ...search.objectives import LIMITS, Objective, latency_on
from ...search.proposals import SamplerName
from ...spaces.axes.axis import all_axes
from ...spaces.axis_registry import AXES
from ...spaces.building.build_settings import BuildSettings
from ...spaces.rounding.settings import QuantizationSettings
from ...spaces.section import Section, Text, count_or_auto
from ...spaces.space import AnyAxis, SearchSpace
from .spec_faults import explain
from .spec_sections import BoundsSpec, CacheSpec, GatesSpec, LatencySpec, PreflightSpec
from .target_spec import EACH, MOST_IN_NAME, TargetSpec, check_targets
from .target_spec import WITHOUT_MEANING as OF_TARGETS_WITHOUT_MEANING

_WITHOUT_MEANING = (
    "name",
    "trials",
    "hours",
    "seed",
    "sampler",
    "followers",
    "workers",
    "candidate_minutes",
    "cache",
    "artifacts",
    "gates",
    "preflight",
)
"""Keys that decide how long, how fast and in which order is searched, but not what a result means."""

MOST_TRIALS = 1_000_000
MOST_SEED = 2**31
"""Beside the number of a trial, which is added to it, what numpy takes as a seed: below 2 ** 32."""

if TYPE_CHECKING:
    FurtherObjective = str
else:
    FurtherObjective = Literal[METRICS.names]

_FURTHER = dict(zip(METRICS.names, LIMITS, strict=True))


_WHERE: ContextVar[str] = ContextVar("where", default="StudySpec(...)")


@contextmanager
def told_at(where: Path | str) -> Iterator[None]:
    """Have the errors of studies that are made meanwhile name where the study is from."""
    token = _WHERE.set(str(where))
    try:
        yield
    finally:
        _WHERE.reset(token)


class WithoutAxes(Section):
    """A study: the task, the axes, the bounds and how long to search.

    Each axis that there is has a section by its name (:data:`~karui.spaces.axis_registry.AXES`); one that is left out
    is not searched.

    Args:
        name: Name of the study, also of its folder under ``runs/``.
        task: ``file.py:function`` (relative to the study file) or ``dotted.module:function``; returns a Task.
        task_options: Keyword arguments of that function.
        trials: Candidates to evaluate.
        hours: Longest time of one run of the search; no limit where left out.
        seed: Seed of the sampler, and of all training where the study begins with it.
        sampler: ``tpe``, ``nsga2``, ``nsga3``, ``gp`` or ``random``.
        workers: Processes that make and measure candidates; 0 to do it in the search's own process, where nothing
            that a candidate does to its process is survived.
        candidate_minutes: Longest time for one candidate, waiting included; it has failed after that; as many times as
            long for one that is trained for so many times the epochs.
        followers: Trials that share a newly trained network and differ in bits and exits only, queued right after it;
            ``auto`` for as many as are expected to win more a second than a new network would.
        further_objectives: What is searched for beside size, latency and accuracy: ``load``, ``memory``, ``energy``.
        recovery: How accuracy is won back.
        quantization: How weights and activations are rounded, whatever their bits.
        latency: How latency is measured.
        target: The devices on which it is measured, written ``[[target]]``; this machine where left out.
        bounds: Bounds on size, latency, accuracy, load time, memory and energy.
        cache: Where trained networks are kept.
        artifacts: Where the files of all machines of a search are kept: a folder that they share, relative to the
            study file, or an fsspec URL such as ``s3://bucket/karui``; in the results folder alone where left out.
        gates: What stops a candidate before it is dear.
        preflight: What is tried on the target before the search begins.
        folder: Where the study file lies; set when it is read.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=MOST_IN_NAME)]
    task: Text = ""
    task_options: dict[str, Any] = Field(default_factory=dict)
    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] = 100
    hours: Annotated[float, Field(gt=0, le=1e6)] | None = None
    seed: Annotated[int, Field(ge=0, le=MOST_SEED)] = 0
    sampler: SamplerName = "tpe"
    followers: Annotated[int | Literal["auto"], count_or_auto(0, MOST_TRIALS)] = "auto"
    further_objectives: Annotated[tuple[FurtherObjective, ...], Field(max_length=16, strict=False)] = ()
    workers: Annotated[int, Field(ge=0, le=1_024)] = 1
    candidate_minutes: Annotated[float, Field(gt=0, le=1e6)] = 120.0
    recovery: BuildSettings = BuildSettings()
    quantization: QuantizationSettings = QuantizationSettings()
    latency: LatencySpec = LatencySpec()
    target: Annotated[tuple[TargetSpec, ...], Field(max_length=64, strict=False)] | None = None
    bounds: BoundsSpec = BoundsSpec()
    cache: CacheSpec = CacheSpec()
    artifacts: Annotated[Text, Field(min_length=1)] | None = None
    gates: GatesSpec = GatesSpec()
    preflight: PreflightSpec = PreflightSpec()
    folder: Annotated[Path, Field(exclude=True)] = Path()

    def __init__(self, /, **keys: Any) -> None:
        """Make a study of the keys of a study file.

        Raises:
            StudyFileError: On an unknown key, a wrong type or a value out of range; it lists every fault.
        """
        try:
            super().__init__(**keys)
        except ValidationError as error:
            raise explain(error, _WHERE.get(), type(self)) from None

    _targets_differ = field_validator("target")(check_targets)

    @field_validator("task_options")
    @classmethod
    def _can_be_kept(cls, options: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(to_jsonable_python(options), ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"options of a task are numbers, texts, flags, lists and sections ({reason})") from None
        return options

    @field_validator("further_objectives")
    @classmethod
    def _differ(cls, names: tuple[FurtherObjective, ...]) -> tuple[FurtherObjective, ...]:
        if len(set(names)) < len(names):
            raise ValueError("an objective is named twice; once is enough")
        return names

    def objectives(self) -> tuple[Objective, ...]:
        """Return what is searched for, with bounds: size, latency and accuracy first, in that order.

        After them come the latencies on all targets but the first, where each target counts, then the further ones.
        """
        named = [target.name for target in self.target or ()]
        others = named[1:] if self.latency.objective == EACH else []
        further = (self.bounds.of(_FURTHER[name]) for name in self.further_objectives)
        return (*self.bounds.objectives(), *map(latency_on, others), *further)

    def limits(self) -> tuple[Objective, ...]:
        """Return what has a bound without being an objective."""
        further = {_FURTHER[name].name for name in self.further_objectives}
        return tuple(limit for limit in self.bounds.limits() if limit.name not in further)

    @property
    def space(self) -> SearchSpace:
        """The search space of the axes."""
        return SearchSpace(**{name: getattr(self, name) for name in AXES.names})

    def axis(self, kind: type[AnyAxis]) -> AnyAxis | None:
        """Return the axis of a kind; None where it is not searched."""
        return self.space.axis(kind)

    def meaning(self) -> dict[str, Any]:
        """Return what gives the results their meaning: a study goes on only where this is unchanged."""
        # Where data and trained networks lie is no part of it: what was trained by what is told apart by its digest.
        # Nor is that a package is installed whose axis is not searched.
        absent = {name: True for name in AXES.names if name not in AXES.own and getattr(self, name) is None}
        return self.model_dump(
            mode="json",
            exclude={
                **dict.fromkeys(_WITHOUT_MEANING, True),
                **absent,
                "task_options": {"data_dir"},
                # What is trained for longer is a candidate of its own, and says for how long.
                "recovery": {"final_factor"},
                "target": {"__all__": OF_TARGETS_WITHOUT_MEANING},
            },
        )

    def usual(self) -> dict[str, Any]:
        """Return what each key means that a study file leaves out, of the sections that it has.

        What a study begun with an earlier version does not name, since there was no such key, was so then.
        """
        usual: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            section = getattr(self, name)
            if isinstance(section, BaseModel):
                usual[name] = type(section)().model_dump(mode="json")
            elif not field.is_required():
                default = field.get_default(call_default_factory=True)
                usual[name] = list(default) if isinstance(default, tuple) else default  # as JSON has it
        return usual


if TYPE_CHECKING:

    class StudySpec(WithoutAxes):
        """A study, with a section for each axis that there is."""

        def __init__(self, /, **keys: Any) -> None: ...

else:
    _SECTIONS: dict[str, tuple[Any, None]] = {name: (axis | None, None) for name, axis in all_axes().items()}
    StudySpec = create_model(
        "StudySpec", __base__=WithoutAxes, __module__=__name__, __doc__=WithoutAxes.__doc__, **_SECTIONS
    )
