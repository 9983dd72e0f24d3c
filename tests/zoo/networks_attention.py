"""Attention: by hand, by layer, with masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import conv, head
from .registry import CLASSES, animal, images, sequences


class Attending(nn.Module):
    """Embeds a sequence, lets it attend to itself over a residual, and answers by the mean of all steps.

    Args:
        width: Width of each step.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed, self.norm, self.last = nn.Linear(6, width), nn.LayerNorm(width), nn.Linear(width, CLASSES)
        self.width = width

    def attend(self, steps: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        steps = self.embed(inputs)
        return self.last((steps + self.attend(self.norm(steps))).mean(1))


@animal(sequences, refused={"channels": "no layer has channels that can be removed"})
class HeadsByView(Attending):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))

    def attend(self, steps: Tensor) -> Tensor:
        rows, length, _ = steps.shape
        query, key, value = (
            layer(steps).view(rows, length, 4, 4).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        weights = (query @ key.transpose(-2, -1) / 2).softmax(-1)
        return self.out((weights @ value).transpose(1, 2).reshape(rows, length, 16))


@animal(sequences)
class HeadsBySize(Attending):
    """The number of heads follows from the width: with fewer channels there are fewer heads, or others."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))

    def attend(self, steps: Tensor) -> Tensor:
        rows, length, _ = steps.shape
        query, key, value = (
            layer(steps).view(rows, length, -1, 4).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        weights = (query @ key.transpose(-2, -1) / 2).softmax(-1)
        return self.out((weights @ value).transpose(1, 2).flatten(2))


@animal(sequences, refused={"channels": "no layer has channels that can be removed"})
class FusedProjection(Attending):
    def __init__(self) -> None:
        super().__init__()
        self.joint, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def attend(self, steps: Tensor) -> Tensor:
        rows, length, width = steps.shape
        query, key, value = self.joint(steps).reshape(rows, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-2, -1) / 2).softmax(-1)
        return self.out((weights @ value).transpose(1, 2).reshape(rows, length, width))


@animal(sequences)
class ChunkedProjection(Attending):
    def __init__(self) -> None:
        super().__init__()
        self.joint, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def attend(self, steps: Tensor) -> Tensor:
        query, key, value = self.joint(steps).chunk(3, -1)
        return self.out((query @ key.transpose(-2, -1) / 4).softmax(-1) @ value)


@animal(sequences, refused={"channels": "no layer has channels that can be removed"})
class GroupedQueries(Attending):
    """Four heads of queries on two of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (
            nn.Linear(16, 16),
            nn.Linear(16, 8),
            nn.Linear(16, 8),
            nn.Linear(16, 16),
        )

    def attend(self, steps: Tensor) -> Tensor:
        rows, length, _ = steps.shape
        query = self.query(steps).view(rows, length, 4, 4).transpose(1, 2)
        key, value = (layer(steps).view(rows, length, 2, 4).transpose(1, 2) for layer in (self.key, self.value))
        key, value = key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)
        weights = (query @ key.transpose(-2, -1) / 2).softmax(-1)
        return self.out((weights @ value).transpose(1, 2).reshape(rows, length, 16))


@animal(sequences, refused={"channels": "no layer has channels that can be removed"})
class ByLayer(Attending):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def attend(self, steps: Tensor) -> Tensor:
        return self.attention(steps, steps, steps, need_weights=False)[0]


@animal(sequences, refused={"channels": "no layer has channels that can be removed"})
class ByLayerWithMask(Attending):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True, bias=False)

    def attend(self, steps: Tensor) -> Tensor:
        later = torch.triu(torch.ones(12, 12, dtype=torch.bool), 1)
        return self.attention(steps, steps, steps, attn_mask=later)[0]


@animal(sequences, refused={"channels": "no layer has channels that can be removed"})
class ByLayerStepsFirst(Attending):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4)

    def attend(self, steps: Tensor) -> Tensor:
        steps = steps.transpose(0, 1)
        return self.attention(steps, steps, steps)[0].transpose(0, 1)


@animal(sequences, refused={"channels": "no layer has channels that can be removed"})
class ScaledDotProduct(Attending):
    def __init__(self) -> None:
        super().__init__()
        self.joint, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def attend(self, steps: Tensor) -> Tensor:
        rows, length, _ = steps.shape
        query, key, value = self.joint(steps).view(rows, length, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(rows, length, 16))


@animal(sequences, refused={"channels": "computes something else"})
class CausalDotProduct(Attending):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))

    def attend(self, steps: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(self.query(steps), self.key(steps), self.value(steps), is_causal=True)


class Masked(Attending):
    """Scores of steps whose first value is negative are masked."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.hidden: Tensor | None = None

    def masked(self, scores: Tensor, gone: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        gone = (inputs[:, :, 0] < 0).unsqueeze(1) & (torch.arange(12) > 1)
        steps = self.norm(self.embed(inputs))
        scores = self.masked(self.query(steps) @ self.key(steps).transpose(1, 2) / 4, gone)
        return self.last((steps + scores.softmax(-1) @ self.value(steps)).mean(1))


@animal(sequences)
class AddedMask(Masked):
    def masked(self, scores: Tensor, gone: Tensor) -> Tensor:
        return scores + gone.float() * -1e4


@animal(sequences)
class AddedLowestMask(Masked):
    def masked(self, scores: Tensor, gone: Tensor) -> Tensor:
        return scores + gone.float() * torch.finfo(torch.float32).min


@animal(sequences)
class FilledMask(Masked):
    def masked(self, scores: Tensor, gone: Tensor) -> Tensor:
        return scores.masked_fill(gone, float("-inf"))


@animal(sequences)
class MultipliedMask(Masked):
    def masked(self, scores: Tensor, gone: Tensor) -> Tensor:
        return torch.where(gone, torch.tensor(-65504.0), scores)


@animal(sequences)
def encoder_layers() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.1)
    return nn.Sequential(
        nn.Linear(6, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten(), nn.Linear(192, 5)
    )


@animal(sequences)
def encoder_layer_normed_first() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, norm_first=True, activation="gelu")
    return nn.Sequential(nn.Linear(6, 16), layer, nn.Linear(16, 5))


@animal(sequences, refused={"channels": "no layer has channels that can be removed"})
class LearntQueries(Attending):
    """A decoder: a few learnt queries attend to all steps."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 3, 16))
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.out = nn.Linear(48, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        steps = self.norm(self.embed(inputs))
        queries = self.queries.expand(inputs.shape[0], -1, -1)
        return self.out(self.attention(queries, steps, steps)[0].flatten(1))


@animal(sequences)
class DecoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.last = nn.Linear(6, 16), nn.Linear(16, CLASSES)
        self.decoder = nn.TransformerDecoderLayer(16, 2, 24, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        steps = self.embed(inputs)
        return self.last(self.decoder(steps[:, :4], steps).mean(1))


@animal(sequences, refused={"channels": "no layer has channels that can be removed"})
class EinsumHeads(Attending):
    def __init__(self) -> None:
        super().__init__()
        self.joint = nn.Parameter(torch.randn(3, 4, 16, 4) / 4)
        self.out = nn.Parameter(torch.randn(4, 4, 16) / 4)

    def attend(self, steps: Tensor) -> Tensor:
        query, key, value = torch.einsum("nlc,phcd->pnhld", steps, self.joint)
        weights = torch.einsum("nhld,nhmd->nhlm", query, key).div(2).softmax(-1)
        return torch.einsum("nhlm,nhmd,hdc->nlc", weights, value, self.out)


@animal(sequences, refused={"channels": "computes something else"})
class LinearAttention(Attending):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))

    def attend(self, steps: Tensor) -> Tensor:
        query, key = F.elu(self.query(steps)) + 1, F.elu(self.key(steps)) + 1
        seen = key.transpose(1, 2) @ self.value(steps)
        return query @ seen / (query @ key.sum(1).unsqueeze(2) + 1e-3)


@animal(sequences)
class CosineAttention(Attending):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.warmth = nn.Parameter(torch.tensor(5.0))

    def attend(self, steps: Tensor) -> Tensor:
        query, key = F.normalize(self.query(steps), dim=-1), F.normalize(self.key(steps), dim=-1)
        return (self.warmth * query @ key.transpose(1, 2)).softmax(-1) @ self.value(steps)


@animal(sequences)
class Rotary(Attending):
    """Positions as rotations of pairs of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        angles = torch.outer(torch.arange(12.0), 10.0 ** (-torch.arange(8.0) / 4)).repeat(1, 2)
        self.register_buffer("cosines", angles.cos())
        self.register_buffer("sines", angles.sin())

    def turned(self, steps: Tensor) -> Tensor:
        first, second = steps.chunk(2, -1)
        return steps * self.cosines + torch.cat([-second, first], -1) * self.sines

    def attend(self, steps: Tensor) -> Tensor:
        query, key = self.turned(self.query(steps)), self.turned(self.key(steps))
        return (query @ key.transpose(1, 2) / 4).softmax(-1) @ self.value(steps)


@animal(images)
class PatchTransformer(nn.Module):
    """A vision transformer with class token and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.last = nn.Conv2d(3, 16, 2, stride=2), nn.Linear(16, CLASSES)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 17, 16) * 0.3)
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True, activation="gelu")
                for _ in range(2)
            )
        )
        self.norm = nn.LayerNorm(16)

    def forward(self, inputs: Tensor) -> Tensor:
        patches = self.patches(inputs).flatten(2).transpose(1, 2)
        steps = torch.cat([self.token.expand(inputs.shape[0], -1, -1), patches], 1) + self.places
        return self.last(self.norm(self.blocks(steps))[:, 0])


@animal(images)
class ShiftedWindows(nn.Module):
    """Attention within windows of a rolled image, with a bias for relative places (Swin)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.joint, self.out, self.head = conv(3, 16), nn.Linear(16, 48), nn.Linear(16, 16), head(16)
        self.bias = nn.Parameter(torch.randn(2, 16, 16))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.roll(self.embed(inputs), (-2, -2), (2, 3))
        rows, width, side, _ = hidden.shape
        windows = hidden.view(rows, width, 2, 4, 2, 4).permute(0, 2, 4, 3, 5, 1).reshape(rows * 4, 16, width)
        query, key, value = self.joint(windows).view(-1, 16, 3, 2, 8).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-2, -1) * 8**-0.5 + self.bias).softmax(-1)
        windows = self.out((weights @ value).transpose(1, 2).flatten(2))
        merged = windows.view(rows, 2, 2, 4, 4, width).permute(0, 5, 1, 3, 2, 4).reshape(rows, width, side, side)
        return self.head(hidden + torch.roll(merged, (2, 2), (2, 3)))


@animal(images)
class PixelsAttend(nn.Module):
    """Non-local block: 1x1 convolutions make query, key and value of every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 16), head(16)
        self.query, self.key, self.value, self.out = conv(16, 8, 1), conv(16, 8, 1), conv(16, 8, 1), conv(8, 16, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.stem(inputs))
        query, key, value = (layer(hidden).flatten(2) for layer in (self.query, self.key, self.value))
        seen = value @ (query.transpose(1, 2) @ key / 3).softmax(-1).transpose(1, 2)
        return self.head(hidden + self.out(seen.view_as(query).unflatten(2, hidden.shape[2:])))


@animal(images, refused={"channels": "does not run without some of its channels"})
class ChannelsAttend(nn.Module):
    """Cross-covariance attention: channels attend to channels (XCiT, Restormer)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.joint, self.out, self.head = conv(3, 16), conv(16, 48, 1), conv(16, 16, 1), head(16)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.stem(inputs))
        query, key, value = (part.flatten(2).unflatten(1, (2, 8)) for part in self.joint(hidden).chunk(3, 1))
        query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
        seen = (4 * query @ key.transpose(-2, -1)).softmax(-1) @ value
        return self.head(hidden + self.out(seen.flatten(1, 2).view_as(hidden)))


@animal(images)
class Mixer(nn.Module):
    """MLP-mixer: one layer along the patches, one along the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.last = nn.Conv2d(3, 16, 2, stride=2), nn.Linear(16, CLASSES)
        self.first, self.second = nn.LayerNorm(16), nn.LayerNorm(16)
        self.along = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
        self.across = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))

    def forward(self, inputs: Tensor) -> Tensor:
        steps = self.patches(inputs).flatten(2).transpose(1, 2)
        steps = steps + self.along(self.first(steps).transpose(1, 2)).transpose(1, 2)
        return self.last((steps + self.across(self.second(steps))).mean(1))


@animal(sequences)
class RelativePlaces(Attending):
    """A bias looked up by the distance of two steps."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.table = nn.Embedding(23, 1)
        steps = torch.arange(12)
        self.register_buffer("distance", steps[:, None] - steps + 11)

    def attend(self, steps: Tensor) -> Tensor:
        scores = self.query(steps) @ self.key(steps).transpose(1, 2) / 4 + self.table(self.distance)[:, :, 0]
        return scores.softmax(-1) @ self.value(steps)
