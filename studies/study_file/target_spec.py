"""The ``[[target]]`` sections of a study file: on which devices latency is measured, and how each is reached."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from ...errors import StudyFileError
from ...evaluators.targets.target import TARGETS
from ...spaces.section import STRICT, Text
from .spec_sections import MOST_SECONDS, RuntimeName, Threads

if TYPE_CHECKING:
    from ...evaluators.targets.target import Target

MOST_IN_NAME = 100
"""Characters of a name that is part of the names of files and columns."""

WORST, EACH = "worst", "each"
"""Objectives that are no target: the one on which a file is slowest beside its reference; and all of them."""

WITHOUT_MEANING = {"ssh_config": True, "timeout_seconds": True}
"""Keys of a target that decide how it is reached, and not what is measured there."""

_NEEDED = {"local": (), "ssh": ("host",), "command": ("command",)}
_ALLOWED = {"local": ("runtime",), "ssh": ("host", "python", "ssh_config"), "command": ("command", "timeout_seconds")}
_DEFAULTS: dict[str, Any] = {
    "runtime": None,
    "host": None,
    "python": None,
    "ssh_config": None,
    "command": None,
    "timeout_seconds": None,
    "options": None,
}
_OF_PACKAGES = ("options",)
"""Keys of targets that other packages add."""

if TYPE_CHECKING:
    TargetKind = str
else:
    TargetKind = Literal[TARGETS.names]


class TargetSpec(BaseModel):
    """One device.

    Args:
        name: Its name in results, such as ``latency_ms@pi5``.
        kind: ``local``: this machine; ``ssh``: a device that the system's ssh reaches; ``command``: a program of the
            user's own, see ``docs/targets.md``; or what an installed package adds.
        threads: Threads within an operator; those of ``[latency]`` where left out.
        provider: Execution provider of onnxruntime there; that of ``[latency]`` where left out.
        runtime: What runs the files, of a ``local`` target; that of ``[latency]`` where left out.
        host: As ``ssh`` takes it: a name, an address or an alias, perhaps after ``user@``.
        python: The interpreter on the device that has numpy and onnxruntime; ``python3`` where left out.
        ssh_config: File that ssh reads instead of the user's own settings, relative to the study file.
        command: The program and its first arguments; run where the study file lies, and never by a shell.
        timeout_seconds: Longest time for one run of the program; 300 where left out.
        options: What a target that a package adds is told besides.
    """

    model_config = STRICT

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=MOST_IN_NAME)]
    kind: TargetKind
    threads: Threads | None = None
    provider: Text | None = None
    runtime: RuntimeName | None = None
    host: Text | None = None
    python: Annotated[Text, Field(min_length=1)] | None = None
    ssh_config: Annotated[Text, Field(min_length=1)] | None = None
    command: Annotated[tuple[Text, ...], Field(min_length=1, max_length=1_000, strict=False)] | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=MOST_SECONDS)] | None = None
    options: dict[str, Any] | None = None

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not given: studies from before there were options go on."""
        plain: dict[str, Any] = write(self)
        if plain.get("options") is None:
            plain.pop("options", None)
        return plain

    @field_validator("name")
    @classmethod
    def _is_no_objective(cls, name: str) -> str:
        if name in (WORST, EACH):
            raise ValueError(f"{name!r} is what `objective` in [latency] may say, so no target can be called so")
        return name

    @field_validator("host")
    @classmethod
    def _is_host(cls, host: str | None) -> str | None:
        from ...evaluators.targets.ssh_device import fault_of_host

        if host is not None and (fault := fault_of_host(host)) is not None:
            raise ValueError(f"{host!r} {fault}; expected a host as ssh takes it, such as pi@raspberrypi.local")
        return host

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        for key in _NEEDED.get(self.kind, ()):
            if getattr(self, key) is None:
                raise ValueError(f"a target of kind {self.kind!r} needs the key {key!r}")
        for key in _DEFAULTS:
            if getattr(self, key) is not None and key not in _ALLOWED.get(self.kind, _OF_PACKAGES):
                kinds = next((kind for kind, keys in _ALLOWED.items() if key in keys), "of another package")
                raise ValueError(f"{key!r} is a key of targets of kind {kinds!r}, and this one is {self.kind!r}")
        return self

    def open(self, threads: int, provider: str, runtime: str, folder: Path, tell: Callable[[str], None]) -> Target:
        """Make the target; nothing is connected yet.

        Args:
            threads: Where it says none itself.
            provider: Where it says none itself.
            runtime: Where it says none itself.
            folder: Where the study file lies.
            tell: Is told in a few words what the target waits for.

        Raises:
            KaruiError: Where this machine lacks the provider.
        """
        from ...evaluators.targets.quarantine import Quarantine

        options: dict[str, Any] = {key: getattr(self, key) for key in _ALLOWED.get(self.kind, ())}
        options = {key: value for key, value in options.items() if value is not None}
        if "ssh_config" in options:
            options["ssh_config"] = folder / Path(options["ssh_config"]).expanduser()
        if self.kind == "command":
            options["folder"] = folder.absolute()
        options |= self.options or {}
        options |= {"threads": self.threads or threads, "provider": self.provider or provider}
        if self.kind == "local":
            return TARGETS["local"](**{"runtime": runtime, **options})
        make = TARGETS[self.kind]
        if self.options:
            self._check_options(make, {"name": self.name, "tell": tell, **options})
        return Quarantine(make(name=self.name, tell=tell, **options), tell)

    def _check_options(self, make: Callable[..., Target], given: dict[str, Any]) -> None:
        parameters = inspect.signature(make).parameters
        usual = {"name", "tell", "threads", "provider"}
        if not set(given) <= set(parameters):
            raise StudyFileError(
                f"the target {self.name!r} takes other options",
                where="target.options",
                expected=f"some of {', '.join(sorted(set(parameters) - usual)) or 'none'}",
                got=", ".join(sorted(set(given) - set(parameters))),
                remedy="correct the key",
            )


def check_targets(targets: tuple[TargetSpec, ...] | None) -> tuple[TargetSpec, ...] | None:
    """Return the targets, whose names must differ.

    Raises:
        ValueError: Where there are none, or two of one name.
    """
    if targets is None:
        return None
    names = [target.name for target in targets]
    if not names:
        raise ValueError("a list without targets; leave it out to measure on this machine")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two targets are called {twice[0]!r}; each needs a name of its own")
    return targets


def fault_of_objective(objective: str | None, targets: tuple[TargetSpec, ...] | None) -> tuple[str, str] | None:
    """Say what is wrong with an objective, and what was expected; None where it is a target, the worst, or each."""
    names = [target.name for target in targets or ()]
    expected = ", ".join(map(repr, (WORST, EACH, *names)))
    if objective is None or objective in (WORST, EACH, *names):
        return None
    return "the objective is no target of this study", expected
