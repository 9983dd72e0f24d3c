"""Attention of several heads as published code writes it: heads go whole, or not at all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import conv, head
from .networks_attention import Attending
from .registry import CLASSES, animal, images, sequences, tokens

NONE = {"channels": "heads of an attention go whole"}


class FourLayers(Attending):
    """Query, key, value and output of their own."""

    def __init__(self, width: int = 32) -> None:
        super().__init__(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))


@animal(sequences, refused=NONE)
class FourHeadsOfWhatIsThere(FourLayers):
    """The number of heads is in the code, their width follows."""

    def attend(self, steps: Tensor) -> Tensor:
        query, key, value = (
            layer(steps).unflatten(-1, (4, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        return self.out(((query @ key.mT / 8**0.5).softmax(-1) @ value).transpose(1, 2).flatten(2))


@animal(sequences, refused=NONE)
class EinsumOfFourHeads(FourLayers):
    def attend(self, steps: Tensor) -> Tensor:
        query, key, value = (layer(steps).unflatten(-1, (4, -1)) for layer in (self.query, self.key, self.value))
        weights = torch.einsum("bqhd,bkhd->bhqk", query, key).div(3).softmax(-1)
        return self.out(torch.einsum("bhqk,bkhd->bqhd", weights, value).flatten(2))


@animal(sequences)
class HeadsByAttribute(FourLayers):
    """Norms of queries and keys within a head, and a gain for each."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 4, 8
        self.gain = nn.Parameter(torch.rand(4, 1, 1) + 0.5)
        self.query_norm, self.key_norm = nn.LayerNorm(8), nn.LayerNorm(8)

    def attend(self, steps: Tensor) -> Tensor:
        rows, length, _ = steps.shape
        query, key, value = (
            layer(steps).view(rows, length, self.num_heads, self.head_dim).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        weights = (self.query_norm(query) * self.gain @ self.key_norm(key).transpose(-2, -1)).softmax(-1)
        return self.out((weights @ value).transpose(1, 2).reshape(rows, length, -1))


class CausalSelfAttention(nn.Module):
    """As nanoGPT has it, but the width of a head is kept."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.n_head, self.n_embd, self.d_head = heads, width, width // heads
        self.register_buffer("bias", torch.tril(torch.ones(12, 12)))

    def forward(self, steps: Tensor) -> Tensor:
        rows, length, _ = steps.shape
        query, key, value = (
            part.view(rows, length, self.n_head, self.d_head).transpose(1, 2)
            for part in self.c_attn(steps).split(self.n_embd, 2)
        )
        scores = (query @ key.transpose(-2, -1) / 3).masked_fill(self.bias == 0, float("-inf"))
        return self.c_proj((scores.softmax(-1) @ value).transpose(1, 2).reshape(rows, length, self.n_embd))


@animal(sequences, refused={"depth": "architecture: the network does not run w"})
class CausalBlocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.last = nn.Linear(6, 32), nn.Linear(32, CLASSES)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(4))
        self.attentions = nn.ModuleList(CausalSelfAttention(32, 4) for _ in range(2))
        self.widened = nn.ModuleList(nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(2))

    def forward(self, inputs: Tensor) -> Tensor:
        steps = self.embed(inputs)
        for number, (attention, widened) in enumerate(zip(self.attentions, self.widened, strict=True)):
            steps = steps + attention(self.norms[2 * number](steps))
            steps = steps + widened(self.norms[2 * number + 1](steps))
        return self.last(steps.mean(1))


@animal(tokens)
class EncoderOfWords(nn.Module):
    """As BERT has it: the number of heads, their size and the size of all are attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size, self.all_head_size = 4, 8, 32
        self.words, self.norm, self.last = nn.Embedding(20, 32), nn.LayerNorm(32), nn.Linear(32, CLASSES)
        self.query, self.key, self.value, self.dense = (nn.Linear(32, 32) for _ in range(4))

    def heads(self, steps: Tensor) -> Tensor:
        shape = (*steps.shape[:-1], self.num_attention_heads, self.attention_head_size)
        return steps.view(shape).permute(0, 2, 1, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        words = self.words(inputs)
        query, key, value = (self.heads(layer(words)) for layer in (self.query, self.key, self.value))
        seen = ((query @ key.transpose(-1, -2) / 3).softmax(-1) @ value).permute(0, 2, 1, 3).contiguous()
        steps = self.norm(words + self.dense(seen.view(*seen.shape[:-2], self.all_head_size)))
        return self.last(steps[:, 0].tanh())


@animal(sequences)
class SharedKeysByAttribute(Attending):
    """Eight heads of queries on four of keys and values."""

    def __init__(self) -> None:
        super().__init__(32)
        self.n_heads, self.n_kv_heads, self.head_dim = 8, 4, 4
        self.query, self.key, self.value, self.out = (nn.Linear(32, n) for n in (32, 16, 16, 32))

    def attend(self, steps: Tensor) -> Tensor:
        rows, length, _ = steps.shape
        query = self.query(steps).view(rows, length, self.n_heads, self.head_dim).transpose(1, 2)
        key, value = (
            layer(steps).view(rows, length, self.n_kv_heads, self.head_dim).transpose(1, 2)
            .repeat_interleave(self.n_heads // self.n_kv_heads, 1)
            for layer in (self.key, self.value)
        )  # fmt: skip
        return self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(rows, length, -1))


@animal(sequences)
class BiasForEachHead(Attending):
    """A bias by distance for each head, as the mask of the fused product (Swin, T5)."""

    def __init__(self) -> None:
        super().__init__(32)
        self.num_heads = 4
        self.joint, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.table, steps = nn.Parameter(torch.randn(23, 4)), torch.arange(12)
        self.register_buffer("distance", steps[:, None] - steps + 11)

    def attend(self, steps: Tensor) -> Tensor:
        rows, length, _ = steps.shape
        query, key, value = self.joint(steps).view(rows, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.distance.view(-1)].view(length, length, -1).permute(2, 0, 1).unsqueeze(0)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.out(seen.transpose(1, 2).reshape(rows, length, -1))


@animal(images)
class HeadsOfPixels(nn.Module):
    """Heads outside, query, key and value of each within, by a 1x1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.stem, self.joint, self.out, self.head = conv(3, 32), conv(32, 96, 1), conv(32, 32, 1), head(32)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.stem(inputs))
        rows, _, height, width = hidden.shape
        query, key, value = self.joint(hidden).view(rows, self.num_heads, -1, height * width).chunk(3, 2)
        seen = value @ (query.transpose(-2, -1) @ key / 3).softmax(-1).transpose(-2, -1)
        return self.head(hidden + self.out(seen.reshape(rows, -1, height, width)))
