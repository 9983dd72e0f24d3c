"""The folder that goes to the device: the file, its configuration, and how to load it."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any

from ..errors import OutputError
from ..spaces.artifact import file_digest
from .folder import RunFolder, explain_os_errors, write_atomically
from .read import read_description

if TYPE_CHECKING:
    import pandas as pd

    from .shared_files import SharedFiles


def export_bundle(row: pd.Series[Any], folder: RunFolder, destination: Path, files: SharedFiles | None = None) -> Path:
    """Write ``model.onnx``, ``config.json`` and ``README.md`` for one row of a front, and return the folder.

    Args:
        row: The row.
        folder: The results folder.
        destination: The folder to write to.
        files: Where the file may be if it is not in the results folder.

    Raises:
        OutputError: Where the front is not re-measured yet, its file is missing or changed, or the folder cannot be
            written.
    """
    source = _checked_file(row, folder, files)
    described = read_description(source.with_suffix(".json"))
    with explain_os_errors(destination, "folder to export to", "another --export"):
        destination.mkdir(parents=True, exist_ok=True)
        copyfile(source, destination / "model.onnx")
        text = json.dumps(described, indent=2, ensure_ascii=False)
        write_atomically(destination / "config.json", text.encode())
        write_atomically(destination / "README.md", _readme(described).encode())
    return destination


def _checked_file(row: pd.Series[Any], folder: RunFolder, files: SharedFiles | None) -> Path:
    if "file" not in row:
        raise OutputError(
            "the front was not re-measured yet, so there is no file to deploy",
            where=str(folder.path),
            expected="a search that has finished",
            got="a front from a search that is running or was stopped",
            remedy="give the search command again to finish it; a smaller --trials ends it sooner",
        )
    path = folder.path / str(row["file"])
    if not path.is_file() and files is not None:
        with explain_os_errors(folder.path):
            files.fetch(str(row["sha256"]), path)
    if not path.is_file():
        raise OutputError(
            "the file of that point is missing",
            where=str(path),
            remedy="run the search again: it makes the front's files anew; or name the --artifacts that hold it",
        )
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


def _readme(described: dict[str, Any]) -> str:
    found, baseline = described["measurements"], described["baseline"]
    size, size_before = found["size_bytes"]["value"], baseline["size_bytes"]["value"]
    ratio, test, test_before = found["latency_ratio"], found["test_accuracy"], baseline["test_accuracy"]
    conditions, metric = ratio["conditions"], test["conditions"]["metric"]
    return f"""# {described["study"]}: {described["point"]}

{described["summary"]}

| | this file | your model (float32) |
|---|---|---|
| size | {size:,.0f} bytes ({size_before / size:.1f}x smaller) | {size_before:,.0f} bytes |
| speed | {1 / ratio["value"]:.2f}x | 1x |
{_slow_inputs(found)}{_loading(found)}| {metric}, test split | {_interval(test)} | {_interval(test_before)} |

Speed is the ratio of {_statistic(found)}, timed in alternation with the float32 model on {conditions["processor"]},
{conditions["threads"]} thread(s), {conditions["provider"]}, onnxruntime {conditions["onnxruntime"]}.
On another device, measure again. ± is half the width of the 95 % interval.

## Load it

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["{conditions["provider"]}"])
name = session.get_inputs()[0].name
shape = [size if isinstance(size, int) else 1 for size in session.get_inputs()[0].shape]
(outputs,) = session.run(None, {{name: np.zeros(shape, dtype=np.float32)}})
```

Inputs are prepared just as for the float32 model{_one_by_one(described)}. `config.json` holds the candidate, every
measurement with its conditions, the versions it was made with, and the file's digest:

    sha256 {described["sha256"]}
"""


def _slow_inputs(found: dict[str, Any]) -> str:
    """Return the row of the table, nothing where latency was not measured over inputs."""
    if (tail := found.get("latency_p95_ratio")) is None:
        return ""
    return f"| latency, 95th percentile over inputs | {tail['value']:.2f}x | 1x |\n"


def _statistic(found: dict[str, Any]) -> str:
    if (tail := found.get("latency_p95_ratio")) is None:
        return "medians"
    conditions = tail["conditions"]
    return f"means over {conditions['inputs']} inputs of the {conditions['split']} split"


def _one_by_one(described: dict[str, Any]) -> str:
    return ", and given one at a time" if described["candidate"].get("exit_depth") else ""


def _loading(found: dict[str, Any]) -> str:
    """Return the rows of the table, without what the target could not tell."""
    if "load_ms" not in found:
        return _load_memory(found)
    time = f"| load time | {found['load_ms']['value']:.1f} ms ({found['load_ratio']['value']:.2f}x) | 1x |\n"
    return time + _load_memory(found)


def _load_memory(found: dict[str, Any]) -> str:
    """Return the row of the table, nothing where the operating system could not tell."""
    if (peak := found.get("load_peak_bytes")) is None:
        return ""
    here, there = peak["value"] / 1e6, peak["conditions"]["reference_bytes"] / 1e6
    return f"| load memory, at its highest | {here:,.0f} MB | {there:,.0f} MB |\n"


def _interval(measurement: dict[str, Any]) -> str:
    return f"{measurement['value']:.4f} ± {measurement['spread']:.4f}"
