"""Inputs of other lengths and other types than float images: files take them as the network does."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from karui.errors import CandidateFailure
from karui.spaces.building.build import Builder
from karui.spaces.building.build_settings import BuildSettings
from karui.spaces.candidate import Candidate
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.networks.quiet import quiet
from karui.spaces.task import Task

WORDS, WIDTH, LENGTH = 30, 16, 12


class Bag(nn.Module):
    """The mean of the words' embeddings, after a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, 32), nn.Linear(32, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(torch.relu(self.hidden(self.embedding(inputs))).mean(dim=1))
        return outputs


class PerToken(Bag):
    """Something for each word."""

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(torch.relu(self.hidden(self.embedding(inputs))))
        return outputs


class Attention(Bag):
    """One head of attention written by hand, with a mask of what is padding."""

    def forward(self, inputs: Tensor) -> Tensor:
        words = self.embedding(inputs)
        batch, length, width = words.shape
        heads = words.view(batch, length, 2, width // 2).transpose(1, 2)
        scores = (heads @ heads.transpose(-1, -2)).masked_fill((inputs == 0)[:, None, None, :], -1e4)
        mixed = (scores.softmax(dim=-1) @ heads).transpose(1, 2).reshape(batch, length, width)
        outputs: Tensor = self.head(torch.relu(self.hidden(mixed))[:, 0])
        return outputs


class Positions(Bag):
    """Positions are learned, up to a longest text."""

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, longest, WIDTH))

    def forward(self, inputs: Tensor) -> Tensor:
        words = self.embedding(inputs) + self.positions[:, : inputs.shape[1]]
        outputs: Tensor = self.head(torch.relu(self.hidden(words)).mean(dim=1))
        return outputs


class Recurrent(Bag):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.GRU(WIDTH, WIDTH, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(torch.relu(self.hidden(self.recurrent(self.embedding(inputs))[0][:, -1])))
        return outputs


class Flat(Bag):
    """Reads exactly as many words as it was made for."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(WIDTH * LENGTH, 32)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(torch.relu(self.hidden(self.embedding(inputs).flatten(1))))
        return outputs


class Frozen(Bag):
    """Divides by the length as a number of Python, which a file keeps."""

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(torch.relu(self.hidden(self.embedding(inputs))).sum(dim=1) / int(inputs.shape[1]))
        return outputs


def made(kind: type[nn.Module], *arguments: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(*arguments).eval()


def words(count: int, length: int, kind: torch.dtype = torch.int64) -> Tensor:
    return torch.randint(1, WORDS, (count, length), generator=torch.Generator().manual_seed(count)).to(kind)


def opened(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def answer(path: Path, inputs: Tensor) -> np.ndarray | None:
    session = opened(path)
    try:
        return np.asarray(session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0])
    except Exception:
        return None


def expected(network: nn.Module, inputs: Tensor) -> np.ndarray | None:
    try:
        with torch.no_grad():
            return np.asarray(network(inputs).numpy())
    except Exception:
        return None


@pytest.mark.parametrize("kind", [torch.int64, torch.int32])
@pytest.mark.parametrize(
    "network", [Bag, PerToken, Attention, Recurrent, lambda: Positions(64), lambda: Positions(LENGTH)]
)
def test_token_ids_of_any_length_are_answered_as_the_network_does(
    network: Any, kind: torch.dtype, tmp_path: Path
) -> None:
    net, path = made(network), tmp_path / "file.onnx"
    export_onnx(net, words(4, LENGTH, kind), path)
    assert opened(path).get_inputs()[0].shape == ["batch", "tokens"]
    for length in (1, 2, 5, LENGTH - 1, LENGTH, LENGTH + 1, 3 * LENGTH):
        inputs = words(3, length, kind)
        want, got = expected(net, inputs), answer(path, inputs)
        if want is None or got is None:
            assert want is got
        else:
            np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("network", [Flat, Frozen])
def test_a_length_that_the_network_or_the_file_is_bound_to_stays(network: Any, tmp_path: Path) -> None:
    net, path = made(network), tmp_path / "file.onnx"
    export_onnx(net, words(4, LENGTH), path)
    assert opened(path).get_inputs()[0].shape == ["batch", LENGTH]
    inputs = words(3, LENGTH)
    np.testing.assert_allclose(answer(path, inputs), expected(net, inputs), atol=1e-5)  # type: ignore[arg-type]
    with pytest.raises(CandidateFailure):
        export_onnx(net, words(4, LENGTH), tmp_path / "never.onnx", varying={1: "tokens"})
    assert not (tmp_path / "never.onnx").exists()


def test_no_axis_varies_where_none_is_wanted(tmp_path: Path) -> None:
    export_onnx(made(Bag), words(4, LENGTH), tmp_path / "file.onnx", varying={})
    assert opened(tmp_path / "file.onnx").get_inputs()[0].shape == ["batch", LENGTH]


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, stride=2, padding=1))


def series() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())


def test_floats_stay_fixed_unless_their_axes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "file.onnx"
    export_onnx(made(series), torch.randn(2, 2, 16), path)  # type: ignore[arg-type]
    assert opened(path).get_inputs()[0].shape == ["batch", 2, 16]
    export_onnx(made(series), torch.randn(2, 2, 16), path, varying={2: "steps"})  # type: ignore[arg-type]
    assert opened(path).get_inputs()[0].shape == ["batch", 2, "steps"]
    np.testing.assert_allclose(
        answer(path, torch.ones(1, 2, 37)), expected(made(series), torch.ones(1, 2, 37)), atol=1e-5  # type: ignore[arg-type]
    )  # fmt: skip


def test_images_of_any_size_where_both_axes_are_named(tmp_path: Path) -> None:
    network, path = made(convolutional), tmp_path / "file.onnx"  # type: ignore[arg-type]
    export_onnx(network, torch.randn(2, 1, 8, 12), path, varying={2: "height", 3: "width"})
    session = opened(path)
    assert session.get_inputs()[0].shape == ["batch", 1, "height", "width"]
    assert session.get_outputs()[0].shape == ["batch", 2, "output_2", "output_3"]
    for shape in ((1, 1, 8, 12), (3, 1, 20, 6), (2, 1, 5, 31)):
        inputs = torch.randn(shape)
        np.testing.assert_allclose(answer(path, inputs), expected(network, inputs), atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("varying", [{0: "batch"}, {3: "steps"}, {1: ""}, {1: "batch"}, {1: "a", 2: "a"}, {-1: "a"}])
def test_axes_without_meaning_are_refused(varying: dict[int, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="varying: expected axes from 1 to 2"):
        export_onnx(made(series), torch.randn(2, 2, 16), tmp_path / "never.onnx", varying=varying)  # type: ignore[arg-type]


SMALLER = (
    Candidate(weight_bits=16),
    Candidate(weight_bits=8),
    Candidate(weight_bits=4),
    Candidate(weight_bits=8, activation_bits=8),
    Candidate(zeroed_weights=0.3, weight_bits=4, zeroing="one_shot"),
)


@pytest.mark.parametrize("network", [Bag, Attention])
def test_rounded_and_packed_files_take_other_lengths_too(network: type[nn.Module], tmp_path: Path) -> None:
    net = made(network)
    data = TensorDataset(words(64, LENGTH), torch.arange(64) % 3)
    task = Task(model=net, train=data, validation=data, test=data)
    builder = Builder(task, BuildSettings(), tmp_path)
    for candidate in SMALLER:
        path = builder.build(candidate).path
        for length in (5, LENGTH, 2 * LENGTH):
            inputs = words(6, length)
            want, got = expected(net, inputs), answer(path, inputs)
            assert want is not None
            assert got is not None
            # the error of rounding alone: as large at the length that it was calibrated by
            assert np.abs(got - want).max() < 0.5 * np.abs(want).max(), candidate.describe()


class Pixels(nn.Module):
    """Takes raw bytes, or truth values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.second(torch.relu(self.first(inputs.float() / 255)))
        return outputs


@pytest.mark.parametrize(
    ("kind", "called"),
    [
        (torch.uint8, "tensor(uint8)"),
        (torch.int8, "tensor(int8)"),
        (torch.int32, "tensor(int32)"),
        (torch.int64, "tensor(int64)"),
        (torch.bool, "tensor(bool)"),
        (torch.float16, "tensor(float16)"),
        (torch.float64, "tensor(double)"),
    ],
)
def test_inputs_keep_their_type_in_every_file(kind: torch.dtype, called: str, tmp_path: Path) -> None:
    net = made(Pixels)
    inputs = torch.randint(0, 100, (64, 8), generator=torch.Generator().manual_seed(0)).to(kind)
    data = TensorDataset(inputs, torch.arange(64) % 3)
    task = Task(model=net, train=data, validation=data, test=data)
    builder = Builder(task, BuildSettings(), tmp_path)
    for candidate in (Candidate(), *SMALLER):
        path = builder.build(candidate).path
        assert opened(path).get_inputs()[0].type == called
        want, got = expected(net, inputs), answer(path, inputs)
        assert want is not None
        assert got is not None
        assert np.abs(got - want).max() < 0.5 * np.abs(want).max(), candidate.describe()


class Talking(nn.Module):
    """Prints while it runs, by Python and to the process' own outputs, and warns."""

    def forward(self, inputs: Tensor) -> Tensor:
        print("by Python")
        os.write(1, b"to the process' output\n")
        os.write(2, b"to the process' errors\n")
        warnings.warn("a warning", stacklevel=1)
        return inputs * 2


def test_nothing_reaches_the_terminal_from_a_quiet_thread(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet():
        Talking()(torch.zeros(1))
        with quiet():
            print("inner")
        print("outer")
    assert capfd.readouterr() == ("", "")
    print("after")
    os.write(2, b"after\n")
    assert capfd.readouterr() == ("after\n", "after\n")


def test_other_threads_print_on_and_everything_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    streams = sys.stdout, sys.stderr
    filters = list(warnings.filters)
    begun, go_on = threading.Event(), threading.Event()

    def silently() -> None:
        with quiet():
            begun.set()
            go_on.wait(10)
            print("never seen")

    threads = [threading.Thread(target=silently) for _ in range(2)]
    for thread in threads:
        thread.start()
    begun.wait(10)
    print("from another thread")
    go_on.set()
    for thread in threads:
        thread.join()
    assert (sys.stdout, sys.stderr) == streams
    assert warnings.filters == filters
    print("at the end")
    assert capfd.readouterr().out == "from another thread\nat the end\n"


def test_exports_in_several_threads_say_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    failures: list[str] = []

    def export(number: int) -> None:
        network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ChannelShuffle(2) if number % 2 else nn.ReLU())
        try:
            export_onnx(network, torch.randn(2, 1, 4, 4), tmp_path / f"{number}.onnx")
        except CandidateFailure as failure:
            failures.append(str(failure))

    threads = [threading.Thread(target=export, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert capfd.readouterr() == ("", "")
    assert len(failures) == 2
    assert all("\n" not in failure and "aten::channel_shuffle" in failure for failure in failures)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.onnx", "2.onnx"]
