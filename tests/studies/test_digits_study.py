"""The main job as a newcomer types it: the bundled study, all four axes, from nothing to a front."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest

CODE = "from karui.studies.cli import main; main()"

TRIALS = 48
HOURS = 0.75
"""Three times what the study gives itself: a machine of half the speed comes to the end of its trials as well."""


def karui(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CODE, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(3600)
def test_the_bundled_study_searches_all_four_axes(tmp_path: Path) -> None:
    ended = karui(tmp_path, "search", "digits", "--hours", str(HOURS))
    assert ended.returncode == 0, ended.stderr
    trials = pd.read_csv(tmp_path / "runs/digits/trials.csv")
    evaluated = trials[trials["state"] == "evaluated"]
    assert len(trials[trials["state"].isin(["evaluated", "failed"])]) == TRIALS
    assert len(evaluated) >= TRIALS - 8
    assert evaluated["key"].is_unique

    assert set(evaluated["architecture"]) == {"baseline", "student", "cell"}
    assert set(evaluated["bits.weights"]) == {2, 3, 4, 8, 16, 32}
    assert set(evaluated["bits.activations"].dropna()) == {8, 32}
    assert evaluated["sparsity.removed_channels"].max() > 0
    assert evaluated["sparsity.zeroed_weights"].max() > 0
    assert {"shallower", "mobilenet_v3_small"} >= set(evaluated["student.family"].dropna())

    front = pd.read_csv(tmp_path / "runs/digits/front.csv")
    assert len(front) >= 3
    assert front["size_x"].max() > 5, "something on the front is much smaller"
    assert front["speed_x"].max() > 1.5, "something on the front is much faster"
    assert front["test_accuracy"].max() > 0.97, "something on the front is as good as the baseline"
    for _, row in front.iterrows():
        path = tmp_path / "runs/digits" / row["file"]
        assert path.stat().st_size == row["size_bytes"]
        onnx.checker.check_model(onnx.load(path))

    again = karui(tmp_path, "search", "digits")
    assert again.returncode == 0, again.stderr
    counted = pd.read_csv(tmp_path / "runs/digits/trials.csv")["state"].isin(["evaluated", "failed"])
    assert counted.sum() == TRIALS, "all was done"
    picked = karui(tmp_path, "pick", "digits", "--prefer", "size", "--export", "deploy")
    assert picked.returncode == 0, picked.stderr
    assert (tmp_path / "deploy/model.onnx").stat().st_size == front["size_bytes"].min()
    assert np.isfinite(front["latency_ratio"]).all()
