"""Where the file of a point lies: in the front's folder, and nowhere else, whatever ``front.csv`` says."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ...errors import OutputError
from ..storage.folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd


def point_file(row: Mapping[Any, Any] | pd.Series[Any], folder: RunFolder) -> Path:
    """Return where the file of a point lies, whether or not it is there.

    Args:
        row: The point, as ``front.csv`` has it.
        folder: The results folder.

    Raises:
        OutputError: Where the row names a file elsewhere than in the front's folder.
    """
    name = str(row["file"])
    parts = PurePosixPath(name).parts
    path = folder.path / name
    is_plain = len(parts) == 2 and parts[0] == folder.front_files.name and re.fullmatch(r"[\w.-]+\.onnx", parts[1])
    if not is_plain or not _real(path.parent).is_relative_to(_real(folder.path)):
        raise OutputError(
            "the front names a file that is none of this results folder",
            where=f"{folder.front_csv}: file, point {row['point']}",
            expected=f"a file in {folder.front_files}/, such as front/p01-0123456789abcdef.onnx",
            got=repr(name),
            remedy="run the search again; it only writes the front anew",
        )
    return path


def _real(path: Path) -> Path:
    """Return a path without symbolic links, as far as they lead anywhere."""
    return Path(os.path.realpath(path))
