"""``config.json`` of a bundle: what it holds, as a model that also gives its JSON schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import OutputError
from ...spaces.building.recipe import steps_of
from ...spaces.candidate import Candidate
from ...spaces.step import Step
from .samples import TaskPaper

CONFIG, SCHEMA, SAMPLES = "config.json", "config.schema.json", "samples/samples.npz"

TOLERANCE = 1e-3
"""Largest difference of a sample's outputs from the expected ones, as a share of the largest expected output.

As at export: what two processors' orders of adding may make of float32."""

TOLERANCE_OF_INTEGERS = 2e-2
"""The same beside 8-bit activations: a value at the edge between two steps falls to either side, one step apart."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256, hexadecimal.")]


class MeasurementPaper(BaseModel):
    """One measured number."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    name: str = Field(description="What was measured, with its unit.")
    value: float
    unit: Literal["bytes", "ms", "1"]
    spread: float = Field(
        ge=0, description="Half the width of the 95 % interval, in the same unit; 0 for what is exact."
    )
    count: int = Field(ge=1, description="How many samples stand behind it.")
    conditions: dict[str, Any] = Field(description="Under what it was measured.")


class TaskOfBundle(BaseModel):
    """What whoever runs the file has to know of the task."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    metric: str = Field(description="What the metric is called.")
    top1: bool = Field(description="Whether it is the share of rows whose largest output is the target class.")
    input_shape: list[int] | dict[str, list[int]] = Field(
        description="Shape of one input, without the batch axis; by name where there are several."
    )
    input_type: str | dict[str, str] = Field(
        default="float32", description="Type of an input's numbers, as numpy calls it; by name where there are several."
    )
    outputs: list[str] = Field(default=[], description="Names of the file's outputs where they have their own.")
    preprocessing: dict[str, Any] | str | None = Field(description="How raw data become inputs, as the task tells it.")
    labels: list[str] = Field(description="Names of the outputs, in their order.")


class SamplesOfBundle(BaseModel):
    """Inputs of the test split, and what the file answered to them when it was measured."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    file: str
    count: int = Field(ge=1)
    tolerance: float = Field(
        gt=0, description="Largest difference from the expected outputs, as a share of the largest of these."
    )


class BundleConfig(BaseModel):
    """What the file model.onnx beside this one is, and how it was measured."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, title="config.json of a karui bundle")
    json_schema: Literal["config.schema.json"] = Field(alias="$schema")
    format: Literal[2]
    study: str
    point: str = Field(description="Its name on the study's front.")
    trial: int = Field(ge=0)
    summary: str = Field(description="The candidate in words.")
    candidate: dict[str, Any] = Field(description="What was made: architecture, sparsity, bits.")
    parameters: dict[str, Any] = Field(description="What the sampler chose.")
    notes: list[str] = Field(default=[], description="What was made otherwise than the candidate says, and why.")
    measurements: dict[str, MeasurementPaper] = Field(description="Of this file, by name.")
    baseline: dict[str, MeasurementPaper] = Field(description="Of the float32 model, by name.")
    holds: bool = Field(description="Whether no other point dominated it when the front was measured again.")
    sha256: Digest
    key: str
    versions: dict[str, str]
    task: TaskOfBundle | None = Field(description="None where an earlier version of karui certified the front.")
    samples: SamplesOfBundle | None = Field(description="None where an earlier version of karui certified the front.")


def bundle_config(described: dict[str, Any], paper: TaskPaper | None, sample_count: int) -> dict[str, Any]:
    """Return what ``config.json`` of a bundle says.

    Args:
        described: What lies beside the file in the results folder.
        paper: What is known of the task.
        sample_count: Samples with expected outputs; 0 for none.
    """
    integers = any(step.in_integers for step in steps_in(described))
    samples = {
        "file": SAMPLES,
        "count": sample_count,
        "tolerance": TOLERANCE_OF_INTEGERS if integers else TOLERANCE,
    }
    task = None if paper is None else TaskOfBundle(**vars(paper) | _lists(paper)).model_dump()
    if task is not None and not task["outputs"]:
        del task["outputs"]  # earlier versions of karui do not know it
    return {
        "$schema": SCHEMA,
        **described,
        "format": 2,
        "task": task,
        "samples": samples if sample_count else None,
    }


def steps_in(config: Mapping[str, Any]) -> tuple[Step, ...]:
    """Return the steps that made the file which a ``config.json``, or what lies beside a file, is about."""
    return steps_of(Candidate.from_dict(config["candidate"]).canonical())


def _lists(paper: TaskPaper) -> dict[str, Any]:
    shape = paper.input_shape
    by_name = isinstance(shape, dict)
    plain = {name: list(each) for name, each in shape.items()} if by_name else list(shape)
    return {"input_shape": plain, "labels": list(paper.labels), "outputs": list(paper.outputs)}


def config_schema() -> dict[str, Any]:
    """Return the JSON schema of ``config.json`` (draft 2020-12)."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **BundleConfig.model_json_schema(by_alias=True)}


def read_config(text: str, where: str) -> BundleConfig:
    """Read ``config.json``.

    Raises:
        OutputError: Where it is no JSON, or not as its schema says, naming the first key at fault.
    """
    try:
        return BundleConfig.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the whole"
        raise OutputError(
            f"{CONFIG} is not as its schema says",
            where=f"{where}: {key}",
            expected=first["msg"],
            got=repr(first["input"])[:120],
            remedy="export the bundle again",
        ) from error
    except (ValueError, RecursionError) as error:
        raise OutputError(
            f"{CONFIG} is no JSON", where=where, got=str(error), remedy="export the bundle again"
        ) from error
