"""Fashion-MNIST: the IDX reader, where the files lie, and the task made of them."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from karui.errors import TaskError
from karui.spaces.task import Pairs, iterate
from karui.studies.tasks import data_location, fashion
from karui.studies.tasks.data_location import FILE_NAMES, find_files
from karui.studies.tasks.idx import read_idx

SHAPES = {"train_images": (3, 2, 2), "train_classes": (3,), "test_images": (1, 2, 2), "test_classes": (1,)}


def idx_bytes(values: np.ndarray, magic: int | None = None) -> bytes:
    magic = 0x0800 + values.ndim if magic is None else magic
    return struct.pack(f">I{values.ndim}I", magic, *values.shape) + values.astype(np.uint8).tobytes()


def write_files(
    folder: Path, *, suffix: str = ".gz", skip: str = "", arrays: dict[str, np.ndarray] | None = None
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = arrays or {key: np.zeros(shape) for key, shape in SHAPES.items()}
    for key, name in FILE_NAMES.items():
        content = idx_bytes(arrays[key])
        if key != skip:
            (folder / f"{name}{suffix}").write_bytes(gzip.compress(content, 1) if suffix == ".gz" else content)
    return folder


def contents(split: Pairs | None) -> tuple[torch.Tensor, torch.Tensor]:
    assert split is not None
    (batch,) = iterate(split, 10**6)
    return batch


# --- IDX --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gz"])
def test_idx_is_read_from_its_bytes(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "images"
    path.write_bytes(pack(bytes.fromhex("00000803 00000002 00000001 00000003 010203 ff0005")))
    assert read_idx(path, axes=3).tolist() == [[[1, 2, 3]], [[255, 0, 5]]]
    path.write_bytes(pack(bytes.fromhex("00000801 00000004 00010902")))
    assert read_idx(path, axes=1).tolist() == [0, 1, 9, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes.fromhex("00000d03 00000001 00000001 00000001 00"), r"expected: first bytes 00000803.*got: 00000d03"),
        (bytes.fromhex("00000801 00000001 00"), "got: 00000801"),
        (b"", "got: an empty file"),
        (bytes.fromhex("00000803 00000001"), "first bytes"),
        (bytes.fromhex("00000803 00000002 00000002 00000002 0102"), r"expected: 8 bytes of data.*got: 2 bytes"),
        (bytes.fromhex("00000803 00000001 00000001 00000001 0102"), r"expected: 1 bytes of data.*got: 2 bytes"),
        # Without the time of day, which would be in the name of the test, and differ between processes.
        (gzip.compress(bytes(100), mtime=0)[:-9], "cannot be unpacked"),
        (b"\x1f\x8bnot gzip", "cannot be unpacked"),
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "damaged-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(TaskError, match=f"(?s){message}") as error:
        read_idx(path, axes=3)
    assert str(path) in str(error.value)
    assert "to do: fetch the file again" in str(error.value)


# --- where Fashion-MNIST lies -----------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without the data, without the variable, with an empty cache and without internet."""
    monkeypatch.delenv(data_location.DATA_DIR_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(data_location, "DEBIAN_FOLDER", tmp_path / "debian")

    def no_internet(*_: object, **__: object) -> None:
        raise RuntimeError("Error downloading\ntrain-images-idx3-ubyte.gz")

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", no_internet)
    return tmp_path


@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize("below", [".", "FashionMNIST/raw"])
def test_a_given_folder_may_hold_the_files_in_four_ways(nowhere: Path, suffix: str, below: str) -> None:
    write_files(nowhere / "given" / below, suffix=suffix)
    found = find_files(nowhere / "given")
    assert {key: (path.parent, path.name) for key, path in found.items()} == {
        key: (nowhere / "given" / below, f"{name}{suffix}") for key, name in FILE_NAMES.items()
    }


def test_the_places_are_searched_in_their_order(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, debian, variable, given = (nowhere / name for name in ("cache/karui", "debian", "variable", "given"))

    def used() -> Path:
        return find_files(None)["train_images"].parent

    write_files(cache / "FashionMNIST" / "raw")
    assert used() == cache / "FashionMNIST" / "raw"
    write_files(debian)
    assert used() == debian
    write_files(variable)
    monkeypatch.setenv("KARUI_DATA_DIR", str(variable))
    assert used() == variable
    write_files(given)
    assert find_files(given)["train_images"].parent == given


def test_a_folder_that_lacks_a_file_names_it_and_the_ways_out(nowhere: Path) -> None:
    write_files(nowhere / "given", skip="test_classes")
    write_files(nowhere / "debian")
    with pytest.raises(TaskError, match=r"missing: t10k-labels-idx1-ubyte\n") as error:
        find_files(nowhere / "given")
    assert "dataset-fashion-mnist" in str(error.value)
    assert "KARUI_DATA_DIR" in str(error.value)


def test_a_variable_that_names_no_folder_is_said_so(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(nowhere / "debian")
    monkeypatch.setenv("KARUI_DATA_DIR", str(nowhere / "gone"))
    with pytest.raises(TaskError, match=r"(?s)environment variable KARUI_DATA_DIR: .*gone.*got: no such folder"):
        find_files(None)


def test_a_failed_download_names_the_ways_out(nowhere: Path) -> None:
    with pytest.raises(TaskError, match=r"(?s)could not be downloaded.*got: Error downloading train-images.*to do: "):
        find_files(None)
    assert (nowhere / "cache" / "karui").is_dir()


def test_a_download_goes_to_the_cache_and_is_then_found_there(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = []

    def download(root: str, *, download: bool) -> None:
        downloads.append((root, download))
        write_files(Path(root) / "FashionMNIST" / "raw", suffix="")

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", download)
    first, second = find_files(None), find_files(None)
    assert first == second
    assert first["test_images"].parent == nowhere / "cache" / "karui" / "FashionMNIST" / "raw"
    assert downloads == [(str(nowhere / "cache" / "karui"), True)]


# --- Fashion-MNIST ----------------------------------------------------------------------------------------------------


def fashion_arrays(train: int = 5_200, test: int = 40, size: int = 28) -> dict[str, np.ndarray]:
    """Images whose first two pixels hold their number, and classes that follow from it."""
    arrays: dict[str, np.ndarray] = {}
    for name, count in (("train", train), ("test", test)):
        images = np.zeros((count, size, size), np.uint8)
        images[:, 0, 0], images[:, 0, 1] = np.arange(count) % 256, np.arange(count) // 256
        arrays[f"{name}_images"], arrays[f"{name}_classes"] = images, (np.arange(count) % 10).astype(np.uint8)
    return arrays


@pytest.fixture(scope="module")
def fashion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("fashion"), arrays=fashion_arrays())


def numbers(split: Pairs) -> np.ndarray:
    images, classes = contents(split)
    pixels = torch.round((images[:, 0, 0, :2] * fashion.DEVIATION + fashion.MEAN) * 255).long().numpy()
    found: np.ndarray = pixels[:, 0] + 256 * pixels[:, 1]
    assert np.array_equal(found % 10, classes.numpy()), "every image keeps its own class"
    return found


def test_fashion_splits_are_disjoint_stratified_and_complete(fashion_folder: Path) -> None:
    task = fashion.make_task(str(fashion_folder))
    train, validation = numbers(task.train), numbers(task.validation)
    assert sorted([*train, *validation]) == list(range(5_200))
    assert np.bincount(validation % 10).tolist() == [500] * 10
    assert numbers(task.test).tolist() == list(range(40))
    assert task.input_shape == (1, 28, 28)
    assert set(numbers(task.calibration or task.test)) <= set(train)


def test_fashion_keeps_as_many_training_images_as_asked_for(fashion_folder: Path) -> None:
    whole, task = fashion.make_task(str(fashion_folder)), fashion.make_task(str(fashion_folder), train_samples=100)
    assert np.bincount(numbers(task.train) % 10).tolist() == [10] * 10
    assert np.array_equal(numbers(task.validation), numbers(whole.validation))
    again = fashion.make_task(str(fashion_folder), train_samples=100)
    assert np.array_equal(numbers(again.train), numbers(task.train))


@pytest.mark.parametrize("samples", [0, 9, 195, 5_000])
def test_fashion_refuses_a_number_of_samples_without_meaning(fashion_folder: Path, samples: int) -> None:
    with pytest.raises(TaskError, match=f"(?s)train_samples.*expected: 10 to 190, or 200 for all.*got: {samples}"):
        fashion.make_task(str(fashion_folder), train_samples=samples)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (fashion_arrays(size=8), r"got: images of shape \(5200, 8, 8\)"),
        ({**fashion_arrays(), "test_classes": np.zeros(39)}, "39 classes"),
        ({**fashion_arrays(), "test_classes": np.full(40, 12)}, "the largest 12"),
        (fashion_arrays(train=4_000), "too few training images"),
    ],
    ids=["size", "count", "class", "few"],
)
def test_fashion_refuses_files_of_another_data_set(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        fashion.make_task(str(write_files(tmp_path, arrays=arrays)))


def test_fashion_augments_within_its_own_background() -> None:
    torch.manual_seed(0)
    background = (0 - fashion.MEAN) / fashion.DEVIATION
    images = torch.full((64, 1, 28, 28), 3.0)
    changed = fashion.augment(images)
    assert changed.shape == images.shape
    assert np.unique(changed.numpy()).tolist() == pytest.approx([background, 3.0])


@pytest.mark.skipif(not data_location.DEBIAN_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_reads_the_debian_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(data_location.DATA_DIR_VARIABLE, raising=False)
    task = fashion.make_task(train_samples=2_000)
    assert [len(contents(split)[1]) for split in (task.train, task.validation, task.test)] == [2_000, 5_000, 10_000]
    images, classes = contents(task.test)
    assert torch.bincount(classes).tolist() == [1_000] * 10
    assert classes[:5].tolist() == [9, 2, 1, 1, 6], "the first five test classes, as published"
    assert float(images.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(images.std()) == pytest.approx(1.0, abs=0.01)
