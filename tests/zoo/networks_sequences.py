"""Recurrent layers, embeddings, tokens, networks along time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import CLASSES, animal, sequences, signals, tokens


class Recurrent(nn.Module):
    """A recurrent layer and what reads its last step.

    Args:
        layer: The layer, batch first.
        width: Values of a step of its output.
    """

    def __init__(self, layer: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.embed, self.layer, self.last = nn.Linear(6, 12), layer, nn.Linear(width, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.layer(torch.relu(self.embed(inputs)))[0][:, -1])


@animal(sequences)
def lstm() -> nn.Module:
    return Recurrent(nn.LSTM(12, 16, batch_first=True), 16)


@animal(sequences)
def lstm_both_ways() -> nn.Module:
    return Recurrent(nn.LSTM(12, 8, batch_first=True, bidirectional=True, num_layers=2), 16)


@animal(sequences)
def gru() -> nn.Module:
    return Recurrent(nn.GRU(12, 16, batch_first=True, dropout=0.1, num_layers=2), 16)


@animal(sequences)
def simple_recurrent() -> nn.Module:
    return Recurrent(nn.RNN(12, 16, batch_first=True, bidirectional=True), 32)


@animal(sequences, refused={"channels": "no layer has channels that can be removed"})
class LastState(nn.Module):
    """What is read is the state, not the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.GRU(6, 16, batch_first=True), nn.Linear(16, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.layer(inputs)[1][-1])


@animal(sequences, refused={"channels": "no layer has channels that can be removed"})
class CellInALoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.last = nn.GRUCell(6, 16), nn.Linear(16, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        state = inputs.new_zeros(inputs.shape[0], 16)
        for step in inputs.unbind(1):
            state = self.cell(step, state)
        return self.last(state)


@animal(signals)
class ConvolvedThenRecurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(3, 16, 5, stride=2, padding=2), nn.BatchNorm1d(16), nn.ReLU())
        self.layer, self.last = nn.LSTM(16, 12, batch_first=True), nn.Linear(12, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.layer(self.body(inputs).transpose(1, 2))[0].mean(1))


@animal(tokens)
def bag_of_tokens() -> nn.Module:
    return nn.Sequential(nn.Embedding(20, 16), nn.Flatten(), nn.Linear(192, 24), nn.ReLU(), nn.Linear(24, 5))


@animal(tokens)
class TokensAndPlaces(nn.Module):
    """A small text encoder with a mask for the padding token 0."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.norm = nn.Embedding(20, 16, padding_idx=0), nn.Embedding(12, 16), nn.LayerNorm(16)
        self.layer, self.last = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), nn.Linear(16, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        steps = self.norm(self.words(inputs) + self.places(torch.arange(inputs.shape[1])))
        steps = self.layer(steps, src_key_padding_mask=inputs == 0)
        there = (inputs != 0).float().unsqueeze(2)
        return self.last((steps * there).sum(1) / there.sum(1).clamp(min=1))


@animal(lambda n: tokens(n).int())
class SharedWithOutput(nn.Module):
    """A language model whose output layer is the embedding; int32 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner, self.out = nn.Embedding(20, 16), nn.Linear(16, 16), nn.Linear(16, 20, bias=False)
        self.out.weight = self.words.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.out(torch.tanh(self.inner(self.words(inputs))))


@animal(tokens)
class ConvolvedTokens(nn.Module):
    """Convolutions of several lengths over the words (Kim 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.last = nn.Embedding(20, 12), nn.Linear(24, CLASSES)
        self.convolutions = nn.ModuleList(nn.Conv1d(12, 8, size) for size in (2, 3, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        words = self.words(inputs).transpose(1, 2)
        return self.last(torch.cat([F.relu(layer(words)).amax(2) for layer in self.convolutions], 1))


@animal(tokens, refused={"channels": "no layer has channels that can be removed"})
class RecurrentTokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.layer, self.last = (
            nn.Embedding(20, 8),
            nn.LSTM(8, 12, batch_first=True),
            nn.Linear(12, CLASSES),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.layer(self.words(inputs))[1][0][0])


class CausalBlock(nn.Module):
    """A dilated convolution that sees the past alone, cut to length, over a residual."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(12, 12, 3, padding=2 * dilation, dilation=dilation)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + torch.relu(self.conv(inputs)[:, :, : inputs.shape[2]])


@animal(signals)
def temporal() -> nn.Module:
    blocks = (CausalBlock(2**power) for power in range(3))
    return nn.Sequential(nn.Conv1d(3, 12, 1), *blocks, nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(12, 5))


@animal(signals, refused={"depth": "architecture: the network does not run w"})
class GatedWaves(nn.Module):
    """WaveNet: tanh times sigmoid of two convolutions, with skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv1d(3, 12, 1), nn.Conv1d(12, 4, 1)
        self.joint = nn.ModuleList(nn.Conv1d(12, 24, 3, padding=1) for _ in range(2))
        self.out = nn.ModuleList(nn.Conv1d(12, 12, 1) for _ in range(2))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden, skipped = self.stem(inputs), 0
        for joint, out in zip(self.joint, self.out, strict=True):
            values, gates = joint(hidden).chunk(2, 1)
            change = out(values.tanh() * gates.sigmoid())
            hidden, skipped = hidden + change, skipped + change
        return self.last(F.relu(skipped))


@animal(signals)
class DifferencesAndSums(nn.Module):
    """Differences along time, running sums, a mean of windows: no layer, but operators."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(9, 16, 3), nn.Linear(16, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        differences = F.pad(inputs[:, :, 1:] - inputs[:, :, :-1], (1, 0))
        sums = inputs.cumsum(2) / 8
        return self.last(F.relu(self.first(torch.cat([inputs, differences, sums], 1))).mean(2))
