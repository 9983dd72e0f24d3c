"""The supernet against the networks extracted from it, closed forms of what is shared, and how it is trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from karui.errors import CandidateFailure, OutputError
from karui.spaces.axes.stages.axis import StagesAxis
from karui.spaces.axes.stages.choice import Stage, StageNetwork
from karui.spaces.axes.stages.shared_stages import RANDOM_NETWORKS, StageNetworks
from karui.spaces.axes.supernet.supernet_training import train_supernet
from karui.spaces.axes.supernet.weights import MOST_SKELETONS, Supernet, load_supernet, save_supernet, shared_part
from karui.spaces.task import Task
from karui.spaces.training.batch_statistics import reestimate_normalization
from karui.spaces.training.recovery import TrainingSettings, metric_of

from .supernets import made_up_supernet, run

AXIS = StagesAxis(stages=2, channels=(2, 4), expansions=(1, 3))
SHAPE = (1, 8, 8)
QUICK = TrainingSettings(epochs=2, batch_size=32, learning_rate=2e-2, device="cpu")
TINY = StagesAxis(stages=2, channels=(4,), kernels=(3, 5), expansions=(1, 3))
LARGEST = AXIS.largest()
NETWORKS, TINY_NETWORKS = StageNetworks(AXIS, SHAPE, 3), StageNetworks(TINY, SHAPE, 3)

stages = st.builds(Stage, st.sampled_from([3, 5, 7]), st.sampled_from([1, 3]), st.booleans(), st.integers(1, 2))
choices = st.builds(StageNetwork, st.sampled_from([2, 4]), st.tuples(stages, stages))


class Draw:
    def __init__(self, seed: int) -> None:
        self._chance = Random(seed)

    def suggest_categorical(self, _name: str, choices: Sequence[Any]) -> Any:
        return self._chance.choice(choices)


def make_supernet(seed: int = 0) -> Supernet[StageNetwork]:
    return made_up_supernet(NETWORKS, seed)


@lru_cache(maxsize=1)
def shared_supernet() -> Supernet[StageNetwork]:
    """One that examples share, for tests that leave its weights alone."""
    return make_supernet()


def images(count: int, seed: int = 3) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def weight_of(network: nn.Module, name: str) -> Tensor:
    return network.get_parameter(name).detach()


@given(choices)
@settings(deadline=None, max_examples=30)
def test_extracted_network_computes_exactly_what_the_supernet_does(choice: StageNetwork) -> None:
    network = shared_supernet().extract(choice)
    with torch.no_grad():
        assert torch.equal(run(shared_supernet(), choice, images(5)), network(images(5)))


@given(choices)
@settings(deadline=None, max_examples=15)
def test_so_it_does_after_estimating_normalization_anew(choice: StageNetwork) -> None:
    supernet = make_supernet()
    network = supernet.extract(choice)
    before = run(supernet, choice, images(5))
    for module in (supernet, network):
        reestimate_normalization(module, [images(16, seed) for seed in (5, 6)])
    with torch.no_grad():
        after = supernet(images(5))
        assert torch.equal(after, network(images(5)))
    assert not torch.equal(after, before)


def test_the_largest_network_is_the_shared_weights() -> None:
    supernet = shared_supernet()
    extracted = supernet.extract(LARGEST).state_dict()
    shared = supernet.shared.state_dict()
    assert list(extracted) == list(shared)
    assert all(torch.equal(extracted[name], shared[name]) for name in shared)
    with torch.no_grad():
        assert torch.equal(run(supernet, LARGEST, images(4)), supernet.shared(images(4)))


def test_deeper_networks_begin_as_shallower_ones() -> None:
    supernet = Supernet(NETWORKS).eval()
    shallow = StageNetwork(4, tuple(replace(stage, depth=1) for stage in LARGEST.stages))
    assert torch.equal(run(supernet, shallow, images(4)), run(supernet, LARGEST, images(4)))


def test_kernels_are_centres_of_the_largest_kernel() -> None:
    seven = torch.arange(49.0).reshape(1, 1, 7, 7)
    three = shared_part(seven, torch.Size((1, 1, 3, 3)))
    assert three.tolist() == [[[[16, 17, 18], [23, 24, 25], [30, 31, 32]]]]
    five = shared_part(seven, torch.Size((1, 1, 5, 5)))
    assert five[0, 0, 0].tolist() == [8, 9, 10, 11, 12]
    assert five[0, 0, :, 0].tolist() == [8, 15, 22, 29, 36]


def test_channels_and_blocks_are_the_leading_ones() -> None:
    supernet = shared_supernet()
    network = supernet.extract(StageNetwork(2, (Stage(5, 3, True, 1), Stage(3, 1, False, 2))))
    name = "stages.0.0.depthwise.convolution.weight"
    assert torch.equal(weight_of(network, name), weight_of(supernet.shared, name)[:6, :, 1:6, 1:6])
    name = "stages.0.0.gate.squeeze.weight"  # 2 * 3 channels squeezed into 4 of the largest network's 4
    assert torch.equal(weight_of(network, name), weight_of(supernet.shared, name)[:4, :6])
    name = "stages.1.1.depthwise.convolution.weight"  # no expansion: as many as the block's inputs
    assert torch.equal(weight_of(network, name), weight_of(supernet.shared, name)[:4, :, 2:5, 2:5])
    name = "linear.weight"
    assert torch.equal(weight_of(network, name), weight_of(supernet.shared, name)[:, :4])
    names = set(network.state_dict())
    assert not any(name.startswith(("stages.0.1.", "stages.1.0.gate.", "stages.1.0.expand.")) for name in names)


def test_a_shared_weight_changes_every_network_that_has_it_and_no_other() -> None:
    supernet = make_supernet()
    with_three, with_seven = (StageNetwork(4, (Stage(kernel, 3, False, 1),) * 2) for kernel in (3, 7))
    weight = supernet.shared.get_parameter("stages.0.0.depthwise.convolution.weight")
    before = [run(supernet, choice, images(4)) for choice in (with_three, with_seven)]
    with torch.no_grad():
        weight[0, 0, 0, 0] += 1.0  # a corner of the 7x7 kernel
    after = [run(supernet, choice, images(4)) for choice in (with_three, with_seven)]
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])
    with torch.no_grad():
        weight[0, 0, 3, 3] += 1.0  # its centre
    last = [run(supernet, choice, images(4)) for choice in (with_three, with_seven)]
    assert not torch.equal(after[0], last[0])
    assert not torch.equal(after[1], last[1])


def test_an_extracted_network_goes_its_own_way() -> None:
    supernet = make_supernet()
    before = copy.deepcopy(supernet.state_dict())
    network = supernet.extract(AXIS.smallest()).train()
    network(images(4)).sum().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            assert parameter.grad is not None
            parameter.add_(1.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.state_dict().items())
    assert all(parameter.grad is None for parameter in supernet.parameters())


@given(choices)
@settings(deadline=None, max_examples=15)
def test_gradients_are_those_of_the_extracted_network_and_zero_elsewhere(choice: StageNetwork) -> None:
    supernet = make_supernet()
    network = supernet.extract(choice)
    supernet.set(choice)
    for module in (supernet, network):
        module(images(4)).square().sum().backward()
    own = dict(network.named_parameters())
    for name, shared in supernet.shared.named_parameters():
        if name not in own:
            assert shared.grad is None
            continue
        expected = torch.zeros_like(shared)
        shape, gradient = own[name].shape, own[name].grad
        assert gradient is not None
        if "depthwise.convolution" in name:
            border = (shared.shape[-1] - shape[-1]) // 2
            expected[: shape[0], :, border : border + shape[2], border : border + shape[3]] = gradient
        else:
            expected[tuple(slice(length) for length in shape)] = gradient
        torch.testing.assert_close(shared.grad, expected)


def test_training_mode_updates_the_statistics_of_the_channels_that_ran() -> None:
    supernet = make_supernet()
    before = copy.deepcopy(supernet.shared.state_dict())
    supernet.train()
    run(supernet, AXIS.smallest(), images(8))
    after = supernet.shared.state_dict()
    inputs = torch.nn.functional.conv2d(images(8), before["stem.convolution.weight"][:2], padding=1)
    expected = 0.9 * before["stem.normalization.running_mean"][:2] + 0.1 * inputs.mean(dim=(0, 2, 3))
    torch.testing.assert_close(after["stem.normalization.running_mean"][:2], expected)
    for name in ("stem.normalization.running_mean", "stages.0.0.depthwise.normalization.running_var"):
        assert torch.equal(after[name][2:], before[name][2:])
        assert not torch.equal(after[name][:2], before[name][:2])


def test_choosing_and_extracting_leave_the_callers_random_numbers() -> None:
    supernet = make_supernet()
    before = torch.random.get_rng_state()
    supernet.set(AXIS.smallest())
    supernet.extract(LARGEST)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_more_networks_than_are_kept_can_be_chosen() -> None:
    supernet, draw = make_supernet(), Draw(0)
    drawn = [AXIS.suggest_network(draw) for _ in range(MOST_SKELETONS + 6)]
    for choice in drawn:
        supernet.set(choice)
    for choice in drawn[:2]:
        with torch.no_grad():
            assert torch.equal(run(supernet, choice, images(2)), supernet.extract(choice)(images(2)))


@pytest.mark.parametrize(
    "choice",
    [
        StageNetwork(8, LARGEST.stages),
        StageNetwork(4, (*LARGEST.stages, Stage(3, 1, False, 1))),
        StageNetwork(4, (replace(LARGEST.stages[0], depth=3), LARGEST.stages[1])),
        StageNetwork(4, (replace(LARGEST.stages[0], expansion=6), LARGEST.stages[1])),
    ],
)
def test_network_that_does_not_fit_is_refused(choice: StageNetwork) -> None:
    with pytest.raises(ValueError, match=r"does not fit into the supernet of .*: no weights for "):
        shared_supernet().extract(choice)


def test_training_repeats_under_its_seed_and_leaves_the_callers_random_numbers(tiny_task: Task) -> None:
    noisy = replace(tiny_task, augment=lambda inputs: inputs + 0.1 * torch.randn_like(inputs))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    once = replace(QUICK, epochs=1)
    states = [train_supernet(TINY_NETWORKS, noisy, once).state_dict()]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    states.append(train_supernet(TINY_NETWORKS, noisy, once).state_dict())
    states.append(train_supernet(TINY_NETWORKS, noisy, replace(once, seed=1)).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_both_ends_and_a_network_between_learn(tiny_task: Task) -> None:
    supernet = train_supernet(TINY_NETWORKS, tiny_task, replace(QUICK, epochs=6))
    assert not any(module.training for module in supernet.modules())
    inputs = torch.stack([tiny_task.train[index][0] for index in range(192)])
    for choice in (TINY.smallest(), StageNetwork(4, (Stage(5, 1, True, 1), Stage(3, 3, False, 2))), TINY.largest()):
        network = supernet.extract(choice)
        reestimate_normalization(network, inputs)
        assert metric_of(network, tiny_task, tiny_task.validation) > 0.8


def test_a_step_runs_both_ends_and_random_networks_and_shows_targets_to_the_largest_only(
    tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[StageNetwork] = []
    losses = 0
    set_choice = Supernet.set

    def recorded(self: Supernet[StageNetwork], choice: StageNetwork) -> None:
        ran.append(choice)
        set_choice(self, choice)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal losses
        losses += 1
        assert ran[-1] == TINY.largest()
        return nn.functional.cross_entropy(outputs, targets)

    monkeypatch.setattr(Supernet, "set", recorded)
    train_supernet(TINY_NETWORKS, replace(tiny_task, loss=loss), replace(QUICK, epochs=1))
    steps, networks = 192 // 32, 2 + RANDOM_NETWORKS
    of_steps = [ran[start : start + networks] for start in range(1, len(ran) - 1, networks)]
    assert len(of_steps) == steps
    assert losses == 1 + steps, "once before, to tell whether it takes outputs for logits"
    assert all(step[:2] == [TINY.largest(), TINY.smallest()] for step in of_steps)
    assert len({choice for step in of_steps for choice in step[2:]}) > steps


def test_the_teacher_teaches_the_largest(tiny_task: Task) -> None:
    """With all weight on a teacher that always says the same class, every network comes to say it."""

    class Stubborn(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.tensor([0.0, 9.0, 0.0]).expand(len(inputs), 3)

    taught = replace(QUICK, epochs=4, distillation_weight=1.0)
    supernet = train_supernet(TINY_NETWORKS, tiny_task, taught, teacher=Stubborn())
    for choice in (TINY.smallest(), TINY.largest()):
        network = supernet.extract(choice)
        inputs = torch.stack([tiny_task.train[index][0] for index in range(192)])
        reestimate_normalization(network, inputs)
        with torch.no_grad():
            assert (network(inputs).argmax(dim=1) == 1).float().mean() > 0.95


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_not_finite_fails(tiny_task: Task, value: float) -> None:
    calls = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return nn.functional.cross_entropy(outputs, targets) + (value if calls > 8 else 0.0)

    # 192 samples make six steps an epoch, and it is tried twice before
    with pytest.raises(CandidateFailure, match=r"supernet: the loss became (nan|inf) in epoch 2 of 2"):
        train_supernet(TINY_NETWORKS, replace(tiny_task, loss=loss), QUICK)


def test_saved_weights_read_back(tmp_path: Path) -> None:
    path = tmp_path / "supernet.safetensors"
    save_supernet(shared_supernet(), path)
    loaded = load_supernet(path, NETWORKS)
    choice = AXIS.suggest_network(Draw(4))
    assert torch.equal(run(loaded, choice, images(4)), run(shared_supernet(), choice, images(4)))
    assert [file.name for file in tmp_path.iterdir()] == ["supernet.safetensors"]
    loaded.train()
    loaded(images(4)).sum().backward()
    assert loaded.shared.get_parameter("linear.weight").grad is not None


def test_weights_that_are_broken_or_of_another_axis_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "supernet.safetensors"
    save_supernet(shared_supernet(), path)
    with pytest.raises(OutputError, match="kept weights of the supernet cannot be read"):
        load_supernet(path, StageNetworks(StagesAxis(stages=3), SHAPE, 3))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(OutputError, match="kept weights of the supernet cannot be read"):
        load_supernet(path, NETWORKS)
