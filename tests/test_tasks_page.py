"""The examples of docs/tasks.md run as they stand, and their tasks become files."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import onnxruntime
import pytest

from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.prediction import metric_of

PAGE = Path(__file__).parents[1] / "docs" / "tasks.md"


@pytest.mark.filterwarnings("ignore:Task")
def test_the_examples_run_and_have_inputs_and_outputs_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("examples")
    monkeypatch.setitem(sys.modules, "examples", module)  # where dataclasses look
    names: dict[str, Any] = module.__dict__
    found = []
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)):
        exec(compile(block, PAGE.name, "exec"), names)
        task, path = names["task"], tmp_path / f"{number}.onnx"
        export_onnx(task.model, task.calibration_batch(4), path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found.append([[each.name for each in side] for side in (session.get_inputs(), session.get_outputs())])
        assert metric_of(task.model, task, task.validation) <= 1.0
    assert found == [
        [["image", "numbers"], ["output"]],
        [["input_ids", "attention_mask"], ["logits"]],
        [["input"], ["boxes", "scores"]],
    ]
