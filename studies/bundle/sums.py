"""``SHA256SUMS`` of a bundle, in the format of ``sha256sum``: written, and compared with what lies there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...spaces.artifact import file_digest
from ..storage.folder import write_atomically
from ..storage.reading import check_is_file

SUMS = "SHA256SUMS"

_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


@dataclass(frozen=True)
class SumFault:
    """One way in which a bundle is not what was exported.

    Args:
        file: The file at fault, relative to the bundle.
        text: What is wrong, in one sentence.
    """

    file: str
    text: str


def write_sums(folder: Path) -> None:
    """Write the sum of every file of a folder, such that ``sha256sum -c SHA256SUMS`` within it checks them."""
    lines = [f"{file_digest(folder / name)}  {name}\n" for name in bundle_files(folder)]
    write_atomically(folder / SUMS, "".join(lines).encode())


def bundle_files(folder: Path) -> list[str]:
    """Return every file of a bundle but the sums, relative, with slashes, in order."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(name for name in paths if name != SUMS)


def find_sum_faults(folder: Path, needed: frozenset[str]) -> list[SumFault]:
    """Return what is wrong with the files of a bundle; nothing where each is the one that was exported.

    Args:
        folder: The bundle.
        needed: Files that must have a sum.
    """
    try:
        check_is_file(folder / SUMS)
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return [SumFault(SUMS, f"{SUMS} is missing, so nothing tells whether the files are those that were exported")]
    except UnicodeDecodeError:
        return [SumFault(SUMS, f"{SUMS} is no text; it was damaged")]
    except (OSError, ValueError) as error:
        return [SumFault(SUMS, f"{SUMS} cannot be read: {error}")]
    sums: dict[str, str] = {}
    faults = []
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None or not _within(match[2]):
            faults.append(SumFault(SUMS, f"line {number} of {SUMS} is no sum of a file of the bundle: {line[:100]!r}"))
        else:
            sums[match[2]] = match[1]
    present = set(bundle_files(folder))
    faults += [SumFault(name, f"{name} is missing") for name in sorted({*sums, *needed} - present)]
    faults += [_without_sum(name, needed) for name in sorted(present - set(sums))]
    faults += [
        SumFault(name, f"{name} is not the file that was exported: sha256 {found} instead of {sums[name]}")
        for name in sorted(present & set(sums))
        if (found := _digest(folder / name)) != sums[name]
    ]
    return faults


def _digest(path: Path) -> str:
    """Return the sum of a file, or in words why it has none: a pipe may never end, a link may lead nowhere."""
    try:
        check_is_file(path)
        return file_digest(path)
    except (OSError, ValueError) as error:
        return f"unknown ({error})"


def _without_sum(name: str, needed: frozenset[str]) -> SumFault:
    if name in needed:
        return SumFault(name, f"the sum of {name} is missing from {SUMS}, so nothing tells whether it was changed")
    return SumFault(name, f"{name} is no part of the bundle: it has no sum in {SUMS}")


def _within(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
