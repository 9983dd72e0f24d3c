"""The folder that goes to the device: the file, its metadata, samples, a program that runs it, and sums."""

from __future__ import annotations

import json
import re
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any

from ...errors import OutputError
from ...spaces.artifact import file_digest
from ...spaces.data.named import from_arrays
from ..results.point_file import point_file
from ..results.read import read_description
from ..storage.folder import RunFolder, check_name, explain_os_errors, explain_unreadable, write_atomically
from ..storage.reading import explain_damage
from .config import CONFIG, SAMPLES, SCHEMA, BundleConfig, bundle_config, config_schema
from .model_card import model_card
from .samples import npz_bytes, read_samples, read_task_paper
from .sums import write_sums
from .whole_folder import whole_folder

if TYPE_CHECKING:
    import pandas as pd

    from ..storage.shared_files import SharedFiles

RUN = Path(__file__).parent.parent / "templates" / "run_bundle.py"


def export_bundle(row: pd.Series[Any], folder: RunFolder, destination: Path, files: SharedFiles | None = None) -> Path:
    """Write the bundle of one row of a front, whole or not at all, and return its folder; it takes no torch.

    ``model.onnx``, ``config.json`` with its schema, ``MODEL_CARD.md``, ``run.py``, samples with expected outputs where
    certification has left them, and ``SHA256SUMS``.

    Args:
        row: The row.
        folder: The results folder.
        destination: The folder to write; it may not exist, be empty, or be an earlier bundle.
        files: Where the file may be if it is not in the results folder.

    Raises:
        OutputError: Where the front is not re-measured yet, its file is missing or changed, or the folder cannot be
            written or holds something else.
    """
    source = _checked_file(row, folder, files)
    samples = read_samples(folder, source, str(row["sha256"]))
    paper, path = read_task_paper(folder), source.with_suffix(".json")
    described = read_description(path)
    with explain_damage(path, "the configuration of a point"):
        config = bundle_config(described, paper, 0 if samples is None else len(from_arrays("inputs", samples)))
        card = model_card(config).encode()
        BundleConfig.model_validate(json.loads(json.dumps(config, ensure_ascii=False).encode()))
    check_name(destination, "folder to export to", "another --export")
    with explain_os_errors(destination, "folder to export to", "another --export"), whole_folder(destination) as made:
        copyfile(source, made / "model.onnx")
        _write_json(made / CONFIG, config)
        _write_json(made / SCHEMA, config_schema())
        write_atomically(made / "MODEL_CARD.md", card)
        copyfile(RUN, made / "run.py")
        if samples is not None:
            write_atomically(made / SAMPLES, npz_bytes(samples))
        write_sums(made)
    return destination


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def _checked_file(row: pd.Series[Any], folder: RunFolder, files: SharedFiles | None) -> Path:
    if "file" not in row:
        raise OutputError(
            "the front was not re-measured yet, so there is no file to deploy",
            where=str(folder.path),
            expected="a search that has finished",
            got="a front from a search that is running or was stopped",
            remedy="give the search command again to finish it; a smaller --trials ends it sooner",
        )
    path = point_file(row, folder)
    _check_digest(row, folder)
    if not path.is_file() and files is not None:
        with explain_os_errors(folder.path):
            files.fetch(str(row["sha256"]), path)
    if not path.is_file():
        raise OutputError(
            "the file of that point is missing",
            where=str(path),
            remedy="run the search again: it makes the front's files anew; or name the --artifacts that hold it",
        )
    with explain_unreadable(path, "the file of that point"):
        digest = file_digest(path)
    if digest != row["sha256"]:
        raise OutputError(
            "the file of that point is not the one that was measured",
            where=str(path),
            expected=f"sha256 {row['sha256']}",
            got=f"sha256 {digest}",
            remedy="delete that file and run the search again: it makes the front's files anew",
        )
    return path


def _check_digest(row: pd.Series[Any], folder: RunFolder) -> None:
    digest = str(row["sha256"])
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise OutputError(
            "the front gives no digest of that point's file",
            where=f"{folder.front_csv}: sha256, point {row['point']}",
            expected="64 hexadecimal digits",
            got=repr(digest),
            remedy="run the search again; it only writes the front anew",
        )
