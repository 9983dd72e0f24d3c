"""Whether what was made of a network is right, by answers that are not karui's own.

The float32 network itself answers for every file; a copy of it with the same weights set to zero answers for one with
fewer channels; a copy of which blocks are passed over answers for one of less depth; an unpacked file for a packed one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from karui.errors import CandidateFailure, KaruiError
from karui.spaces.axes.sparsity.channels import remove_channels
from karui.spaces.axes.students.shallower import droppable_blocks, shallower
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.formats.onnx.packing import pack
from karui.spaces.formats.onnx.quantization.half import store_in_half
from karui.spaces.formats.onnx.quantization.quantize import quantize, zero_weights
from karui.spaces.rounding.bit_choice import BitChoice
from karui.spaces.rounding.joint_zeroing import Zeroing
from karui.spaces.rounding.settings import QuantizationSettings

from .case import HELD_OUT, Case, Wrong, answers_of, run
from .levels import (
    BITS,
    CHANNEL_MARGIN_DB,
    RELATIVE_ERROR,
    ZEROS,
    bound_db,
    judge_channels_of_outputs,
    level_db,
    relative_error,
    same,
)
from .twins import fewer_blocks_twin, folded, masked_twins

Making = Callable[[Path, Callable[[str], None]], None]


@dataclass(frozen=True)
class Verdict:
    """What came of one treatment of one network.

    Args:
        kind: ``right``; ``spared`` where it is right, but not all that was asked for; or ``refused``.
        words: Why it was refused, or what was spared.
        level_db: Signal to noise of what was made, where it is not exact.
    """

    kind: str
    words: tuple[str, ...] = ()
    level_db: float | None = None


def judge(case: Case, treatment: str) -> Verdict:
    """Return what comes of a treatment, or raise :class:`Wrong`; what is refused without a reason raises as it is."""
    try:
        return TREATMENTS[treatment](case)
    except (CandidateFailure, KaruiError) as refusal:
        reason = str(refusal)
        if len(reason) < 15 or reason.endswith(": "):
            raise Wrong(f"refused without a reason: {reason!r}") from refusal
        return Verdict("refused", (reason,))


def judge_export(case: Case) -> Verdict:
    before = {name: tensor.clone() for name, tensor in case.network.state_dict().items()}
    example = case.example.clone()
    path = case.exported
    if not torch.equal(example, case.example):
        raise Wrong("the caller's batch was changed")
    if any(not torch.equal(tensor, before[name]) for name, tensor in case.network.state_dict().items()):
        raise Wrong("the caller's network was changed")
    for count in (HELD_OUT, 1, 3):
        same(run(path, case.held_out[:count]), answers_of(case.network, case.held_out[:count]), "the file's answers")
    return Verdict("right")


def judge_half(case: Case) -> Verdict:
    def make(path: Path, note: Callable[[str], None]) -> None:
        noted(store_in_half, note)(case.exported, path)

    return judge_rounded(case, "float16", make)


def judge_bits(case: Case, treatment: str) -> Verdict:
    def make(path: Path, note: Callable[[str], None]) -> None:
        choice = BitChoice(*BITS[treatment])
        settings = QuantizationSettings(rounding=case.animal.rounding)
        inputs = case.calibration.numpy()
        coverage = noted(quantize, note)(case.exported, path, choice, calibration=inputs, settings=settings)
        for left in coverage.left:
            note(left)

    return judge_rounded(case, treatment, make)


def judge_zeros(case: Case) -> Verdict:
    def make(path: Path, note: Callable[[str], None]) -> None:
        noted(zero_weights, note)(case.exported, path, Zeroing(ZEROS), calibration=case.calibration.numpy())
        found = zeros_in(path)
        if found < ZEROS - 0.02:
            note(f"{found:.0%} of the weights are zeros")
            if found < zeros_in(case.exported) + 1e-9 and zeroable(case.exported):
                raise Wrong("no weight was zeroed")

    return judge_rounded(case, "zeros", make)


def judge_rounded(case: Case, treatment: str, make: Making) -> Verdict:
    """Judge a file that may be off by some noise, and its packed form, which may not differ from it at all."""
    loose, packed = case.folder / f"{treatment}.onnx", case.folder / f"{treatment} packed.onnx"
    notes: list[str] = []
    make(loose, notes.append)
    given = run(loose, case.held_out)
    level = level_db(given, case.answers)
    bound, why = bound_db(case, treatment)
    if not level >= bound:
        raise Wrong(f"signal to noise {level:.1f} dB, at least {bound:.1f} expected{why}")
    judge_channels_of_outputs(given, case.answers, bound - CHANNEL_MARGIN_DB)
    pack(loose, packed)
    for count in (HELD_OUT, 3):
        if not np.array_equal(run(packed, case.held_out[:count]), run(loose, case.held_out[:count])):
            raise Wrong("the packed file answers otherwise than the unpacked one")
    if packed.stat().st_size > loose.stat().st_size:
        raise Wrong("the packed file is larger")
    return Verdict("spared" if notes else "right", tuple(notes), level)


def judge_channels(case: Case) -> Verdict:
    fraction = 0.25
    notes: list[str] = []
    original = folded(case.network)
    smaller = noted(remove_channels, notes.append)(case.network, case.example, fraction, multiple=1).eval()
    smaller = folded(smaller)
    small_answers = answers_of(smaller, case.held_out)
    twins = masked_twins(original, smaller)
    errors = [relative_error(small_answers, answers_of(twin, case.held_out)) for twin in twins]
    if not min(errors) <= 10 * RELATIVE_ERROR:
        raise Wrong(
            f"differs from the network with those channels masked by {min(errors):.2g} of its largest output, from "
            f"the whole network by {relative_error(small_answers, case.answers):.2g}"
        )
    kept = kept_shares(original, smaller)
    odd = {name: share for name, share in kept.items() if not 0.55 <= share <= 0.9}
    if odd and not notes:
        raise Wrong(
            "asked for 75 % of the channels, without a word got "
            + ", ".join(f"{name} {share:.0%}" for name, share in odd.items())
        )
    if count_of(smaller) >= count_of(original) and not notes:
        raise Wrong("no channel was removed, without a word")
    path = case.folder / "narrower.onnx"
    export_onnx(smaller, case.example, path)
    same(run(path, case.held_out), small_answers, "the smaller network's file")
    return Verdict("spared" if notes else "right", tuple(notes))


def judge_depth(case: Case) -> Verdict:
    notes: list[str] = []
    original = folded(case.network)
    blocks = droppable_blocks(case.network, case.example, 0.5)
    smaller = noted(shallower, notes.append)(case.network, case.example, width=1.0, depth=0.5).eval()
    twin, passed_over = fewer_blocks_twin(original, folded(smaller))
    error = relative_error(answers_of(smaller, case.held_out), answers_of(twin, case.held_out))
    if not error <= RELATIVE_ERROR:
        raise Wrong(f"differs from the network that passes over {', '.join(passed_over) or 'no block'} by {error:.2g}")
    if len(passed_over) != blocks:
        raise Wrong(f"{blocks} blocks are said to go, {len(passed_over)} went")
    path = case.folder / "shallower.onnx"
    export_onnx(smaller, case.example, path)
    same(run(path, case.held_out), answers_of(smaller, case.held_out), "the shallower network's file")
    return Verdict("spared" if notes else "right" if blocks else "nothing to do", tuple(notes))


def judge_packing(case: Case) -> Verdict:
    """The float32 file and one of few bits and many zeros, packed."""
    sparse = case.folder / "sparse.onnx"
    pairs = [case.exported]
    try:
        quantize(case.exported, sparse, BitChoice(4, 32), calibration=case.calibration.numpy(), zeroing=Zeroing(0.8))
        pairs.append(sparse)
    except CandidateFailure:
        pass  # told by the treatments of bits
    for loose in pairs:
        packed = loose.with_name(f"{loose.stem} packed.onnx")
        pack(loose, packed)
        if not np.array_equal(run(packed, case.held_out), run(loose, case.held_out)):
            raise Wrong(f"the packed file of {loose.stem} answers otherwise than the unpacked one")
    return Verdict("right")


TREATMENTS: dict[str, Callable[[Case], Verdict]] = {
    "export": judge_export,
    "float16": judge_half,
    **{treatment: partial(judge_bits, treatment=treatment) for treatment in BITS},
    "zeros": judge_zeros,
    "channels": judge_channels,
    "depth": judge_depth,
    "packing": judge_packing,
}


def noted(function: Callable[..., Any], note: Callable[[str], None]) -> Callable[..., Any]:
    """Return the function, told where its notes go if it takes any."""
    if "note" not in inspect.signature(function).parameters:
        return function
    return lambda *args, **more: function(*args, note=note, **more)


def weights_in(path: Path) -> list[np.ndarray]:
    """Return the constant second factors of the convolutions and products of a file."""
    graph = onnx.load(path).graph
    read = {node.input[1] for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")}
    tensors = [numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in read]
    return [tensor for tensor in tensors if tensor.ndim >= 2]


def zeros_in(path: Path) -> float:
    weights = weights_in(path)
    total = sum(tensor.size for tensor in weights)
    return sum(int((tensor == 0).sum()) for tensor in weights) / total if total else 0.0


def zeroable(path: Path) -> bool:
    return any(tensor.size > 200 for tensor in weights_in(path))


def count_of(network: nn.Module) -> int:
    """Return how many weights a network has, those that layers share counted with each."""
    return sum(parameter.numel() for _, parameter in network.named_parameters(remove_duplicate=False))


def kept_shares(original: nn.Module, smaller: nn.Module) -> dict[str, float]:
    """Return for each convolution and linear layer that became narrower what share of its channels it keeps."""
    before, shares = dict(original.named_modules()), {}
    for name, module in smaller.named_modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)) and name in before:
            transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
            one, other = (
                layer.out_channels if transposed else layer.weight.shape[0] for layer in (module, before[name])
            )
            if one != other and other >= 8:
                shares[name] = one / other
    return shares
