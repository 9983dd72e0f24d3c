"""The study file: TOML, parsed by pydantic, with errors that name file, key, value and remedy."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..errors import StudyFileError
from ..search.gates import GateCheck
from ..search.objectives import LIMITS, OBJECTIVES, Objective, bounded_limits, latency_on, parse_bound, with_bounds
from ..search.sampler import SamplerName
from ..spaces.build_settings import BuildSettings
from ..spaces.cells.axis import CellsAxis
from ..spaces.exits.axis import ExitsAxis
from ..spaces.quantization.axis import BitsAxis
from ..spaces.quantization.settings import QuantizationSettings
from ..spaces.space import SearchSpace
from ..spaces.sparsity.axis import SparsityAxis
from ..spaces.stages.axis import StagesAxis
from ..spaces.students.axis import StudentsAxis
from .spec_faults import batches_with_exits, explain, key_text, unknown_key, wrong_objective
from .target_spec import EACH, TargetSpec, check_targets, fault_of_objective
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

_BUNDLED = Path(__file__).parent


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_BOUNDS = dict(
    zip(
        ("max_size", "max_latency", "min_accuracy", "max_load", "max_memory", "max_energy"),
        (*OBJECTIVES, *LIMITS),
        strict=True,
    )
)
"""What each key of ``[bounds]`` bounds."""


class BoundsSpec(_Section):
    """Bounds; a candidate that breaks one is kept, marked infeasible, and never on the front.

    Args:
        max_size: Bytes on disk.
        max_latency: Time of one run.
        min_accuracy: The metric.
        max_load: Time to open the file.
        max_memory: Memory of a process that opens and runs it, as far as it grows by that.
        max_energy: Energy of one run, where the target tells it.
    """

    max_size: str | float | None = None
    max_latency: str | float | None = None
    min_accuracy: str | float | None = None
    max_load: str | float | None = None
    max_memory: str | float | None = None
    max_energy: str | float | None = None

    @field_validator(*_BOUNDS, mode="before")
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


FurtherObjective = Literal["load", "memory", "energy"]
_FURTHER = dict(zip(get_args(FurtherObjective), LIMITS, strict=True))


class LatencySpec(_Section):
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

    objective: str | None = None
    threads: Annotated[int, Field(ge=1)] = 1
    batch_size: Annotated[int, Field(ge=1)] = 1
    provider: str = "CPUExecutionProvider"
    runtime: Literal["onnxruntime", "openvino"] = "onnxruntime"
    inputs: Literal["real", "random"] = "real"
    max_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.5


class CacheSpec(_Section):
    """Where trained networks are kept, for all studies that name the same place.

    Args:
        folder: The folder, relative to the study file; ``karui-cache`` beside the results folder where left out.
        gigabytes: Size above which those go that were not used for the longest time; at 0 none is kept, and every
            candidate trains its own.
    """

    folder: str | None = None
    gigabytes: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 20.0


class GatesSpec(_Section):
    """What stops a candidate before it is dear.

    Args:
        stop_at: ``draft``: before training, where the size and latency of its untrained file break a bound or are
            dominated whatever its accuracy; ``rungs``: while it trains, where the trainings before it say that it
            will come to too little. Nothing in the list: no gates.
        audit: Share of what would be stopped that goes on all the same, to measure how often gates are wrong.
    """

    stop_at: tuple[GateCheck, ...] = ("draft", "rungs")
    audit: Annotated[float, Field(ge=0, le=1)] = 0.1


class PreflightSpec(_Section):
    """What is tried on the target before the search begins.

    Args:
        layers: Kinds of layers of the model, those of the most multiply-adds, that probes are built of; 0 for no
            preflight.
        max_seconds: Longest time for one probe; of each kind of layer there are about a dozen.
    """

    layers: Annotated[int, Field(ge=0)] = 2
    max_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.4


class StudySpec(_Section):
    """A study: the task, the axes, the bounds and how long to search.

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
        bits, sparsity, students, cells, stages, exits: The axes; one that is left out is not searched.
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

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    task: str = ""
    task_options: dict[str, Any] = Field(default_factory=dict)
    trials: Annotated[int, Field(ge=1)] = 100
    hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    sampler: SamplerName = "tpe"
    followers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    further_objectives: tuple[FurtherObjective, ...] = ()
    workers: Annotated[int, Field(ge=0)] = 1
    candidate_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 120.0
    bits: BitsAxis | None = None
    sparsity: SparsityAxis | None = None
    students: StudentsAxis | None = None
    cells: CellsAxis | None = None
    stages: StagesAxis | None = None
    exits: ExitsAxis | None = None
    recovery: BuildSettings = BuildSettings()
    quantization: QuantizationSettings = QuantizationSettings()
    latency: LatencySpec = LatencySpec()
    target: tuple[TargetSpec, ...] | None = None
    bounds: BoundsSpec = BoundsSpec()
    cache: CacheSpec = CacheSpec()
    artifacts: Annotated[str, Field(min_length=1)] | None = None
    gates: GatesSpec = GatesSpec()
    preflight: PreflightSpec = PreflightSpec()
    folder: Annotated[Path, Field(exclude=True)] = Path()

    _targets_differ = field_validator("target")(check_targets)

    @field_validator("followers", mode="before")
    @classmethod
    def _is_count_or_auto(cls, followers: Any) -> Any:
        # Of two kinds of value, pydantic would tell what is wrong with each.
        if followers != "auto" and (type(followers) is not int or followers < 0):
            raise ValueError("expected a count of 0 or more, or 'auto'")
        return followers

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
        return SearchSpace(
            students=self.students,
            cells=self.cells,
            stages=self.stages,
            sparsity=self.sparsity,
            bits=self.bits,
            exits=self.exits,
        )

    def meaning(self) -> dict[str, Any]:
        """Return what gives the results their meaning: a study goes on only where this is unchanged."""
        # Where data and trained networks lie is no part of it: what was trained by what is told apart by its digest.
        return self.model_dump(
            mode="json",
            exclude={
                **dict.fromkeys(_WITHOUT_MEANING, True),
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
        for name, field in StudySpec.model_fields.items():
            section = getattr(self, name)
            if isinstance(section, BaseModel):
                usual[name] = type(section)().model_dump(mode="json")
            elif not field.is_required():
                default = field.get_default(call_default_factory=True)
                usual[name] = list(default) if isinstance(default, tuple) else default  # as JSON has it
        return usual


def bundled_studies() -> list[str]:
    """Return the names of the studies that karui brings along."""
    return sorted(path.stem for path in _BUNDLED.glob("*.toml"))


def load_spec(study: str | Path) -> StudySpec:
    """Read a study file, or a bundled study by its name.

    Raises:
        StudyFileError: Where there is no such study, or its file is no valid study file.
    """
    path = _find(str(study))
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyFileError(
            "the study file is not valid TOML", where=str(path), got=str(error), remedy="correct that line"
        ) from error
    except OSError as error:
        raise StudyFileError("the study file cannot be read", where=str(path), got=str(error)) from error
    if "folder" in plain:
        raise unknown_key(path, ("folder",), StudySpec)
    return parse_spec({"name": path.stem, **plain, "folder": path.resolve().parent}, path)


def parse_spec(plain: dict[str, Any], path: Path) -> StudySpec:
    """Check the content of a study file.

    Raises:
        StudyFileError: On an unknown key, a wrong type or a value out of range; it lists every fault.
    """
    spec = _validate(plain, path)
    if not spec.task:
        raise StudyFileError(
            "the study file names no task",
            where=f"{path}: task",
            expected='"my_task.py:make_task" or "package.module:make_task"',
            got="nothing",
            remedy='add a line such as  task = "my_task.py:make_task"',
        )
    check_space(spec, path)
    return spec


def change_spec(spec: StudySpec, changes: dict[str, Any], where: str) -> StudySpec:
    """Return a study with some of its keys changed, checked as if the study file said so.

    Raises:
        StudyFileError: On a value that has no meaning.
    """
    return _validate({**{name: getattr(spec, name) for name in StudySpec.model_fields}, **changes}, where)


def check_space(spec: StudySpec, where: Path | str) -> None:
    """Refuse a study that has nothing to search, or whose latency cannot be measured as its axes need it.

    Raises:
        StudyFileError: Where no axis is given, the objective is no target, or exits are to run several inputs at once.
    """
    if (fault := fault_of_objective(spec.latency.objective, spec.target)) is not None:
        raise wrong_objective(where, spec.latency.objective, *fault)
    if spec.exits is not None and spec.latency.batch_size != 1:
        raise batches_with_exits(where, spec.latency.batch_size)
    if not any((spec.bits, spec.sparsity, spec.students, spec.cells, spec.stages, spec.exits)):
        raise StudyFileError(
            "the study searches nothing: it has no axis",
            where=str(where),
            expected="at least one of the sections [bits], [sparsity], [students], [cells], [stages], [exits]",
            got="none of them",
            remedy="add a section, for example  [bits]  with  weights = [4, 8, 32]",
        )


def _find(study: str) -> Path:
    if study in bundled_studies():
        return _BUNDLED / f"{study}.toml"
    path = Path(study)
    if path.is_file():
        return path
    if path.is_dir():
        raise StudyFileError("a study file was expected, not a folder", where=study, remedy="name the .toml file in it")
    nearby = [str(candidate) for candidate in (path.parent if str(path.parent) else Path()).glob("*.toml")]
    near = difflib.get_close_matches(study, [*bundled_studies(), *nearby], n=1, cutoff=0.5)
    suggestion = f"did you mean {near[0]}? " if near else ""
    raise StudyFileError(
        f"there is no study {study!r}",
        expected=f"a study file (.toml), or one of the bundled studies: {', '.join(bundled_studies())}",
        got="no such file" if path.suffix == ".toml" else "an unknown name",
        remedy=f"{suggestion}`karui init NAME` writes a study file to start from",
    )


def _validate(plain: dict[str, Any], where: Path | str) -> StudySpec:
    if (location := _find_boolean(plain)) is not None:
        # pydantic would take true for 1.
        raise StudyFileError(
            "the study file says something that has no meaning",
            where=f"{where}: {key_text(location)}",
            expected="a number, a text, a list or a section",
            got="true or false",
            remedy="correct the value",
        )
    try:
        return StudySpec.model_validate(plain)
    except ValidationError as error:
        raise explain(error, where, StudySpec) from None


def _find_boolean(thing: Any, location: tuple[int | str, ...] = ()) -> tuple[int | str, ...] | None:
    if isinstance(thing, bool):
        return location
    parts = thing.items() if isinstance(thing, dict) else enumerate(thing) if isinstance(thing, list) else ()
    found = (_find_boolean(part, (*location, key)) for key, part in parts if (*location, key) != ("task_options",))
    return next((place for place in found if place is not None), None)
