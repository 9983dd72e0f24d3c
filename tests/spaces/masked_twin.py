"""The original network with exactly those channels masked that a smaller one lacks, which is seen from the weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

LAYERS = (nn.modules.conv._ConvNd, nn.Linear)


def with_weights_of_their_own(network: nn.Module, *, scale: float = 1.0) -> nn.Module:
    """Return a double copy in evaluation mode, in which no two weights are equal and no statistics are trivial."""
    drawn = copy.deepcopy(network).double().eval()
    generator = torch.Generator().manual_seed(7)
    for name, tensor in (*drawn.named_parameters(), *drawn.named_buffers()):
        if tensor.dtype == torch.float64 and ("running" in name or isinstance(tensor, nn.Parameter)):
            values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if tensor.dim() > 1:
                values *= scale / max(1, tensor[0].numel()) ** 0.5
            else:
                values = 0.5 + values.abs()
            tensor.data.copy_(values)
    return drawn


def kept_places(wide: Tensor, narrow: Tensor) -> list[list[int]]:
    """Return which positions along the first two axes are left; every value occurs once, so each says where it was."""
    values, places = wide.detach().flatten().sort()
    wanted = narrow.detach().flatten()
    found = torch.searchsorted(values, wanted).clamp(max=len(values) - 1)
    assert torch.equal(values[found], wanted), "a weight of the smaller network is none of the wider one's"
    indices = torch.stack(torch.unravel_index(places[found], wide.shape)).reshape(wide.dim(), *narrow.shape)
    kept = []
    for axis in range(min(2, wide.dim())):
        along = indices[axis].movedim(axis, 0).flatten(1)
        assert bool((along == along[:, :1]).all()), "a row of the smaller weight comes from several rows of the wider"
        kept.append(along[:, 0].tolist())
    return kept


def masked_twin(network: nn.Module, smaller: nn.Module) -> nn.Module:
    """Return a copy whose layers read zero, and make zero, wherever the smaller network has no such channel."""
    twin = copy.deepcopy(network)
    for name, narrow in smaller.named_modules():
        if not isinstance(narrow, LAYERS):
            continue
        layer = twin.get_submodule(name)
        rows, columns = kept_places(layer.get_parameter("weight"), narrow.get_parameter("weight"))
        if not isinstance(layer, LAYERS):
            raise TypeError(f"{name} is another layer in the smaller network")
        dense = isinstance(layer, nn.Linear) or layer.groups == 1
        transposed = getattr(layer, "transposed", False)
        if transposed:
            rows, columns = columns, rows
        elif not dense:
            shape = layer.get_parameter("weight").shape
            rows_a_group = shape[0] // int(getattr(layer, "groups", 1))
            groups = sorted({row // rows_a_group for row in rows})
            columns = [group * shape[1] + column for group in groups for column in columns]
        axis = -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)
        if dense or not transposed:
            layer.register_forward_pre_hook(lambda _, inputs, kept=columns, axis=axis: _only(inputs[0], kept, axis))
        if dense or not transposed:
            layer.register_forward_hook(lambda _, __, output, kept=rows, axis=axis: _only(output, kept, axis))
    return twin


def _only(tensor: Tensor, kept: list[int], axis: int) -> Tensor:
    mask = torch.zeros(tensor.shape[axis], dtype=tensor.dtype)
    mask[kept] = 1.0
    return tensor * mask.reshape(-1, *[1] * (-axis - 1))


def largest_difference(one: object, other: object) -> float:
    """Return the largest difference of all outputs, relative to the largest output."""
    pairs = zip(torch.utils._pytree.tree_leaves(one), torch.utils._pytree.tree_leaves(other), strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in pairs)
