"""Opening and running a file with OpenVINO, the second runtime; installed with ``karui[openvino]``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CandidateFailure, KaruiError
from ...spaces.data.named import Named, feeds_of
from .onnxruntime_runner import CPU_PROVIDER, check_names


def check_device(provider: str) -> None:
    """Check that OpenVINO is installed and has the device.

    Raises:
        KaruiError: Where it is not, or has not, naming those that it has.
    """
    available = _core().available_devices
    if device_of(provider).split(".")[0] not in {name.split(".")[0] for name in available}:
        raise KaruiError(
            "OpenVINO has no such device on this machine",
            where="provider",
            expected=f"one of {', '.join(available)}",
            got=provider,
            remedy="name an available device, or install its driver",
        )


def device_of(provider: str) -> str:
    """Return the device of OpenVINO that a provider stands for: its own name, or CPU for that of onnxruntime."""
    return "CPU" if provider == CPU_PROVIDER else provider


def openvino_version() -> str:
    """Return the version of OpenVINO, without the number of its build.

    Raises:
        KaruiError: Where it is not installed.
    """
    return str(_openvino().__version__).split("-", 1)[0]


class OpenVinoRunner:
    """One file opened by OpenVINO; see :class:`~karui.evaluators.runtimes.runtime.OpenedFile`.

    The file is run in the precision it has: on processors that know bfloat16, OpenVINO would take that for float32.
    It is compiled for batches of one input where it takes any, and anew for others when they come: OpenVINO checks
    shapes when it compiles, and ends the process where one that it left open does not fit.

    Args:
        path: The ONNX file.
        stage: Stage under which a failure of the file is recorded.
        provider: Device, such as ``CPU`` or ``GPU``.
        threads: Threads of one inference; 0 lets OpenVINO take every core.

    Raises:
        CandidateFailure: Where OpenVINO cannot read or compile the file.
        KaruiError: Where OpenVINO is not installed.
    """

    def __init__(self, path: Path, *, stage: str, provider: str = CPU_PROVIDER, threads: int = 1) -> None:
        core, device = _core(), device_of(provider)
        self._stage = stage
        path.stat()  # a file that karui made and that is gone is no fault of the candidate
        try:
            model = core.read_model(str(path))
            self._names = [each.get_any_name() for each in model.inputs]
            self._output_names = [each.get_any_name() for each in model.outputs]
            shapes = {each.get_any_name(): each.partial_shape for each in model.inputs}
            first: Any = next(iter(shapes.values()), ())
            fixed = len(first) > 0 and first[0].is_static
            self.fixed_batch_size: int | None = int(first[0].get_length()) if fixed else None
            self._compile: Callable[[], Any] = lambda: core.compile_model(model, device, _settings(device, threads))
            self._model = model
            self._request = self._compile_for(
                {name: [1, *shape[1:]] if len(shape) > 0 and not fixed else shape for name, shape in shapes.items()}
            )
        # OpenVINO raises nothing more particular.
        except RuntimeError as error:
            raise CandidateFailure(stage, f"OpenVINO cannot load the file: {error}") from error

    def run(self, batch: Any) -> Any:
        """Return the output for one batch of inputs.

        Raises:
            CandidateFailure: Where OpenVINO cannot run the file on this batch.
        """
        check_names(self._names, batch, self._stage)
        feeds = feeds_of(self._names, batch)
        shapes = {name: array.shape for name, array in feeds.items()}
        try:
            if shapes != self._shapes:
                self._request = self._compile_for(shapes)
            outputs = self._request.infer(feeds, share_inputs=True)
        except RuntimeError as error:
            raise CandidateFailure(self._stage, f"OpenVINO cannot run the file: {error}") from error
        arrays = [np.asarray(outputs[number]) for number in range(len(self._output_names))]
        return arrays[0] if len(arrays) == 1 else Named(dict(zip(self._output_names, arrays, strict=True)))

    def _compile_for(self, shapes: Mapping[str, Any]) -> Any:
        """Return what runs batches of these shapes."""
        self._model.reshape(dict(shapes))
        compiled = self._compile()
        self._shapes = {
            each.get_any_name(): tuple(each.shape) for each in compiled.inputs if each.partial_shape.is_static
        }
        return compiled.create_infer_request()


def _settings(device: str, threads: int) -> dict[str, Any]:
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if device == "CPU":
        # Where threads run is for whoever measures to say.
        settings |= {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
    return settings


@cache
def _core() -> Any:
    return _openvino().Core()


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise KaruiError(
            "OpenVINO is not installed",
            where="runtime",
            expected="the package openvino",
            got=str(error),
            remedy="pip install 'karui[openvino]', or take the runtime onnxruntime",
        ) from error
    return openvino
