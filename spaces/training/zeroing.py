"""Unstructured and n:m sparsity: weights of small magnitude set to zero, at once or gradually during training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..sparsity_names import ZeroPattern
from ..zero_patterns import PATTERNS, TINY_LAYER, check_fraction

FINAL_PROGRESS = 0.6
"""Share of the training after which the last weights have been zeroed; the rest is for recovery."""

_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)
_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
"""What attention reads its inputs by: one tensor, or one for each of the three."""


class WeightZeroing:
    """Zeroes a growing fraction of a network's weights while it trains (Zhu & Gupta 2017, arXiv:1710.01878).

    The fraction counts the weights of all convolutions, linear layers and projections of attention, and is spread over
    them by the scores of LAMP (Lee et al., ICLR 2021): a weight's square over the sum of the squares in its layer that
    are not smaller. Tiny layers stay dense. Where zeros may lie freely, every output channel keeps its largest weight.
    Under a pattern ``n:m`` only the m - n smallest of every m weights in a row may go: of those a growing part does, in
    the end all (Zhou et al., "Learning N:M fine-grained structured sparse neural networks", ICLR 2021, prune so from
    the start).

    Args:
        network: Changed in place.
        final_fraction: Fraction of zeros in the end, in [0, 1); less where the kept weights do not allow it.
        pattern: ``free``, or ``n:m``, which needs the fraction of the pattern. Runs of m weights lie along what is left
            of a weight's axes behind the first, channel by channel, the last shorter one of a channel staying dense:
            the order in which the exported file holds them too.

    Raises:
        ValueError: Where ``final_fraction`` lies outside [0, 1), or is not that of the pattern.
    """

    def __init__(self, network: nn.Module, final_fraction: float, pattern: ZeroPattern = "free") -> None:
        check_fraction(final_fraction, pattern)
        self.final_fraction = final_fraction
        self._pattern = pattern
        self._weights = weight_tensors(network)
        self._masks: list[Tensor] = []
        self._fraction = 0.0

    @property
    def is_final(self) -> bool:
        """Whether the final fraction has been reached; the choice of weights is fixed from then on."""
        return self._fraction >= self.final_fraction

    def step(self, progress: float) -> None:
        """Choose anew which weights are zero, and zero them.

        Args:
            progress: How much of the training is done, in [0, 1].
        """
        if self.is_final:
            return
        remaining = 1.0 - min(1.0, max(0.0, progress) / FINAL_PROGRESS)
        self._fraction = self.final_fraction * (1.0 - remaining**3)
        if self._pattern == "free":
            scores = [_scores(weight.detach()) for weight in self._weights]
            count = round(self._fraction * sum(weight.numel() for weight in self._weights))
        else:
            scores = [_pattern_scores(weight.detach(), *PATTERNS[self._pattern]) for weight in self._weights]
            allowed = sum(int(torch.isfinite(part).sum()) for part in scores)
            count = round(self._fraction / self.final_fraction * allowed)
        self._masks = _lowest(scores, count)
        self.apply()

    def apply(self) -> None:
        """Zero the chosen weights, which an optimizer's step may have moved."""
        with torch.no_grad():
            for weight, mask in zip(self._weights, self._masks, strict=False):
                weight.masked_fill_(mask, 0.0)


def zero_weights(network: nn.Module, fraction: float, pattern: ZeroPattern = "free") -> None:
    """Zero the given fraction of the network's weights in place, at once.

    Args:
        network: Changed in place.
        fraction: Fraction of zeros among the weights that :func:`weight_tensors` returns, in [0, 1).
        pattern: Where they may lie, see :class:`WeightZeroing`.

    Raises:
        ValueError: Where ``fraction`` lies outside [0, 1), or is not that of the pattern.
    """
    WeightZeroing(network, fraction, pattern).step(progress=1.0)


def zero_fraction(network: nn.Module) -> float:
    """Return which fraction of the weights that :func:`weight_tensors` returns is zero; 0 where there are none."""
    weights = weight_tensors(network)
    total = sum(weight.numel() for weight in weights)
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return zeros / total if total else 0.0


def weight_tensors(network: nn.Module) -> list[Tensor]:
    """Return the weights of all layers in which weights are zeroed, a tensor that layers share only once."""
    weights = {id(weight): weight for layer in network.modules() for weight in layer_weights(layer)}
    return list(weights.values())


def is_zeroed_kind(layer: nn.Module) -> bool:
    """Say whether weights are zeroed in layers of this kind: convolutions, linear layers and attention."""
    return isinstance(layer, (*_WEIGHTED, nn.MultiheadAttention))


def layer_weights(layer: nn.Module) -> list[Tensor]:
    """Return a layer's own weights that may be zeroed; none where it is of another kind or computes them from others.

    Attention's output is projected by a linear layer of its own, which is not among them.
    """
    names = _PROJECTIONS if isinstance(layer, nn.MultiheadAttention) else ("weight",)
    own = dict(layer.named_parameters(recurse=False)) if is_zeroed_kind(layer) else {}
    return [own[name] for name in names if name in own]


def _lowest(scores: list[Tensor], count: int) -> list[Tensor]:
    """Return a mask for each tensor that marks so many of the lowest scores of all, infinite ones never."""
    if not scores:
        return []
    together = torch.cat([part.flatten() for part in scores])
    count = min(count, int(torch.isfinite(together).sum()))
    chosen = torch.zeros_like(together, dtype=torch.bool)
    if count:
        threshold = together.kthvalue(count).values
        chosen = together < threshold
        ties = (together == threshold).nonzero().flatten()
        chosen[ties[: count - int(chosen.sum())]] = True
    parts = torch.split(chosen, [part.numel() for part in scores])
    return [part.view_as(score) for part, score in zip(parts, scores, strict=True)]


def _scores(weight: Tensor) -> Tensor:
    """Return the LAMP score of each weight, infinite for those that must stay."""
    if weight.numel() < TINY_LAYER:
        return torch.full_like(weight, torch.inf)
    scores = _lamp(weight)
    largest = weight.square().reshape(len(weight), -1).argmax(dim=1)
    scores.view(len(weight), -1)[torch.arange(len(weight), device=weight.device), largest] = torch.inf
    return scores


def _pattern_scores(weight: Tensor, kept: int, length: int) -> Tensor:
    """Return the LAMP score of each weight that ``n:m`` lets go, infinite for the others."""
    if weight.numel() < TINY_LAYER:
        return torch.full_like(weight, torch.inf)
    scores = _lamp(weight)
    rows = scores.view(len(weight), -1)
    whole = rows.shape[1] // length * length
    runs = rows[:, :whole].reshape(len(weight), -1, length)
    runs = runs.scatter(2, runs.topk(kept, dim=2).indices, torch.inf)
    rows[:, :whole] = runs.view(len(weight), -1)
    rows[:, whole:] = torch.inf
    return scores


def _lamp(weight: Tensor) -> Tensor:
    squares = weight.square().flatten()
    ordered, order = squares.sort(stable=True)
    not_smaller = ordered.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[order] = torch.where(ordered > 0, ordered / not_smaller, ordered)
    return scores.view(weight.shape)
