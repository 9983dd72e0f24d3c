"""Network to ONNX, with proof that the file computes what the network computes."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from ....errors import CandidateFailure
from ...data.batches import Inputs
from ...data.lengths import Varying, check_varying, other_lengths, own_varying
from ...data.named import Named, describe_shapes, is_floating, joined, map_parts, parts_of
from ...data.structures import OUTPUT
from ...networks.parametrizations import fold_parametrizations
from ...networks.quiet import quiet
from ...networks.running import outputs_of
from ..format import PARITY_SAMPLES as PARITY_SAMPLES
from .identities import remove_identities as remove_identities
from .known_shapes import fold_known_shapes
from .onnx_file import Arrays, constants_to_initializers, names_in_subgraphs, read_model, run_in_batches, write_model
from .padding import fuse_padding
from .symbolics import register_symbolics

INPUT = "input"
"""Name of the only input of a network that takes one tensor."""

OPSET = 18
"""The set of operators of every file, which runtimes know since early 2023 (onnxruntime 1.14)."""

PARITY_TOLERANCE = 1e-3
"""Largest difference between file and network, relative to the largest output (at least 1)."""

_STAGE = "export"

_BATCH_SIZE = ", not of another size: is it read as a number, as by len(x)? x.shape[0] is followed"

_TRACING = threading.Lock()
"""Held while torch's exporter runs, which cannot do so in two threads at once."""


def export_onnx(network: nn.Module, example: Inputs, path: Path, *, varying: Varying | None = None) -> None:
    """Write a network as one ONNX file and check, on two batch sizes and several batches, that it computes the same.

    The caller's network is left as it is: a copy is exported, on the CPU and in evaluation mode, its parametrizations
    folded. So is the example, even where the network changes its input in place.

    Args:
        network: Takes one batch and returns one tensor, or named ones, whose first axis is the batch.
        example: A batch of inputs, shape (n, *input_shape), n >= 1; the file takes inputs of its type. Of named ones
            the file has an input each, of that name.
        path: Where the file goes; it is written whole or not at all.
        varying: Names of the axes of the input, beside the batch, whose length may vary, such as ``{1: "steps"}``; the
            file is compared with the network at other lengths as well. Where None, the second axis of integers of shape
            (n, length), which are token ids, varies if file and network agree at a shorter and a longer length, or both
            refuse it; ``{}`` for none.

    Raises:
        CandidateFailure: Where the network cannot be traced, returns something else than one tensor with the batch
            first, computes a non-finite value, or differs from its file by more than ``PARITY_TOLERANCE``; with
            ``varying`` also where it takes no other length, or the file differs there.
        ValueError: Where the example is empty, or ``varying`` names no axes of it.
    """
    if any(part.ndim < 1 or len(part) < 1 for part in parts_of(example).values()):
        raise ValueError(f"the example must be a batch of at least one input, got shape {describe_shapes(example)}")
    check_varying(varying or {}, example)
    module = _evaluation_copy(network)
    example = example.detach().cpu()
    expected = [(batch, _torch_output(module, batch)) for batch in _batches_to_compare(example)]
    expected += _answered(module, _unlike(example))
    free = own_varying(example) if varying is None else varying
    if free:
        try:
            write_model(_file_of(module, expected, free), path, _STAGE)
            return
        except CandidateFailure:
            if varying is not None:
                raise
    write_model(_file_of(module, expected, {}), path, _STAGE)


def _file_of(module: nn.Module, expected: list[tuple[Inputs, Arrays]], varying: Varying) -> onnx.ModelProto:
    """Return the network as a file, compared with it on all batches and at other lengths of the axes that vary."""
    example, output = expected[0]
    answers = list(_at_other_lengths(module, example, varying))
    seen = [parts_of(each, OUTPUT) for each in (output, *(answer for *_, answer in answers if answer is not None))]
    of_outputs = {name: _varying_axes({parts[name].shape[1:] for parts in seen}) for name in seen[0]}
    model = _trace(module, example, varying, of_outputs)
    remove_identities(model)
    constants_to_initializers(model)
    if not names_in_subgraphs(model):
        fold_known_shapes(model)
    fuse_padding(model)
    _check(model)
    for batch, wanted in expected:
        _check_parity(model, batch.numpy(), wanted, hint="" if len(batch) == len(example) else _BATCH_SIZE)
    for how, batch, answer in answers:
        if answer is not None:
            _check_parity(model, batch.numpy(), answer, f" with {how}")
        elif _is_answered(model, batch.numpy()):
            raise CandidateFailure(_STAGE, f"the network takes no input with {how}, and the file would answer to it")
    if answers and all(answer is None for _, _, answer in answers):
        names = " or ".join(varying.values())
        raise CandidateFailure(_STAGE, f"the network takes no other number of {names} than it was shown")
    return model


def _batches_to_compare(example: Inputs) -> list[Inputs]:
    """Return the example, one row more, and each other row in front, which a network may branch on."""
    # The rows are rolled so that a graph that ignores its input cannot pass on the second batch by chance.
    rows = min(len(example), PARITY_SAMPLES)
    return [example, _rolled(joined([example, example[:1]]), 1), *(_rolled(example, -row) for row in range(1, rows))]


def _rolled(batch: Inputs, rows: int) -> Inputs:
    return map_parts(lambda part: part.roll(rows, dims=0), batch)


def _unlike(example: Inputs) -> list[Inputs]:
    """Return batches unlike the example, on which a network that branches on values may take another branch."""
    if not is_floating(example):
        return []
    return [
        map_parts(lambda part: -part if part.is_floating_point() else part, example),
        map_parts(lambda part: torch.zeros_like(part) if part.is_floating_point() else part, example),
    ]


def _answered(module: nn.Module, batches: list[Inputs]) -> list[tuple[Inputs, Arrays]]:
    """Return those batches that the network answers, with its answers."""
    answered = []
    for batch in batches:
        with contextlib.suppress(CandidateFailure):
            answered.append((batch, _torch_output(module, batch)))
    return answered


def _at_other_lengths(
    module: nn.Module, example: Inputs, varying: Varying
) -> Iterator[tuple[str, Inputs, Arrays | None]]:
    """Yield how inputs differ, such inputs, and what the network answers; None where it takes none that differ so."""
    for how, batches in other_lengths(example, varying):
        answer = None
        for batch in batches:
            with contextlib.suppress(CandidateFailure):
                answer = _torch_output(module, batch)
                break
        yield how, batch, answer


def _varying_axes(shapes: set[tuple[int, ...]]) -> dict[int, str]:
    """Return the axes of the output, beside the batch, whose length differs among its shapes."""
    ranks = {len(shape) for shape in shapes}
    if len(ranks) > 1:
        raise CandidateFailure(_STAGE, "the number of the output's axes depends on the length of the input")
    return {axis: f"output_{axis}" for axis, sizes in enumerate(zip(*shapes, strict=True), 1) if len(set(sizes)) > 1}


def _evaluation_copy(network: nn.Module) -> nn.Module:
    try:
        # The very module is put into evaluation mode: a wrapper's own flag does not reach what it wraps.
        return fold_parametrizations(network).cpu().eval()
    except (RuntimeError, NotImplementedError) as error:
        raise CandidateFailure(_STAGE, f"{type(network).__name__} cannot be copied: {error}") from error


def _torch_output(module: nn.Module, batch: Inputs) -> Arrays:
    try:
        with torch.no_grad():
            output = outputs_of(module, batch)
    except Exception as error:  # a user's forward may raise anything
        raise CandidateFailure(
            _STAGE, f"{type(module).__name__} fails on a batch of {len(batch)}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(output, (torch.Tensor, Named)):
        raise CandidateFailure(
            _STAGE, f"{type(module).__name__} must return one tensor, it returns {type(output).__name__}"
        )
    for name, part in parts_of(output).items():
        of = f"the output {name}".rstrip()
        if part.ndim < 1 or len(part) != len(batch):
            shown = f"the output has shape {tuple(part.shape)}"
            raise CandidateFailure(_STAGE, f"the first axis of {of} must be the batch of {len(batch)}, {shown}")
        if part.dtype == torch.bfloat16:
            raise CandidateFailure(_STAGE, f"{of} of {type(module).__name__} is in bfloat16, which no file gives")
        if not bool(torch.isfinite(part).all()):
            raise CandidateFailure(_STAGE, f"{of} of {type(module).__name__} holds a non-finite value (NaN or inf)")
    return output.numpy()


def _trace(module: nn.Module, example: Inputs, varying: Varying, of_outputs: Mapping[str, Varying]) -> onnx.ModelProto:
    given = parts_of(example.clone(), INPUT)
    axes = {name: {0: "batch", **varying} for name in given}
    axes |= {name: {0: "batch", **free} for name, free in of_outputs.items()}
    with tempfile.TemporaryDirectory(prefix="karui-export-") as folder, _TRACING, quiet():
        traced = Path(folder) / "traced.onnx"
        register_symbolics(OPSET)
        try:
            torch.onnx.export(
                module,
                tuple(given.values()),
                str(traced),
                dynamo=False,
                opset_version=OPSET,
                input_names=list(given),
                output_names=list(of_outputs),
                dynamic_axes=axes,
            )
        except OSError:
            raise  # a full disk is no fault of the network
        except Exception as error:  # the exporter raises whatever its tracing met
            line = next((text for text in str(error).splitlines() if text.strip()), "")
            raise CandidateFailure(
                _STAGE, f"{type(module).__name__} cannot be exported: {type(error).__name__}: {line}"
            ) from error
        return read_model(traced, _STAGE)


def _check(model: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise CandidateFailure(_STAGE, f"the exported graph is not valid ONNX: {error}") from error


def _check_parity(model: onnx.ModelProto, batch: Arrays, expected: Arrays, how: str = "", hint: str = "") -> None:
    parts = parts_of(expected)
    try:
        given = parts_of(run_in_batches(model, batch, len(batch)), next(iter(parts)))
    except Exception as error:  # the runtime's own exceptions share no base class below Exception
        raise CandidateFailure(_STAGE, f"the file fails on a batch of {len(batch)}{how}{hint}: {error}") from error
    for name, wanted in parts.items():
        output, of = given[name], f"the file's output {name}".rstrip()
        if output.shape != wanted.shape:
            raise CandidateFailure(
                _STAGE,
                f"parity: on a batch of {len(batch)}{how} {of} has shape {output.shape}, the network's {wanted.shape}",
            )
        difference = float(np.abs(output.astype(np.float64) - wanted).max(initial=0.0))
        allowed = PARITY_TOLERANCE * max(1.0, float(np.abs(wanted.astype(np.float64)).max(initial=0.0)))
        if not difference <= allowed:
            raise CandidateFailure(
                _STAGE,
                f"parity: on a batch of {len(batch)}{how} {of} differs by {difference:.3g} (allowed {allowed:.3g})",
            )


def _is_answered(model: onnx.ModelProto, batch: Arrays) -> bool:
    try:
        run_in_batches(model, batch, len(batch))
    except Exception:  # as above
        return False
    return True
