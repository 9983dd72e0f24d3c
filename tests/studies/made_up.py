"""Results of studies that never ran, of any number of trials: folders as a search leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from karui.evaluators.measurement import Measurement
from karui.search.objectives import OBJECTIVES
from karui.search.outcome import Outcome
from karui.search.statistics.front import pareto_mask
from karui.spaces.candidate import Candidate
from karui.studies.storage.store import open_study
from karui.studies.storage.study_notes import note_baseline

CONDITIONS = {"processor": "Abacus", "host": "desk", "threads": 1, "provider": "CPUExecutionProvider", "batch_size": 1}
BASELINE = {
    "size_bytes": Measurement("size_bytes", 400_000.0, "bytes"),
    "latency_ms": Measurement("latency_ms", 2.0, "ms", 0.01, 50, CONDITIONS),
    "accuracy": Measurement("accuracy", 0.95, "1", 0.01, 500, {"metric": "accuracy", "split": "validation"}),
    "test_accuracy": Measurement("test_accuracy", 0.94, "1", 0.01, 500, {"metric": "accuracy", "split": "test"}),
}
KINDS = ("baseline", "student", "cell")
BITS = (2, 3, 4, 8, 32)


def made_up_trials(count: int, seed: int = 0) -> pd.DataFrame:
    """A table of trials as ``trials.csv`` has it: most are measured, some stopped, failed or known already."""
    chance = np.random.default_rng(seed)
    bits, zeros = chance.choice(BITS, count), chance.choice([0.0, 0.5, 0.8], count)
    kinds = chance.choice(KINDS, count)
    # the smaller the less accurate, with luck: so that the front has many points
    size = 400_000 * bits / 32 * (1 - zeros / 2) * chance.uniform(0.2, 1.0, count)
    latency = 2.0 * chance.uniform(0.15, 1.1, count) * (1 + 0.4 * (kinds == "baseline"))
    accuracy = 0.97 - 0.03 / np.log2(bits + 1) - 0.02 * zeros - 0.04 * chance.exponential(1, count) / latency**0.3
    states = chance.choice(["evaluated", "stopped", "failed", "duplicate"], count, p=[0.85, 0.08, 0.04, 0.03])
    states[:3] = "evaluated"
    measured = states == "evaluated"
    table = pd.DataFrame(
        {
            "trial": np.arange(count),
            "state": states,
            "stage": np.select([states == "stopped", states == "failed"], ["front", "recovery"], ""),
            "reason": np.select(
                [states == "stopped", states == "failed"],
                [[f"dominated by trial {n}" for n in range(count)], "the loss is not finite"],
                "",
            ),
            "kind": kinds,
            "candidate": [
                f"{kind}, {zero:.0%} zeros, w{bit} a8" for kind, zero, bit in zip(kinds, zeros, bits, strict=True)
            ],
            "key": [f"{number:016x}" for number in range(count)],
            "feasible": np.where(measured, accuracy >= 0.6, None),
            "on_front": False,
            "seconds": 1.0,
            "architecture": kinds,
            "sparsity.zeroed_weights": zeros,
            "bits.weights": bits,
            "bits.activations": np.where(bits == 32, np.nan, 8),
            "student.family": [{"student": "shallower"}.get(kind) for kind in kinds.tolist()],
            "size_bytes": np.where(measured, np.round(size), np.nan),
            "latency_ms": np.where(measured, latency, np.nan),
            "latency_ms_spread": np.where(measured, 0.01 * latency, np.nan),
            "accuracy": np.where(measured, accuracy, np.nan),
            "accuracy_spread": np.where(measured, 0.01, np.nan),
        }
    )
    kept = np.flatnonzero(measured & (accuracy >= 0.6))
    values = table.loc[kept, ["size_bytes", "latency_ms", "accuracy"]].to_numpy(float)
    table.loc[kept[pareto_mask(values, OBJECTIVES)], "on_front"] = True
    return table


def made_up_front(trials: pd.DataFrame) -> pd.DataFrame:
    """The front of these trials as ``front.csv`` has it, test accuracy a little below validation."""
    columns = ["size_bytes", "latency_ms", "accuracy"]
    rows = trials[trials["on_front"]].sort_values(columns).reset_index(drop=True)
    rows.insert(0, "point", [f"p{rank:02d}" for rank in range(1, len(rows) + 1)])
    rows["latency_ratio"] = rows["latency_ms"] / BASELINE["latency_ms"].value
    rows["test_accuracy"] = rows["accuracy"] - 0.01 * np.sin(np.arange(len(rows))) - 0.01
    rows["test_accuracy_spread"] = 0.02
    rows["size_x"] = BASELINE["size_bytes"].value / rows["size_bytes"]
    rows["drop_points"] = 100 * (BASELINE["test_accuracy"].value - rows["test_accuracy"])
    rows["holds"] = np.arange(len(rows)) % 5 != 4
    rows["sha256"] = "00"
    rows["file"] = [f"front/{name}.onnx" for name in rows["point"]]
    unwanted = ["state", "stage", "reason", "feasible", "on_front", "seconds"]
    return rows.drop(columns=unwanted)


def write_results(folder: Path, trials: pd.DataFrame, front: pd.DataFrame | None = None) -> pd.DataFrame:
    """Write a results folder with these trials and their front, without a database; return the front."""
    front = made_up_front(trials) if front is None else front
    (folder / "front").mkdir(parents=True)
    trials.to_csv(folder / "trials.csv", index=False)
    front.to_csv(folder / "front.csv", index=False)
    for row in front.to_dict("records"):
        plain = {"study": folder.name, **describe(row)}
        (folder / "front" / f"{row['point']}.json").write_text(json.dumps(plain), encoding="utf-8")
    return front


def describe(row: dict[Any, Any]) -> dict[str, Any]:
    """The description beside a file of the front, as far as it is read."""
    measured = [
        Measurement("size_bytes", row["size_bytes"], "bytes"),
        Measurement("latency_ms", row["latency_ms"], "ms", row["latency_ms_spread"], 20, CONDITIONS),
        Measurement("latency_ratio", row["latency_ratio"], "1", 0.01, 20, CONDITIONS),
        Measurement("test_accuracy", row["test_accuracy"], "1", 0.02, 500, {"metric": "accuracy", "split": "test"}),
    ]
    return {
        "candidate": Candidate(zeroed_weights=0.5, weight_bits=4, activation_bits=8).to_dict(),
        "measurements": {item.name: item.to_dict() for item in measured},
        "baseline": {name: item.to_dict() for name, item in BASELINE.items()},
        "versions": {"karui": "0.1.0", "onnxruntime": "1.32.0"},
    }


def store_trials(folder: Path, trials: pd.DataFrame, name: str = "made-up", least_accuracy: float = 0.6) -> str:
    """Put these trials into a database as a search would, and return its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{folder / 'study.db'}"
    study = open_study(storage, name, create=True)
    study.set_user_attr("meaning", {"bounds": {"min_accuracy": least_accuracy}})
    study.set_user_attr("training_seed", 7)
    searched = {key: item for key, item in BASELINE.items() if key != "test_accuracy"}
    note_baseline(study, "00", searched)
    study.add_trials([_stored(row, least_accuracy) for row in trials.to_dict("records")])
    return storage


def _stored(row: dict[Any, Any], least_accuracy: float) -> optuna.trial.FrozenTrial:
    candidate = Candidate(zeroed_weights=row["sparsity.zeroed_weights"], weight_bits=row["bits.weights"])
    attributes: dict[str, Any] = {"candidate": candidate.to_dict(), "summary": candidate.describe()}
    parameters = {"bits.weights": row["bits.weights"], "sparsity.zeroed_weights": row["sparsity.zeroed_weights"]}
    given: dict[str, Any] = {"state": TrialState.PRUNED}
    if row["state"] == "evaluated":
        outcome = Outcome(
            {
                "size_bytes": Measurement("size_bytes", row["size_bytes"], "bytes"),
                "latency_ms": Measurement("latency_ms", row["latency_ms"], "ms", 0.01, 20, CONDITIONS),
                "latency_ratio": Measurement("latency_ratio", row["latency_ms"] / 2.0, "1", 0.01, 20, CONDITIONS),
                "accuracy": Measurement("accuracy", row["accuracy"], "1", 0.01, 500, {"split": "validation"}),
            },
            "00",
        )
        attributes |= outcome.to_dict()
        values = [row["size_bytes"], row["latency_ms"], row["accuracy"]]
        excess = (least_accuracy - row["accuracy"]) / least_accuracy
        given = {"values": values, "constraints": {"accuracy": excess}}
    else:
        attributes |= {"stage": row["stage"], "reason": row["reason"], "status": row["state"]}
    return optuna.trial.create_trial(
        params=parameters,
        distributions={
            "bits.weights": CategoricalDistribution(BITS),
            "sparsity.zeroed_weights": CategoricalDistribution((0.0, 0.5, 0.8)),
        },
        user_attrs=attributes,
        **given,
    )
