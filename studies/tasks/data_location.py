"""Where the files of Fashion-MNIST lie: a given folder, the Debian package, or a download into the user's cache."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ...errors import TaskError

DATA_DIR_VARIABLE = "KARUI_DATA_DIR"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts the files."""

FILE_NAMES = {
    "train_images": "train-images-idx3-ubyte",
    "train_classes": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_classes": "t10k-labels-idx1-ubyte",
}
"""The four files, each gzipped (``.gz``) or not."""

_WAYS = (
    f"put the four IDX files there (from https://github.com/zalandoresearch/fashion-mnist), or name their folder by "
    f"data_dir or the environment variable {DATA_DIR_VARIABLE}, or install Debian's package dataset-fashion-mnist, or "
    f"leave the folder out where the machine has internet, and torchvision downloads them"
)


def find_files(data_dir: str | Path | None = None, environment: Mapping[str, str] | None = None) -> dict[str, Path]:
    """Return the path of each of the four files, by the keys of :data:`FILE_NAMES`.

    The first of these that applies is used: ``data_dir``; the folder named by the environment variable
    ``KARUI_DATA_DIR``; Debian's package; the user's cache, into which torchvision downloads what is not there.

    Args:
        data_dir: A folder that holds the files, directly or under ``FashionMNIST/raw``.
        environment: The environment variables; those of the process where None.

    Raises:
        TaskError: Where a given folder lacks files, or the download fails.
    """
    environment = os.environ if environment is None else environment
    if data_dir is not None:
        return _find_in_given(Path(data_dir), "data_dir")
    if environment.get(DATA_DIR_VARIABLE):
        return _find_in_given(Path(environment[DATA_DIR_VARIABLE]), f"environment variable {DATA_DIR_VARIABLE}")
    for folder in (DEBIAN_FOLDER, cache_folder(environment)):
        found = _find_in(folder)
        if not _missing(found):
            return found
    return _download(cache_folder(environment))


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder for downloads: ``karui`` under ``XDG_CACHE_HOME``, or under ``~/.cache``."""
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "karui"


def _find_in(folder: Path) -> dict[str, Path]:
    """Return those of the four files that the folder holds, all from one place."""
    places = [folder, folder / "FashionMNIST" / "raw"]
    found = [
        {
            key: path
            for key, name in FILE_NAMES.items()
            for path in (place / f"{name}.gz", place / name)
            if path.is_file()
        }
        for place in places
    ]
    return max(found, key=len)


def _find_in_given(folder: Path, where: str) -> dict[str, Path]:
    found = _find_in(folder.expanduser())
    missing = _missing(found)
    if missing:
        raise TaskError(
            "the folder does not hold the files of Fashion-MNIST",
            where=f"{where}: {folder}",
            expected=", ".join(f"{name}[.gz]" for name in FILE_NAMES.values()),
            got=f"missing: {', '.join(missing)}" if folder.expanduser().is_dir() else "no such folder",
            remedy=_WAYS,
        )
    return found


def _missing(found: Mapping[str, Path]) -> list[str]:
    return [name for key, name in FILE_NAMES.items() if key not in found]


def _download(folder: Path) -> dict[str, Path]:
    from torchvision.datasets import FashionMNIST

    try:
        folder.mkdir(parents=True, exist_ok=True)
        FashionMNIST(str(folder), download=True)
    except (OSError, RuntimeError) as error:
        raise TaskError(
            "Fashion-MNIST could not be downloaded",
            where=str(folder),
            got=" ".join(str(error).split()),
            remedy=_WAYS,
        ) from error
    return _find_in_given(folder, "download")
