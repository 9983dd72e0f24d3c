"""Published blocks whose channels the graph of their operators does not show: how each is traced and narrowed.

A window attention hands its weights on as plain tensors, a patch merging sets four pixels side by side, a channel
shuffle deals channels out. Each is traced as one operation, and says itself which of its weights a channel is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch_pruning.pruner import function
from torchvision.models.maxvit import RelativePositionalMultiHeadAttention
from torchvision.models.shufflenetv2 import InvertedResidual
from torchvision.models.swin_transformer import (
    PatchMerging,
    PatchMergingV2,
    ShiftedWindowAttention,
    ShiftedWindowAttentionV2,
)
from torchvision.models.vision_transformer import VisionTransformer


class FixedChannels(torch.autograd.Function):
    """One node of the graph: whatever ``run`` does, without its inner operations."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Tensor], *inputs: Tensor) -> Tensor:  # noqa: ARG004
        """Return ``run(*inputs)``."""
        return run(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Refuse: the graph is only looked at."""
        raise NotImplementedError("traced for its shape only")


class _Attention(function.MultiheadAttentionPruner):  # type: ignore[misc]
    """Self-attention: a channel of its input is one of its output and of query, key and value in every head."""

    def prune_out_channels(self, layer: nn.MultiheadAttention, idxs: Sequence[int]) -> None:
        width = layer.embed_dim
        super().prune_out_channels(layer, list(idxs))
        scale = (layer.embed_dim / width) ** 0.5
        with torch.no_grad():
            if layer.in_proj_weight is not None:
                layer.in_proj_weight[: layer.embed_dim] *= scale
            else:
                layer.q_proj_weight *= scale
            if layer.in_proj_bias is not None:
                layer.in_proj_bias[: layer.embed_dim] *= scale

    prune_in_channels = prune_out_channels

    def get_out_channel_groups(self, layer: nn.MultiheadAttention) -> int:
        return int(layer.num_heads)

    get_in_channel_groups = get_out_channel_groups


class _WindowAttention(function.BasePruningFunc):  # type: ignore[misc]
    """As :class:`_Attention`, for the windows of Swin (Liu et al., ICCV 2021)."""

    def prune_out_channels(self, layer: ShiftedWindowAttention, idxs: Sequence[int]) -> None:
        width = self.get_out_channels(layer)
        _narrow_attention(layer.qkv, layer.proj, idxs)
        if not isinstance(layer, ShiftedWindowAttentionV2):  # whose attention is a cosine
            kept = width - len(idxs)
            # queries are divided by the square root of the head's width, which is another one now
            with torch.no_grad():
                layer.qkv.weight[:kept] *= (kept / width) ** 0.5
                if layer.qkv.bias is not None:
                    layer.qkv.bias[:kept] *= (kept / width) ** 0.5

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: ShiftedWindowAttention) -> int:
        return int(layer.proj.out_features)

    get_in_channels = get_out_channels

    def get_out_channel_groups(self, layer: ShiftedWindowAttention) -> int:
        return int(layer.num_heads)

    get_in_channel_groups = get_out_channel_groups


class _RelativeAttention(function.BasePruningFunc):  # type: ignore[misc]
    """As :class:`_WindowAttention`, for MaxViT (Tu et al., ECCV 2022), whose scale is kept as a number."""

    def prune_out_channels(self, layer: RelativePositionalMultiHeadAttention, idxs: Sequence[int]) -> None:
        _narrow_attention(layer.to_qkv, layer.merge, idxs)
        layer.head_dim = layer.merge.out_features // layer.n_heads

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: RelativePositionalMultiHeadAttention) -> int:
        return int(layer.merge.out_features)

    get_in_channels = get_out_channels

    def get_out_channel_groups(self, layer: RelativePositionalMultiHeadAttention) -> int:
        return int(layer.n_heads)

    get_in_channel_groups = get_out_channel_groups


def _narrow_attention(joint: nn.Linear, projection: nn.Linear, idxs: Sequence[int]) -> None:
    """Remove channels of the input, which are those of the output and of query, key and value, made by one layer."""
    linear, width = function.LinearPruner(), projection.out_features
    linear.prune_out_channels(joint, [place + part * width for part in range(3) for place in idxs])
    linear.prune_in_channels(joint, idxs)
    linear.prune_out_channels(projection, idxs)
    linear.prune_in_channels(projection, idxs)


class _PatchMerging(function.BasePruningFunc):  # type: ignore[misc]
    """Four neighbours' channels side by side, normalized and reduced; the second version normalizes afterwards."""

    def prune_out_channels(self, layer: PatchMerging, idxs: Sequence[int]) -> None:
        function.LinearPruner().prune_out_channels(layer.reduction, idxs)
        if isinstance(layer, PatchMergingV2):
            function.LayernormPruner().prune_out_channels(layer.norm, idxs)

    def prune_in_channels(self, layer: PatchMerging, idxs: Sequence[int]) -> None:
        width = self.get_in_channels(layer)
        places = [place + part * width for part in range(4) for place in idxs]
        function.LinearPruner().prune_in_channels(layer.reduction, places)
        if not isinstance(layer, PatchMergingV2):
            function.LayernormPruner().prune_out_channels(layer.norm, places)
        layer.dim = width - len(idxs)

    def get_out_channels(self, layer: PatchMerging) -> int:
        return int(layer.reduction.out_features)

    def get_in_channels(self, layer: PatchMerging) -> int:
        return int(layer.reduction.in_features) // 4


_BLOCKS: dict[type[nn.Module] | tuple[type[nn.Module], ...], type[function.BasePruningFunc]] = {
    nn.MultiheadAttention: _Attention,
    ShiftedWindowAttention: _WindowAttention,
    RelativePositionalMultiHeadAttention: _RelativeAttention,
    (PatchMerging, PatchMergingV2): _PatchMerging,
}


def block_pruners(network: nn.Module) -> dict[type[nn.Module], function.BasePruningFunc]:
    """Return what narrows the blocks of this network, by their exact type: one that narrows a subclass as well."""
    kinds = {type(module) for module in network.modules()}
    return {kind: pruner() for known, pruner in _BLOCKS.items() for kind in kinds if issubclass(kind, known)}


@contextmanager
def traced_as_one(network: nn.Module) -> Iterator[None]:
    """Let the blocks of this network show as the operations that their pruners know, for as long as this lasts."""
    opaque = (ShiftedWindowAttention, RelativePositionalMultiHeadAttention, PatchMerging, PatchMergingV2)
    changed = [module for module in network.modules() if isinstance(module, (*opaque, InvertedResidual))]
    for module in changed:
        shown = partial(_shuffled, module) if isinstance(module, InvertedResidual) else None
        module.forward = shown or partial(FixedChannels.apply, module.forward)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _shuffled(block: InvertedResidual, inputs: Tensor) -> Tensor:
    """Run the branches of a ShuffleNet V2 block between nodes at which channels are fixed (Ma et al., ECCV 2018)."""
    if block.stride == 1:
        moved = FixedChannels.apply(lambda tensor: tensor.chunk(2, dim=1)[1], inputs)
        outputs = [FixedChannels.apply(lambda tensor: tensor.chunk(2, dim=1)[0], inputs), block.branch2(moved)]
    else:
        outputs = [branch(FixedChannels.apply(torch.clone, inputs)) for branch in (block.branch1, block.branch2)]
    joined: Tensor = FixedChannels.apply(lambda *parts: torch.cat(parts, dim=1), *outputs)
    return joined


def settle(network: nn.Module) -> None:
    """Put right the widths that a network keeps as plain numbers."""
    for module in network.modules():
        if isinstance(module, VisionTransformer):
            module.hidden_dim = module.class_token.shape[-1]
