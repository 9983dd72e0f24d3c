"""How much each unit of a group of tied layers matters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ....errors import CandidateFailure
from ...sparsity_names import ChannelImportance
from .channel_graph import ROOTS, TiedChannels
from .labels import Place

_BATCH_NORM = nn.modules.batchnorm._BatchNorm


class ChannelScores:
    """Scores units by the weights of a network.

    - ``magnitude``: the squared weights of the rows that make its channels and of the columns that read them, summed
      (Fang et al., CVPR 2023, section 3.3), and the squared scales of normalizations.
    - ``batch_norm``: the size of the scales by which batch normalization multiplies them (Liu et al., ICCV 2017,
      section 3); by magnitude where there is no such layer.
    - ``taylor``: (gradient * weight)^2 summed over the same weights as for magnitude, the change of the squared loss
      that the first-order expansion foretells (Molchanov et al., CVPR 2019, equation 8). Reads ``grad`` of the
      parameters, none counting as zero.
    - ``geometric_median``: the distances of its filters to the other filters of the layer, summed: one that the others
      can stand for scores low (He et al., CVPR 2019, section 3.3).

    Args:
        network: Left as it is.
        importance: By what units are ranked.
    """

    def __init__(self, network: nn.Module, importance: ChannelImportance) -> None:
        self._importance = importance
        self._parameters = dict(network.named_parameters())
        self._modules = dict(network.named_modules())
        self._along: dict[tuple[str, Place], Tensor | None] = {}

    def of(self, tied: TiedChannels) -> Tensor:
        """Return one score for each unit of a group, shape (units,), lowest for what goes first.

        Raises:
            CandidateFailure: Where a score is not finite.
        """
        own = {"batch_norm": self._scale, "geometric_median": self._distance}.get(self._importance)
        scores = None if own is None else self._summed(tied, own)
        if scores is None:
            scores = self._summed(tied, self._square)
        if scores is None:
            scores = torch.zeros(len(tied.units))
        if not bool(torch.isfinite(scores).all()):
            raise CandidateFailure("sparsity", f"importance of channels by {self._importance} is not finite")
        return scores

    @torch.no_grad()
    def _summed(self, tied: TiedChannels, value: Callable[[Place], Tensor | None]) -> Tensor | None:
        """Return the sum of what is known along each axis, over the positions that each unit has there."""
        kind = value.__name__
        numbers: dict[Place, list[int]] = {}
        for number, unit in enumerate(tied.units):
            for place, positions in unit.items():
                numbers.setdefault(place, []).extend([number] * len(positions))
        total: Tensor | None = None
        for place, owners in numbers.items():
            if (kind, place) not in self._along:
                self._along[kind, place] = value(place)
            along = self._along[kind, place]
            if along is None:
                continue
            taken = torch.cat([torch.from_numpy(unit[place]) for unit in tied.units if place in unit])
            total = along.new_zeros(len(tied.units)) if total is None else total
            total.index_add_(0, torch.tensor(owners), along[taken])
        return total

    def _holder(self, place: Place) -> tuple[nn.Module, str]:
        holder, _, attribute = place.name.rpartition(".")
        return self._modules[holder], attribute

    def _square(self, place: Place) -> Tensor | None:
        parameter = self._parameters.get(place.name)
        module, attribute = self._holder(place)
        is_scale = attribute == "weight" and isinstance(module, (_BATCH_NORM, nn.GroupNorm))
        if parameter is None or (parameter.dim() < 2 and not is_scale):
            return None
        values = parameter.double()
        if self._importance == "taylor":
            values = torch.zeros_like(values) if parameter.grad is None else values * parameter.grad.double()
        return _sum_along(values.square(), place.axis)

    def _scale(self, place: Place) -> Tensor | None:
        module, attribute = self._holder(place)
        if attribute != "weight" or not isinstance(module, _BATCH_NORM):
            return None
        return self._parameters[place.name].abs().double().cpu()

    def _distance(self, place: Place) -> Tensor | None:
        module, attribute = self._holder(place)
        made = 1 if getattr(module, "transposed", False) else 0
        if attribute != "weight" or not isinstance(module, ROOTS) or place.axis != made:
            return None
        filters = module.weight.movedim(made, 0).flatten(1).float().cpu()
        return torch.cdist(filters, filters).fill_diagonal_(0.0).sum(dim=1).double()


def _sum_along(values: Tensor, axis: int) -> Tensor:
    others = [other for other in range(values.dim()) if other != axis]
    return (values.sum(dim=others) if others else values).cpu()
