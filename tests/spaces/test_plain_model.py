"""The model as karui takes it: unwrapped, uncompiled, in float32, and copied whatever it keeps among its attributes."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from karui.errors import TaskError
from karui.spaces.formats.onnx.export import export_onnx
from karui.spaces.networks.running import copy_network
from karui.spaces.task import Task, iterate
from karui.spaces.training.recovery import TrainingSettings, train
from karui.spaces.training.teacher import Teacher


def small_network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def split_of(kind: torch.dtype = torch.float32) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(24, 4, generator=generator).to(kind), torch.arange(24) % 3)


def task_of(model: nn.Module, split: Any = None) -> Task:
    split = split_of() if split is None else split
    return Task(model=model, train=split, validation=split, test=split)


@pytest.fixture
def process_group(tmp_path: Path) -> Any:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        torch.compile,
        torch.optim.swa_utils.AveragedModel,
        lambda network: nn.DataParallel(torch.compile(network)),  # type: ignore[type-var]
        lambda network: nn.DataParallel(nn.DataParallel(network)),
    ],
)
def test_what_is_wrapped_is_taken_out_with_a_word(wrap: Any) -> None:
    network = small_network()
    with pytest.warns(UserWarning, match="is taken out of the"):
        task = task_of(wrap(network))
    assert type(task.model) is nn.Sequential
    assert list(task.model.state_dict()) == list(network.state_dict())


def test_a_distributed_model_is_taken_out(process_group: None) -> None:
    network = small_network()
    with pytest.warns(UserWarning, match="is taken out of the DistributedDataParallel"):
        task = task_of(nn.parallel.DistributedDataParallel(network))
    assert task.model is network


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrappers_within_a_model_go_too_and_the_user_s_model_stays(wrap: Any) -> None:
    network = nn.Sequential(wrap(nn.Linear(4, 8)), nn.ReLU(), nn.Sequential(nn.Linear(8, 3)))
    names = list(network.state_dict())
    with pytest.warns(UserWarning, match="model.0 is taken out of the"):
        task = task_of(network)
    assert list(task.model.state_dict()) == ["0.weight", "0.bias", "2.0.weight", "2.0.bias"]
    assert list(network.state_dict()) == names
    # training the one trains the other
    assert all(a is b for a, b in zip(task.model.parameters(), network.parameters(), strict=True))


def test_a_model_compiled_in_place_is_taken_as_it_was() -> None:
    network = small_network()
    network.compile()
    network[0].compile()
    with pytest.warns(UserWarning, match="before it was compiled"):
        task = task_of(network)
    assert all(module.__dict__.get("_compiled_call_impl") is None for module in task.model.modules())
    assert network.__dict__["_compiled_call_impl"] is not None


def test_a_module_used_twice_is_still_one() -> None:
    shared = nn.DataParallel(nn.Linear(4, 4))
    with pytest.warns(UserWarning, match="is taken out"):
        model: Any = task_of(nn.Sequential(shared, nn.ReLU(), shared)).model
    assert model[0] is model[2]


@pytest.mark.parametrize(
    "make",
    [
        torch.jit.script,
        lambda network: torch.jit.trace(network, torch.zeros(2, 4)),  # type: ignore[no-untyped-call]
        lambda network: nn.Sequential(torch.jit.script(network)),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_script_modules_are_refused(make: Any) -> None:
    with pytest.raises(TaskError, match="is a TorchScript module, which cannot be changed or copied"):
        task_of(make(small_network()))


def test_a_plain_model_is_taken_as_it_is_without_a_word() -> None:
    network = small_network()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert task_of(network).model is network


class Own(Dataset[tuple[Tensor, ...]]):
    def __init__(self, split: TensorDataset) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        sample: tuple[Tensor, ...] = self.split[index]
        return sample


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("wrap", [lambda split: split, Own])
@pytest.mark.filterwarnings("ignore:Task. the inputs")
def test_models_in_other_precisions_are_taken_in_float32(kind: torch.dtype, wrap: Any, tmp_path: Path) -> None:
    network = small_network().to(kind)
    split = wrap(split_of(kind))
    with pytest.warns(UserWarning, match="a copy of it in float32"):
        task = task_of(network, split)
    assert {parameter.dtype for parameter in network.parameters()} == {kind}
    assert split[0][0].dtype == kind
    inputs, _ = next(iterate(task.train, 24))
    assert inputs.dtype == task.calibration_batch(2).dtype == torch.float32
    with torch.no_grad():
        expected = network.double()(split_of(kind).tensors[0].double())
        assert torch.allclose(task.model(inputs).double(), expected, atol=1e-5)
    export_onnx(task.model, task.calibration_batch(4), tmp_path / "file.onnx")
    train(task.model, task, TrainingSettings(epochs=1, device="cpu"), teacher=task.model)


def test_inputs_of_half_precision_keep_their_type_beside_a_model_that_takes_them(tmp_path: Path) -> None:
    class Widening(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = small_network()

        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = self.layers(inputs.float())
            return outputs

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = task_of(Widening(), split_of(torch.float16))
    assert task.calibration_batch(3).dtype == torch.float16
    export_onnx(task.model, task.calibration_batch(3), tmp_path / "file.onnx")
    with pytest.warns(UserWarning, match="inputs of the train, validation, test data are read as float32"):
        assert task_of(Widening(), split_of(torch.bfloat16)).calibration_batch(3).dtype == torch.float32


@pytest.mark.parametrize(
    "inputs",
    [
        torch.zeros(4, 3, dtype=torch.complex64),
        torch.eye(4).to_sparse(),
        torch.zeros(4, 3, device="meta"),
    ],
)
def test_inputs_that_no_file_takes_are_refused(inputs: Tensor) -> None:
    split: Any = [(inputs[row], 0) for row in range(4)] if not inputs.is_sparse else [(inputs, 0)]
    with pytest.raises(TaskError, match="inputs of a kind that no file takes"):
        task_of(nn.Linear(3, 2), split)


class Keeping(nn.Module):
    """Keeps something that cannot be copied."""

    def __init__(self, kept: Any) -> None:
        super().__init__()
        self.layers = small_network()
        self.layers[0].kept = kept
        self.kept = kept

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs)
        return outputs


def opened() -> Any:
    return Path(__file__).open(encoding="utf-8")


KEPT: dict[str, Any] = {
    "a lock": threading.Lock,
    "a lock in a dict": lambda: {"lock": threading.RLock(), "list": [threading.Lock()]},
    "an open file": opened,
    "a generator": lambda: (number for number in range(3)),
    "a function": lambda: lambda inputs: inputs,
    "a generator of torch": torch.Generator,
    "a thread": threading.current_thread,
    "a computed tensor": lambda: torch.ones(3, requires_grad=True) * 2,
    "computed tensors in a list": lambda: [torch.ones(3, requires_grad=True) * 2],
}


@pytest.mark.parametrize("name", KEPT)
def test_a_model_may_keep_what_cannot_be_copied(name: str, tmp_path: Path) -> None:
    network = Keeping(KEPT[name]())
    task = task_of(network)
    copied = copy_network(network)
    inputs = task.calibration_batch(5)
    with torch.no_grad():
        expected = network(inputs)
        assert torch.equal(copied(inputs), expected)
        assert torch.equal(Teacher(network).outputs(inputs, torch.device("cpu")), expected)
        next(copied.parameters()).add_(1.0)
        assert torch.equal(network(inputs), expected)
    assert not set(copied.parameters()) & set(network.parameters())
    export_onnx(network, inputs, tmp_path / "file.onnx")
    train(network, task, TrainingSettings(epochs=1, device="cpu"), teacher=network)


def test_shared_weights_are_shared_in_the_copy_beside_a_lock() -> None:
    network = Keeping(threading.Lock())
    network.layers[2].tied = network.layers[0].weight
    copied: Any = copy_network(network)
    assert copied.layers[2].tied is copied.layers[0].weight is not network.layers[0].weight


def test_a_model_that_cannot_be_copied_at_all_is_refused() -> None:
    class Never(nn.Linear):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("never")

    with pytest.raises(TaskError, match="the network cannot be copied"):
        copy_network(nn.Sequential(Never(2, 2)))
