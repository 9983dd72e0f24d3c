"""From the reference in a study file to a task, and errors that point into the user's own file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from karui.errors import CandidateFailure, TaskError
from karui.spaces.task import Task, iterate
from karui.studies.measuring.guard import guarded
from karui.studies.study_file.task_loading import load_task

from .conftest import TASK


def load(
    folder: Path, code: str, reference: str = "mine.py:make_task", options: dict[str, object] | None = None
) -> Task:
    (folder / "mine.py").write_text(TASK + code, encoding="utf-8")
    return load_task(reference, folder, options or {})


def line_of(folder: Path, words: str) -> int:
    lines = (folder / "mine.py").read_text(encoding="utf-8").splitlines()
    return 1 + next(index for index, line in enumerate(lines) if words in line)


def test_a_file_gives_its_task(tmp_path: Path) -> None:
    path = list(sys.path)
    task = load(tmp_path, "")
    assert isinstance(task, Task)
    assert task.input_shape == (1, 8, 8)
    assert sys.path == path


def test_options_reach_the_function(tmp_path: Path) -> None:
    code = "\ndef wanted(epochs, *, name='x'):\n    return task_with(baseline_epochs=epochs, metric_name=name)\n"
    task = load(tmp_path, code, "mine.py:wanted", {"epochs": 7, "name": "hits"})
    assert (task.baseline_epochs, task.metric_name) == (7, "hits")


@pytest.mark.parametrize("options", [{}, {"epoch": 7}, {"epochs": 7, "more": 1}])
def test_wrong_options_are_told_with_what_is_taken(tmp_path: Path, options: dict[str, object]) -> None:
    code = "\ndef wanted(epochs):\n    return task_with(baseline_epochs=epochs)\n"
    with pytest.raises(TaskError, match=r"does not take these options(?s:.*)wanted\(epochs\)(?s:.*)task_options"):
        load(tmp_path, code, "mine.py:wanted", options)


def test_a_dotted_path_gives_its_task_also_beside_the_study_file(tmp_path: Path) -> None:
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "tasks.py").write_text(TASK, encoding="utf-8")
    assert isinstance(load_task("my_package.tasks:make_task", tmp_path, {}), Task)


def test_the_function_may_import_its_neighbours_when_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "my_neighbour.py").write_text("EPOCHS = 5\n", encoding="utf-8")
    code = "\ndef late():\n    from my_neighbour import EPOCHS\n    return task_with(baseline_epochs=EPOCHS)\n"
    assert load(tmp_path, code, "mine.py:late").baseline_epochs == 5


def test_a_file_named_like_a_module_that_is_loaded_replaces_nothing(tmp_path: Path) -> None:
    before = sys.modules["random"]
    (tmp_path / "random.py").write_text(TASK, encoding="utf-8")
    task = load_task("random.py:make_task", tmp_path, {})
    assert sys.modules["random"] is before
    name = type(task.model).__module__
    assert sys.modules[name].Network is type(task.model), "a pickled model finds its class again"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("mine.py", "not named in a way"),
        ("mine.py:", "not named in a way"),
        (":make_task", "not named in a way"),
        ("other.py:make_task", r"file is missing(?s:.*)relative to the study file(?s:.*)other\.py"),
        ("mine.py:make_tsk", r"no function 'make_tsk'(?s:.*)make_task, slow_task, split, task_with"),
        ("mine.py:CLASSES", "no function 'CLASSES'"),
        ("no_such_package.tasks:make_task", "cannot be imported(?s:.*)No module named 'no_such_package'"),
        ("math:no_such", "no function 'no_such'"),
        ("builtins:dict", r"does not return a task(?s:.*)a karui\.Task(?s:.*)dict"),
    ],
)
def test_a_reference_that_leads_nowhere_is_told(tmp_path: Path, reference: str, message: str) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        load(tmp_path, "", reference)
    assert reference in str(caught.value)


def test_a_function_that_raises_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"raised an error(?s:.*)ZeroDivisionError") as caught:
        load(tmp_path, "\ndef make_task():\n    return 1 // 0\n")
    assert f"mine.py:{line_of(tmp_path, '1 // 0')}" in str(caught.value.where)


def test_the_place_is_the_users_own_where_a_library_raises(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"FileNotFoundError(?s:.*)absent") as caught:
        load(tmp_path, "\ndef make_task():\n    return torch.load('absent.pt')\n")
    assert f"mine.py:{line_of(tmp_path, 'absent.pt')}" in str(caught.value.where)


def test_a_file_that_raises_when_it_is_imported_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"when it was imported(?s:.*)KeyError") as caught:
        load(tmp_path, "\n{}['absent']\n")
    assert f"mine.py:{line_of(tmp_path, 'absent')}" in str(caught.value.where)
    assert "mine" not in sys.modules
    assert isinstance(load(tmp_path, ""), Task)


def test_a_syntax_error_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="SyntaxError") as caught:
        load(tmp_path, "\ndef make_task(:\n    pass\n")
    assert f"mine.py:{line_of(tmp_path, 'make_task(:')}" in str(caught.value.where)


def test_what_is_no_task_is_told(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"does not return a task(?s:.*)a karui\.Task(?s:.*)builtins\.int"):
        load(tmp_path, "\ndef make_task():\n    return 3\n")


def test_what_a_task_itself_refuses_is_told_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"train data is empty(?s:.*)Task\(train=\.\.\.\)"):
        load(tmp_path, "\ndef make_task():\n    return task_with(train=split(0, 1))\n")


# --- guard ------------------------------------------------------------------------------------------------------------


class Photos(Dataset[tuple[Tensor, ...]]):
    """Ten images, of which one may be broken."""

    def __init__(self, error: Exception | None = None, odd_shape: bool = False) -> None:
        self._error, self._odd_shape = error, odd_shape

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if index == 7 and self._error is not None:
            raise self._error
        if index >= len(self):
            raise IndexError(index)
        return torch.full((1, 8, 8 + (index == 7 and self._odd_shape)), float(index)), torch.tensor(index)


def photo_task(photos: Photos) -> Task:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return Task(network, photos, Photos(), Photos(), loss=lambda outputs, targets: {}["absent"])  # type: ignore[index]


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError("7.png is gone"), RuntimeError("7.png is gone"), KeyError("7.png is gone"), IndexError()],
)
def test_a_broken_sample_is_the_datas_fault(error: Exception) -> None:
    task = guarded(photo_task(Photos(error)))
    with pytest.raises(TaskError, match=rf"train data raises an error(?s:.*)\[7\](?s:.*){type(error).__name__}"):
        list(iterate(task.train, 4))


def test_inputs_of_several_shapes_are_the_datas_fault() -> None:
    task = guarded(photo_task(Photos(odd_shape=True)))
    with pytest.raises(TaskError, match=r"several shapes(?s:.*)\[7\](?s:.*)\(1, 8, 8\)(?s:.*)\(1, 8, 9\)"):
        list(iterate(task.train, 4))


def test_sound_data_are_left_as_they_are() -> None:
    task = guarded(guarded(photo_task(Photos())))
    assert len(list(task.validation)) == 10  # type: ignore[call-overload]
    assert torch.cat([targets for _, targets in iterate(task.train, 4)]).tolist() == list(range(10))


def test_a_loss_that_raises_fails_the_candidate() -> None:
    with pytest.raises(CandidateFailure, match="the task's loss raised KeyError: 'absent'") as caught:
        guarded(photo_task(Photos())).loss(torch.zeros(1), torch.zeros(1))
    assert caught.value.stage == "recovery"


# --- files that somebody else would not have written ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import sys\nsys.exit()", "SystemExit"),
        ("import sys\nsys.exit('no data')", "no data"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("def make_task(:\n", "SyntaxError"),
        ("x = '\udc80'", "SyntaxError"),
        ("import mine\nmine.make_task()", "AttributeError"),
        ("from mine import make_task", "ImportError"),
        ("import nosuchmodule", "ModuleNotFoundError"),
        ("def deep(): return deep()\ndeep()", "RecursionError"),
        ("import sys\ndel sys.modules[__name__]\nraise ValueError('gone')", "gone"),
    ],
)
def test_a_file_that_cannot_be_imported_is_told_with_its_place(tmp_path: Path, code: str, told: str) -> None:
    (tmp_path / "mine.py").write_bytes(code.encode("utf-8", "surrogateescape"))
    path = list(sys.path)
    with pytest.raises(TaskError, match=rf"when it was imported(?s:.*)mine\.py(?s:.*){told}"):
        load_task("mine.py:make_task", tmp_path, {})
    assert sys.path == path
    assert "mine" not in sys.modules


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def make_task(): import sys; sys.exit(3)", "raised an error(?s:.*)SystemExit: 3"),
        ("async def make_task(): pass", "does not return a task(?s:.*)coroutine"),
        ("def make_task(): yield", "does not return a task(?s:.*)generator"),
        ("make_task = 3", "no function 'make_task'"),
        ("def other(): pass", "no function 'make_task'(?s:.*)other"),
        ("class make_task: pass", "does not return a task(?s:.*)mine.make_task"),
        ("def make_task(): return make_task", "does not return a task"),
        ("def __getattr__(name): raise ValueError(name)", "cannot be had(?s:.*)ValueError: "),
        ("import sys\ndef make_task(): sys.path.clear(); return 1", "does not return a task"),
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine")
def test_a_function_that_gives_no_task_is_told(tmp_path: Path, code: str, told: str) -> None:
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    path = list(sys.path)
    try:
        with pytest.raises(TaskError, match=told):
            load_task("mine.py:make_task", tmp_path, {})
    finally:
        sys.path[:] = path


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        *((each, "not named in a way") for each in ("", ":", "mine.py", "mine.py:", ":make_task", "a\0b.py:f")),
        *((each, "file is missing") for each in ("no.py:f", "folder.py:f", "loop.py:f", "../no.py:f")),
        ("x" * 5000 + ".py:f", "file is missing"),
        *((each, "module cannot be imported") for each in ("..a:f", "no.such:f", "a b:f", "quits:f", "quits.x:f")),
    ],
)
def test_a_reference_that_is_no_file_and_no_module_is_told(tmp_path: Path, reference: str, told: str) -> None:
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "loop.py").symlink_to(tmp_path / "loop.py")
    (tmp_path / "quits").mkdir()
    (tmp_path / "quits" / "__init__.py").write_text("raise SystemExit(2)")
    with pytest.raises(TaskError, match=told):
        load_task(reference, tmp_path, {})


def test_ctrl_c_stays_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def make_task(): raise KeyboardInterrupt", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        load_task("mine.py:make_task", tmp_path, {})
