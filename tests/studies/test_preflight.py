"""Preflight: verdicts, what is kept, what is said, and the commands."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx
import optuna
import pytest

from karui.evaluators.probing import LikedMultiple, ProbeRow
from karui.evaluators.training_speed import TrainingSpeed
from karui.search.turns import Alone
from karui.spaces.axes.bits.axis import BitsAxis
from karui.spaces.axes.sparsity.axis import SparsityAxis
from karui.spaces.building.build_settings import BuildSettings
from karui.spaces.training.precision import Precision
from karui.studies.commands.views import preflight_view, training_view
from karui.studies.preflight.preflight_sentences import sentences
from karui.studies.preflight.training_check import training_speed_of
from karui.studies.preflight.verdicts import Findings, Preflight, Verdict
from karui.studies.storage.study_notes import agreed_float_operators
from karui.studies.study_file.spec import StudySpec
from karui.studies.study_file.spec_reading import load_spec
from karui.studies.study_file.task_loading import load_task

from .conftest import Command, write_study

INT8, ZEROS, CHANNELS = "8-bit weights and activations", "80 % zeroed weights", "half of the channels"


def row(variant: str, share: float, size: float, time: float | None, spread: float = 0.01) -> ProbeRow:
    return ProbeRow(f"layer of {share}", share, "bits", variant, size, time, spread)


def flown(int8: float | None = 0.6, zeros: float = 1.0, channels: float = 0.4, multiple: int = 8) -> Preflight:
    rows = (row(INT8, 0.5, 0.25, int8), row(ZEROS, 0.5, 0.3, zeros), row(CHANNELS, 0.5, 0.26, channels))
    return Preflight("here", rows, (LikedMultiple("layer", 0.5, multiple, {}),), {"processor": "a processor"})


def found_on(*targets: Preflight, training: TrainingSpeed | None = None) -> Findings:
    return Findings(targets, training)


BARE = """

class Bare(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :4]


def make_bare() -> karui.Task:
    import dataclasses

    return dataclasses.replace(make_task(), model=Bare(), baseline_epochs=0)
"""

PICKY = """

class Picky(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 4)

    def forward(self, images):
        outputs = self.linear(images.flatten(1))
        if outputs.dtype != torch.float32:
            raise RuntimeError("not implemented for 'BFloat16'")
        return outputs


def make_picky() -> karui.Task:
    import dataclasses

    return dataclasses.replace(make_task(), model=Picky(), baseline_epochs=0)
"""

STUDY = StudySpec(
    name="flown",
    task="a:b",
    bits=BitsAxis(weights=(8, 32), activations=(8, 32)),
    sparsity=SparsityAxis(removed_channels=(0.0, 0.5), zeroed_weights=(0.0, 0.5)),
    recovery=BuildSettings(channel_multiple=8),
)


def test_a_verdict_weighs_layers_by_their_share() -> None:
    rows = (row("a", 0.6, 0.5, 0.9, 0.02), row("b", 0.6, 1.0, 1.0), row("a", 0.2, 0.1, 0.5, 0.04))
    first, second = Preflight("here", rows, (), {}).verdicts()
    assert (first.variant, second.variant) == ("a", "b")
    assert first.size_ratio == pytest.approx((0.6 * 0.5 + 0.2 * 0.1) / 0.8)
    assert first.time_ratio == pytest.approx((0.6 * 0.9 + 0.2 * 0.5) / 0.8)
    assert first.time_spread == pytest.approx(math.sqrt((0.6 * 0.02) ** 2 + (0.2 * 0.04) ** 2) / 0.8)


def test_what_one_layer_cannot_run_the_variant_cannot() -> None:
    (verdict,) = Preflight("here", (row("a", 0.6, 0.5, 0.9), row("a", 0.2, 1.0, None)), (), {}).verdicts()
    assert verdict.time_ratio is None
    assert verdict.pays_in == "nothing"


@pytest.mark.parametrize(
    ("size", "time", "spread", "pays_in"),
    [
        (0.5, 0.5, 0.01, "size and speed"),
        (0.5, 0.98, 0.01, "size"),
        (0.5, 0.9, 0.2, "size"),
        (1.0, 0.5, 0.01, "speed"),
        (0.98, 1.0, 0.01, "nothing"),
        (0.5, 1.5, 0.01, "size"),
    ],
)
def test_what_counts_is_beyond_noise(size: float, time: float, spread: float, pays_in: str) -> None:
    verdict = Verdict("bits", "a", size, time, spread)
    assert verdict.pays_in == pays_in
    assert verdict.is_slower == (time == 1.5)


def test_the_multiple_is_that_of_the_layers_that_count_most() -> None:
    liked = [("a", 0.3, 4), ("b", 0.2, 8), ("c", 0.2, 8)]
    multiples = tuple(LikedMultiple(layer, share, multiple, {}) for layer, share, multiple in liked)
    assert Preflight("here", (), multiples, {}).multiple == 8
    assert Preflight("here", (), (), {}).multiple == 1


@pytest.mark.parametrize(("liked", "multiple"), [((8,), 8), ((4, 16), 16), ((8, 12), 24), ((), 1)])
def test_a_multiple_suits_every_target(liked: tuple[int, ...], multiple: int) -> None:
    assert found_on(*(flown(multiple=each) for each in liked)).multiple == multiple


def test_a_preflight_reads_back_as_it_was_written() -> None:
    found = flown()
    assert Preflight.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_only_what_cannot_pay_is_said() -> None:
    assert sentences(found_on(flown(zeros=0.5)), STUDY) == []
    (zeros,) = sentences(found_on(flown()), STUDY)
    assert zeros.startswith("on here, zeroed weights make files smaller, not faster (1.00 ± 0.01 of the time")
    none, slower, impossible = (sentences(found_on(flown(int8, 0.5)), STUDY) for int8 in (1.0, 1.4, None))
    assert "8-bit activations bring no speed (1.00" in none[0]
    assert "8-bit activations make files slower (1.40" in slower[0]
    assert impossible == ["on here, layers with 8-bit activations cannot run: all such files will fail"]
    (channels,) = sentences(found_on(flown(zeros=0.5, channels=1.0)), STUDY)
    assert "fewer channels are no faster (1.00" in channels
    (multiple,) = sentences(found_on(flown(zeros=0.5, multiple=16)), STUDY)
    assert "channel_multiple = 16 in [recovery] would waste less than 8" in multiple
    assert sentences(found_on(flown(zeros=0.5, multiple=4)), STUDY) == []
    auto = STUDY.model_copy(update={"recovery": BuildSettings(channel_multiple="auto")})
    assert sentences(found_on(flown(zeros=0.5, multiple=16)), auto) == []


def test_the_whole_model_counts_where_it_was_timed() -> None:
    whole = (ProbeRow("the whole model", 1.0, "bits", INT8, 0.3, 1.54, 0.02),)
    layers = flown(0.4, zeros=0.5)
    found = replace(layers, whole=whole, float_operators=("depthwise", "elementwise"))
    verdict = next(each for each in found.verdicts() if each.variant == INT8)
    assert (verdict.size_ratio, verdict.time_ratio) == (0.3, 1.54)
    assert [each.variant for each in found.verdicts()] == [each.variant for each in layers.verdicts()]
    slower, left = sentences(found_on(found), STUDY)
    assert "8-bit activations make files slower (1.54 ± 0.02 of the model's own time)" in slower
    assert "some operators stay float32: depthwise, elementwise" in left
    assert found_on(found, layers).float_operators == ("depthwise", "elementwise")
    assert Preflight.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    text = preflight_view(found).plain
    assert "0.65 ± 0.01x  size, slower" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_what_stays_float_is_agreed_once_and_never_changes_a_study_with_files() -> None:
    first, begun = (optuna.create_study() for _ in range(2))
    assert agreed_float_operators(first, ("depthwise",), Alone()) == ("depthwise",)
    assert agreed_float_operators(first, ("linear",), Alone()) == ("depthwise",)
    begun.add_trial(optuna.trial.create_trial(value=1.0))
    assert agreed_float_operators(begun, ("depthwise",), Alone()) == ()


def test_nothing_is_said_of_an_axis_that_is_not_searched() -> None:
    only_weights = StudySpec(name="flown", task="a:b", bits=BitsAxis(weights=(4, 32), activations=(32,)))
    assert sentences(found_on(flown(1.4, 1.0, 1.0, 16)), only_weights) == []


@pytest.mark.parametrize(("ratio", "better"), [(0.5, "bfloat16"), (0.98, None), (1.0, None), (1.5, "float32")])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_precision_that_trains_faster_is_said(ratio: float, better: str | None, precision: Precision) -> None:
    spec = StudySpec(name="a", task="a:b", bits=BitsAxis(), recovery=BuildSettings(precision=precision))
    said = sentences(found_on(training=TrainingSpeed(ratio, 0.01)), spec)
    assert len(said) == (better not in (None, precision))
    assert all(f"takes {ratio:.2f} ± 0.01 of the time of float32" in each for each in said)
    assert all(f'precision = "{better}" in [recovery]' in each for each in said)


def test_a_model_that_cannot_train_in_bfloat16_is_told_where_that_is_asked(tmp_path: Path) -> None:
    spec = load_spec(write_study(tmp_path, code=PICKY, function="make_picky"))
    task = load_task(spec.task, spec.folder, {})
    kept = tmp_path / "preflight.json"
    assert training_speed_of(task, spec, kept=kept) is None
    assert not kept.exists()
    assert sentences(found_on(), spec) == []
    asked = spec.model_copy(update={"recovery": BuildSettings(precision="bfloat16")})
    assert sentences(found_on(), asked) == [
        'a training step in bfloat16 fails here: precision = "float32" in [recovery] may not'
    ]


def test_what_is_known_of_training_waits_for_nobody(tmp_path: Path) -> None:
    spec = load_spec(write_study(tmp_path))
    task = load_task(spec.task, spec.folder, {})
    held: list[str] = []

    @contextmanager
    def alone() -> Iterator[None]:
        held.append("held")
        yield

    first, again = (training_speed_of(task, spec, kept=tmp_path / "kept.json", alone=alone) for _ in range(2))
    assert first == again
    assert held == ["held"]


def test_noise_makes_no_precision_faster() -> None:
    spec = StudySpec(name="a", task="a:b", bits=BitsAxis())
    assert sentences(found_on(training=TrainingSpeed(0.7, 0.4)), spec) == []


def test_the_view_fits_eighty_columns() -> None:
    text = preflight_view(flown(None, 1.4)).plain
    assert all(len(line) <= 80 for line in text.splitlines())
    assert f"{INT8}{'':<5}" in text
    assert "cannot run  nothing" in text
    assert "0.71 ± 0.01x  size, slower" in text
    assert "channels: in multiples of 8" in text
    assert " ".join(training_view(TrainingSpeed(0.5, 0.01)).plain.split()) == "training here in bfloat16 2.00 ± 0.04x"


def test_a_preflight_is_flown_once_for_a_target_and_settings(karui_command: Command, tmp_path: Path) -> None:
    write_study(tmp_path, probed_layers=1)
    first = karui_command("preflight", "tiny.toml")
    assert first.code == 0
    assert "3x3 convolution, 16 channels" in first.out
    assert "80 % zeroed weights" in first.out
    kept = tmp_path / "runs" / "tiny" / "preflight.json"
    before = kept.read_text()
    assert [key.partition("-")[0] for key in json.loads(before)][1:] == ["training"]
    assert first.out.splitlines()[-1].startswith(("training here in bfloat16", "note: "))
    assert karui_command("preflight", "tiny.toml").out == first.out
    assert kept.read_text() == before  # another measurement would have other numbers
    write_study(tmp_path, probed_layers=2)
    assert karui_command("preflight", "tiny.toml").code == 0
    assert len(json.loads(kept.read_text())) == 3, "training was known"


def test_a_broken_file_of_kept_results_is_measured_anew(karui_command: Command, tmp_path: Path) -> None:
    write_study(tmp_path, probed_layers=1)
    kept = tmp_path / "runs" / "tiny" / "preflight.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{", encoding="utf-8")
    assert karui_command("preflight", "tiny.toml").code == 0
    assert len(json.loads(kept.read_text())) == 2


def test_a_model_without_layers_is_told(karui_command: Command, tmp_path: Path) -> None:
    write_study(tmp_path, probed_layers=1, code=BARE, function="make_bare")
    found = karui_command("preflight", "tiny.toml")
    assert found.code == 2
    assert "no probe can be built of this model" in found.err


def test_a_search_says_first_what_cannot_pay(karui_command: Command, tmp_path: Path) -> None:
    write_study(tmp_path, probed_layers=1)
    assert karui_command("search", "tiny.toml", "--trials", "2").code == 0
    assert (tmp_path / "runs" / "tiny" / "preflight.json").exists()
    log = (tmp_path / "runs" / "tiny" / "log.jsonl").read_text()
    assert "preflight: 3x3 convolution, 16 channels" in log or "zeroed weights make files smaller, not faster" in log


ONLY_CHANNELS = """
[sparsity]
removed_channels = [0.5]
zeroed_weights = [0.0]

[recovery]
epochs = 1
batch_size = 32
channel_multiple = "auto"

[latency]
max_seconds = 0.05
"""


@pytest.mark.parametrize(("liked", "left", "workers"), [(2, {4, 8}, 0), (16, {4, 16}, 1)])
def test_channels_are_left_in_the_multiples_that_the_preflight_found(
    karui_command: Command, tmp_path: Path, liked: int, left: set[int], workers: int
) -> None:
    write_study(tmp_path, probed_layers=1, axes=ONLY_CHANNELS, workers=workers)
    assert karui_command("preflight", "tiny.toml").code == 0
    folder = tmp_path / "runs" / "tiny"
    _pretend(folder / "preflight.json", liked)
    assert karui_command("search", "tiny.toml", "--trials", "2").code == 0
    assert f"channels are left in multiples of {liked}" in (folder / "log.jsonl").read_text()
    (student,) = (folder / "build" / "files").glob("*.onnx")
    weights = [item for item in onnx.load(student).graph.initializer if len(item.dims) == 4]
    assert {weight.dims[0] for weight in weights} == left, "layers of fewer channels than a multiple are not rounded"
    # what another machine finds later changes nothing
    _pretend(folder / "preflight.json", 4)
    assert karui_command("search", "tiny.toml", "--trials", "3").code == 0
    assert "channels are left in multiples of 4" not in (folder / "log.jsonl").read_text()


def _pretend(kept: Path, liked: int) -> None:
    found = json.loads(kept.read_text(encoding="utf-8"))
    for each in found.values():
        for row in each.get("multiples", ()):
            row["multiple"] = liked
    kept.write_text(json.dumps(found), encoding="utf-8")
