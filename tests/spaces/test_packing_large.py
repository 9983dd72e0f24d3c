"""Packing of large weights: lossless, folded at load, and never many times their own memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from karui.evaluators.targets.load_memory import measure_load_peak

PACK = """
import sys
from pathlib import Path
from karui.spaces.formats.onnx.packing import pack

def peak_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

before = peak_bytes()
report = pack(Path(sys.argv[1]), Path(sys.argv[2]))
print(peak_bytes() - before, report.bytes_after, *(f"{tensor.bits}{tensor.sparse}" for tensor in report.tensors))
"""
"""Prints by how much packing made its process grow, the size of the file, and how its weights are stored."""

ROWS_IN_USE = 3


def make_weight(side: int, zeros: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    weight = rng.integers(-8, 8, (side, side), dtype=np.int8)
    for row in weight:
        row[rng.random(side, dtype=np.float32) < zeros] = 0
    return weight


def product_with(weight: np.ndarray) -> onnx.ModelProto:
    values = [
        helper.make_tensor_value_info(name, kind, ["batch", side])
        for name, kind, side in zip(("x", "y"), (TensorProto.UINT8, TensorProto.INT32), weight.shape, strict=True)
    ]
    node = helper.make_node("MatMulInteger", ["x", "weight"], ["y"])
    graph = helper.make_graph([node], "product", values[:1], values[1:], [numpy_helper.from_array(weight, "weight")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def open_on_one_thread(path: Path, optimized: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
@pytest.mark.parametrize(
    ("zeros", "stored_bits", "load_bytes"), [(0.0, 4.0, 7.0), (0.8, 1.8, 20.0)], ids=["dense", "sparse"]
)
@pytest.mark.parametrize("side", [3200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_large_weight_packs_and_loads_within_a_few_times_its_bytes(
    tmp_path: Path, side: int, zeros: float, stored_bits: float, load_bytes: float
) -> None:
    plain, packed, optimized = (tmp_path / f"{name}.onnx" for name in ("plain", "packed", "optimized"))
    weight = make_weight(side, zeros)
    onnx.save(product_with(weight), plain)
    command = [sys.executable, "-c", PACK, str(plain), str(packed)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    grown, bytes_after, *forms = finished.stdout.split()
    assert forms == [f"4{zeros > 0}"]
    # A weight that is set to zero at random leaves a sixteenth of the others at zero.
    assert 0.9 * weight.size * stored_bits / 8 < int(bytes_after) < weight.size * stored_bits / 8 + 10_000
    assert int(grown) < 7 * weight.size + 20e6
    # In int64, one temporary per element would already take 8 bytes.
    peak_bytes = measure_load_peak(packed, "CPUExecutionProvider", threads=1)
    assert peak_bytes is not None
    assert weight.size < peak_bytes < load_bytes * weight.size + 20e6
    session = open_on_one_thread(packed, optimized)
    rows = np.zeros((ROWS_IN_USE, side), dtype=np.uint8)
    used = np.array([0, side // 2 + 1, side - 1])
    rows[np.arange(ROWS_IN_USE), used] = 1
    (found,) = session.run(None, {"x": rows})
    np.testing.assert_array_equal(found, weight[used])
    graph = onnx.load(optimized).graph
    assert [node.op_type for node in graph.node] == ["MatMulInteger"]
    (unpacked,) = graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(unpacked), weight)
