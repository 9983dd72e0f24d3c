"""What a preflight says of a study's axes, in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ...spaces.axes.axis import INT8
from ...spaces.axes.bits.axis import BitsAxis
from ...spaces.axes.sparsity.axis import SparsityAxis
from ..study_file.spec import StudySpec
from .training_check import training_sentences
from .verdicts import Findings, Preflight, Verdict

ZEROS, CHANNELS = "80 % zeroed weights", "half of the channels"


def sentences(found: Findings, spec: StudySpec) -> list[str]:
    """Return a sentence for each thing that a study searches and that cannot pay on a target, and for what trains slow.

    Nothing is left out of the search for it: a small probe is no whole network, and size may be all that is wanted.

    Args:
        found: What was found.
        spec: The study.
    """
    told = [sentence for each in found.targets for sentence in _sentences(each, spec)]
    return [*told, *training_sentences(found.training, spec)]


def _sentences(found: Preflight, spec: StudySpec) -> Iterator[str]:
    verdicts = {verdict.variant: verdict for verdict in found.verdicts()}
    where = f"on {found.target}"
    bits, sparsity = spec.axis(BitsAxis), spec.axis(SparsityAxis)
    if bits is not None and 8 in bits.activations:
        yield from _bits(verdicts[INT8], where, _of_model if found.whole else _of_layers)
        yield from _left_float(found, where)
    if sparsity is not None and any(sparsity.zeroed_weights) and not verdicts[ZEROS].is_faster:
        yield f"{where}, zeroed weights make files smaller, not faster ({_times(verdicts[ZEROS])})"
    searches_channels = sparsity is not None and any(sparsity.removed_channels)
    if searches_channels and verdicts[CHANNELS].time_ratio is not None and not verdicts[CHANNELS].is_faster:
        yield f"{where}, fewer channels are no faster ({_times(verdicts[CHANNELS])}): the layers are too small"
    if searches_channels and spec.recovery.channel_multiple != "auto":
        yield from _multiple(found.multiple, spec.recovery.multiple, where)


def _left_float(found: Preflight, where: str) -> Iterator[str]:
    if found.float_operators:
        kinds = ", ".join(found.float_operators)
        yield (
            f"{where}, files with 8-bit activations are fastest where some operators stay float32: {kinds}; "
            f"float_operators in [quantization] says otherwise"
        )


def _bits(verdict: Verdict, where: str, times: Callable[[Verdict], str]) -> Iterator[str]:
    if verdict.time_ratio is None:
        yield f"{where}, layers with 8-bit activations cannot run: all such files will fail"
    elif not verdict.is_faster:
        found = "make files slower" if verdict.is_slower else "bring no speed"
        yield f"{where}, 8-bit activations {found} ({times(verdict)}): they win size only, as 8-bit weights do"


def _multiple(liked: int, kept: int, where: str) -> Iterator[str]:
    if kept % liked:
        yield (
            f"{where}, layers take as long for fewer channels than a whole multiple of {liked}: "
            f"channel_multiple = {liked} in [recovery] would waste less than {kept}"
        )


def _of_layers(verdict: Verdict) -> str:
    return f"{_ratio(verdict)} of the time of the model's own largest layers"


def _of_model(verdict: Verdict) -> str:
    return f"{_ratio(verdict)} of the model's own time"


def _times(verdict: Verdict) -> str:
    return "not measured" if verdict.time_ratio is None else _of_layers(verdict)


def _ratio(verdict: Verdict) -> str:
    return f"{verdict.time_ratio:.2f} ± {verdict.time_spread:.2f}"
