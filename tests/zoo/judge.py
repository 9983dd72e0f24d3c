"""Whether what was made of a network is right, by answers that are not karui's own.

The float32 network itself answers for every file; a copy of it with the same weights set to zero answers for one with
fewer channels; a copy of which blocks are passed over answers for one of less depth; an unpacked file for a packed one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from karui.errors import CandidateFailure, KaruiError
from karui.spaces.candidate import FLOAT_BITS, MOST_BITS_BESIDE_INT8
from karui.spaces.export import export_onnx
from karui.spaces.packing import pack
from karui.spaces.quantization.bit_choice import BitChoice
from karui.spaces.quantization.half import store_in_half
from karui.spaces.quantization.quantize import quantize, zero_weights
from karui.spaces.quantization.zeroing import Zeroing
from karui.spaces.sparsity.channels import remove_channels
from karui.spaces.students.shallower import droppable_blocks, shallower

from .plain_rounding import halved, plainly_rounded
from .registry import Animal
from .twins import fewer_blocks_twin, folded, masked_twins

EXAMPLE, CALIBRATION, HELD_OUT = 8, 48, 32
RELATIVE_ERROR = 1e-4
"""Between two float32 computations of one thing, in the largest of its values."""

HIGHEST_BOUND_DB = {"float16": 50.0, "w8 a8": 20.0, "w4 a32": 12.0, "w4 a8": 12.0, "zeros": 6.0}
"""The most that is expected of a file: what the answers vary by from input to input, to what they are off by."""

BEHIND_PLAIN_DB = {"float16": 6.0, "w8 a8": 5.0, "w4 a32": 3.0, "w4 a8": 3.0}
"""How far a file may be behind the plainest rounding there is, where that does not come up to the above.

Measured over the zoo, files with 8-bit activations lie between 4 dB below the plain twin, which leaves all but the
layers' inputs and the answers float32, and 12 dB above it; a broken operator costs 11 to 42 dB. With 4-bit weights,
which error feedback rounds better than to nearest, they lie 8 dB and more above.
"""
LOWEST_BOUND_DB = 1.5
CHANNEL_MARGIN_DB = 12.0
"""How much nearer to the noise a single channel of the answers may be: one that hardly varies is the first to drown."""

CONSTANT = 1e-5
"""Answers that vary by less than this share of the largest are all the same; what they are off by is judged then."""
CONSTANT_ERROR = 0.02

BITS = {"w8 a8": (MOST_BITS_BESIDE_INT8, 8), "w4 a32": (4, FLOAT_BITS), "w4 a8": (4, 8)}
"""Bits of weights and activations; of 8 beside 8-bit activations one is left out, as in every candidate."""

Making = Callable[[Path, Callable[[str], None]], None]


class Wrong(AssertionError):
    """Something was made, said to be right, and is not."""


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


@dataclass
class Case:
    """One network, its inputs, its own answers, and the files made of it so far."""

    animal: Animal
    folder: Path
    network: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        torch.set_num_threads(1)
        self.network = self.animal.network()
        self.example = self.animal.batch(EXAMPLE, seed=1)
        self.calibration = self.animal.batch(CALIBRATION, seed=2)
        self.held_out = self.animal.batch(HELD_OUT, seed=3)
        # what lies outside of the ranges of calibration is cut off by any file: here only rounding is looked at
        self.calibration = torch.cat([self.calibration, self.held_out])

    @cached_property
    def answers(self) -> np.ndarray:
        """The network's own answers on inputs that nothing was made by."""
        return answers_of(self.network, self.held_out)

    @cached_property
    def exported(self) -> Path:
        """The float32 file."""
        path = self.folder / "float32.onnx"
        export_onnx(self.network, self.example, path)
        return path


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
        reach = noted(quantize, note)(case.exported, path, choice, calibration=case.calibration.numpy())
        for left in reach.left:
            note(left)

    return judge_rounded(case, treatment, make)


def judge_zeros(case: Case) -> Verdict:
    fraction = 0.5

    def make(path: Path, note: Callable[[str], None]) -> None:
        noted(zero_weights, note)(case.exported, path, Zeroing(fraction), calibration=case.calibration.numpy())
        found = zeros_in(path)
        if found < fraction - 0.02:
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


def bound_db(case: Case, treatment: str) -> tuple[float, str]:
    """Return the least ratio of signal to noise, and where it comes from."""
    highest, behind = HIGHEST_BOUND_DB[treatment], BEHIND_PLAIN_DB.get(treatment)
    if treatment in case.animal.bounds_db:
        return case.animal.bounds_db[treatment], ""
    if behind is None:
        return highest, ""
    original = folded(case.network)
    twin = halved(original) if treatment == "float16" else plainly_rounded(original, case.calibration, *BITS[treatment])
    plain = level_db(answers_of(twin, case.held_out), case.answers)
    return max(min(highest, plain - behind), LOWEST_BOUND_DB), f" (a plain rounding has {plain:.1f})"


def judge_channels_of_outputs(given: np.ndarray, wanted: np.ndarray, bound_db: float) -> None:
    """No channel of the outputs is lost: each varies where the network's does, and follows it."""
    for axis in {1, wanted.ndim - 1} - {0} if wanted.ndim > 1 else set():
        spread = np.std(wanted - wanted.mean(0))
        for channel in range(wanted.shape[axis]):
            one, twin = (np.take(each, channel, axis) for each in (given, wanted))
            if np.std(twin - twin.mean(0)) < 1e-4 * spread:
                continue
            if np.std(one - one.mean(0)) == 0.0:
                raise Wrong(f"channel {channel} of axis {axis} of the outputs is the same for every input")
            level = level_db(one, twin)
            if not level >= bound_db:
                where = f"channel {channel} of axis {axis} of the outputs"
                raise Wrong(f"{where}: signal to noise {level:.1f} dB, at least {bound_db:g} expected")


def judge_channels(case: Case) -> Verdict:
    fraction = 0.25
    notes: list[str] = []
    original = folded(case.network)
    smaller = noted(remove_channels, notes.append)(case.network, case.example, fraction, multiple=1).eval()
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
    twin, passed_over = fewer_blocks_twin(original, smaller)
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


def run(path: Path, inputs: Tensor) -> np.ndarray:
    """Return what a file answers in the stock runtime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    fed = {session.get_inputs()[0].name: inputs.numpy()} if session.get_inputs() else {}
    answer: np.ndarray = session.run(None, fed)[0]
    return answer


def answers_of(network: nn.Module, inputs: Tensor) -> np.ndarray:
    """Return what a network answers; the inputs stay as they are."""
    with torch.no_grad():
        answer: np.ndarray = network(inputs.clone()).numpy()
    return answer


def same(given: np.ndarray, wanted: np.ndarray, what: str) -> None:
    """Raise where two computations of one thing differ by more than their last digits."""
    if given.shape != wanted.shape:
        raise Wrong(f"{what} have shape {given.shape}, the network's {wanted.shape}")
    error = relative_error(given, wanted)
    if not error <= RELATIVE_ERROR:
        raise Wrong(f"{what} differ by {error:.2g} of the largest")


def relative_error(given: np.ndarray, wanted: np.ndarray) -> float:
    if given.shape != wanted.shape:
        return float("inf")
    return float(np.abs(given.astype(np.float64) - wanted).max() / max(np.abs(wanted).max(), 1e-6))


def level_db(given: np.ndarray, wanted: np.ndarray) -> float:
    """Return the signal, what the answers vary by from input to input, to the noise, what they are off by."""
    if given.shape != wanted.shape or not np.isfinite(given).all():
        return float("-inf")
    wanted = wanted.astype(np.float64)
    signal, noise = np.mean((wanted - wanted.mean(0)) ** 2), np.mean((given - wanted) ** 2)
    largest = np.abs(wanted).max(initial=0.0)
    if noise <= (1e-6 * largest) ** 2:  # the last digits of float32
        return 120.0
    if signal <= (CONSTANT * largest) ** 2:
        return 60.0 if noise <= (CONSTANT_ERROR * largest) ** 2 else float("-inf")
    return float(10 * np.log10(signal / noise))


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
