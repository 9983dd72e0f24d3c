"""Network to ONNX, with proof that the file computes what the network computes."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from ....errors import CandidateFailure
from ...data.lengths import Varying, check_varying, other_lengths, own_varying
from ...networks.parametrizations import fold_parametrizations
from ...networks.quiet import quiet
from ...networks.running import outputs_of
from ..format import PARITY_SAMPLES as PARITY_SAMPLES
from .identities import remove_identities as remove_identities
from .known_shapes import fold_known_shapes
from .onnx_file import constants_to_initializers, names_in_subgraphs, open_session, read_model, write_model
from .padding import fuse_padding
from .symbolics import register_symbolics

OPSET = 18
"""The set of operators of every file, which runtimes know since early 2023 (onnxruntime 1.14)."""

PARITY_TOLERANCE = 1e-3
"""Largest difference between file and network, relative to the largest output (at least 1)."""

_STAGE = "export"

_BATCH_SIZE = ", not of another size: is it read as a number, as by len(x)? x.shape[0] is followed"

_TRACING = threading.Lock()
"""Held while torch's exporter runs, which cannot do so in two threads at once."""


def export_onnx(network: nn.Module, example: Tensor, path: Path, *, varying: Varying | None = None) -> None:
    """Write a network as one ONNX file and check, on two batch sizes and several batches, that it computes the same.

    The caller's network is left as it is: a copy is exported, on the CPU and in evaluation mode, its parametrizations
    folded. So is the example, even where the network changes its input in place.

    Args:
        network: Takes one batch and returns one tensor whose first axis is the batch.
        example: A batch of inputs, shape (n, *input_shape), n >= 1; the file takes inputs of its type.
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
    if example.ndim < 1 or len(example) < 1:
        raise ValueError(f"the example must be a batch of at least one input, got shape {tuple(example.shape)}")
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


def _file_of(module: nn.Module, expected: list[tuple[Tensor, np.ndarray]], varying: Varying) -> onnx.ModelProto:
    """Return the network as a file, compared with it on all batches and at other lengths of the axes that vary."""
    example, output = expected[0]
    answers = list(_at_other_lengths(module, example, varying))
    shapes = {answer.shape[1:] for _, _, answer in answers if answer is not None} | {output.shape[1:]}
    model = _trace(module, example, varying, _varying_axes(shapes))
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


def _batches_to_compare(example: Tensor) -> list[Tensor]:
    """Return the example, one row more, and each other row in front, which a network may branch on."""
    # The rows are rolled so that a graph that ignores its input cannot pass on the second batch by chance.
    longer = torch.cat([example, example[:1]]).roll(1, dims=0)
    return [example, longer, *(example.roll(-row, dims=0) for row in range(1, min(len(example), PARITY_SAMPLES)))]


def _unlike(example: Tensor) -> list[Tensor]:
    """Return batches unlike the example, on which a network that branches on values may take another branch."""
    return [-example, torch.zeros_like(example)] if example.is_floating_point() else []


def _answered(module: nn.Module, batches: list[Tensor]) -> list[tuple[Tensor, np.ndarray]]:
    """Return those batches that the network answers, with its answers."""
    answered = []
    for batch in batches:
        with contextlib.suppress(CandidateFailure):
            answered.append((batch, _torch_output(module, batch)))
    return answered


def _at_other_lengths(
    module: nn.Module, example: Tensor, varying: Varying
) -> Iterator[tuple[str, Tensor, np.ndarray | None]]:
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


def _torch_output(module: nn.Module, batch: Tensor) -> np.ndarray:
    try:
        with torch.no_grad():
            output = outputs_of(module, batch)
    except Exception as error:  # a user's forward may raise anything
        raise CandidateFailure(
            _STAGE, f"{type(module).__name__} fails on a batch of {len(batch)}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(output, Tensor):
        raise CandidateFailure(
            _STAGE, f"{type(module).__name__} must return one tensor, it returns {type(output).__name__}"
        )
    if output.ndim < 1 or len(output) != len(batch):
        raise CandidateFailure(
            _STAGE,
            f"the first axis of the output must be the batch of {len(batch)}, the output has shape "
            f"{tuple(output.shape)}",
        )
    if output.dtype == torch.bfloat16:
        raise CandidateFailure(_STAGE, f"the output of {type(module).__name__} is in bfloat16, which no file gives")
    array: np.ndarray = output.numpy()
    if not np.isfinite(array).all():
        raise CandidateFailure(_STAGE, f"the output of {type(module).__name__} holds a non-finite value (NaN or inf)")
    return array


def _trace(module: nn.Module, example: Tensor, varying: Varying, of_output: Varying) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory(prefix="karui-export-") as folder, _TRACING, quiet():
        traced = Path(folder) / "traced.onnx"
        register_symbolics(OPSET)
        try:
            torch.onnx.export(
                module,
                (example.clone(),),
                str(traced),
                dynamo=False,
                opset_version=OPSET,
                input_names=["input"],
                output_names=["output"],
                dynamic_axes={"input": {0: "batch", **varying}, "output": {0: "batch", **of_output}},
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


def _check_parity(
    model: onnx.ModelProto, batch: np.ndarray, expected: np.ndarray, how: str = "", hint: str = ""
) -> None:
    try:
        output = _run(model, batch)
    except Exception as error:  # the runtime's own exceptions share no base class below Exception
        raise CandidateFailure(_STAGE, f"the file fails on a batch of {len(batch)}{how}{hint}: {error}") from error
    if output.shape != expected.shape:
        raise CandidateFailure(
            _STAGE,
            f"parity: on a batch of {len(batch)}{how} the file's output has shape {output.shape}, the network's "
            f"{expected.shape}",
        )
    difference = float(np.abs(output.astype(np.float64) - expected).max(initial=0.0))
    allowed = PARITY_TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0.0)))
    if not difference <= allowed:
        raise CandidateFailure(
            _STAGE,
            f"parity: on a batch of {len(batch)}{how} the file's output differs by {difference:.3g} "
            f"(allowed {allowed:.3g})",
        )


def _is_answered(model: onnx.ModelProto, batch: np.ndarray) -> bool:
    try:
        _run(model, batch)
    except Exception:  # as above
        return False
    return True


def _run(model: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    session = open_session(model)
    (output,) = session.run(None, {session.get_inputs()[0].name: batch} if session.get_inputs() else {})
    return np.asarray(output)
