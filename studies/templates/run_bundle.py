"""Run model.onnx with numpy and onnxruntime alone.

    python run.py                     the samples: what the model says of them, and whether that is as expected
    python run.py inputs.npy          inputs of your own, shape (n, ...), prepared as MODEL_CARD.md says
    python run.py inputs.npz          the same, in an array called `inputs`

Exit code 0 where all is well, 1 where outputs are not as expected, 2 where the inputs cannot be used.
"""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime

HERE = Path(__file__).resolve().parent
SHOWN, BEST = 20, 3


def run(inputs):
    """Return the outputs for inputs of shape (n, ...), shape (n, ...)."""
    session = onnxruntime.InferenceSession(str(HERE / "model.onnx"), providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    size = entry.shape[0] if isinstance(entry.shape[0], int) else 64  # some files take one input at a time
    answers = []
    for start in range(0, len(inputs), size):
        batch = inputs[start : start + size]
        rows = len(batch)
        if isinstance(entry.shape[0], int) and rows < size:
            batch = np.concatenate([batch, np.repeat(batch[:1], size - rows, axis=0)])
        answers.append(session.run(None, {entry.name: batch})[0][:rows])
    return np.concatenate(answers)


def read(path):
    """Return the arrays of a file by name; a .npy has one, called `inputs`."""
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {"inputs": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        sys.exit(fault(f"{path} cannot be read: {error}"))
    if "inputs" not in arrays or arrays["inputs"].ndim < 1 or not len(arrays["inputs"]):
        sys.exit(fault(f"{path} holds no inputs"))
    return arrays


def fault(text):
    """Print what is wrong, and return the exit code for it."""
    print(f"error: {text}", file=sys.stderr)
    return 2


def describe(output, labels):
    """Return one line about the output for one input."""
    if output.ndim != 1 or len(output) < 2:
        return f"outputs of shape {output.shape}, from {output.min():.4g} to {output.max():.4g}"
    best = np.argsort(-output, kind="stable")[:BEST]
    return ", ".join(f"{labels[index] if labels else index} ({output[index]:.3g})" for index in best)


def main():
    """Run the samples, or the inputs of the file that is named."""
    config = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
    task, samples = config["task"] or {"labels": [], "input_shape": None}, config["samples"]
    if len(sys.argv) > 2 or (len(sys.argv) == 1 and samples is None):
        return fault("usage: python run.py INPUTS.npy")
    arrays = read(sys.argv[1] if len(sys.argv) == 2 else HERE / samples["file"])
    kind = np.dtype(task.get("input_type", "float32"))
    inputs = np.ascontiguousarray(arrays["inputs"].astype(kind))
    if not np.issubdtype(kind, np.floating) and not np.array_equal(inputs, arrays["inputs"]):
        return fault(f"inputs that {kind} can hold expected, got others in {arrays['inputs'].dtype}")
    if task["input_shape"] is not None and list(inputs.shape[1:]) != task["input_shape"]:
        return fault(f"inputs of shape (n, {str(task['input_shape'])[1:-1]}) expected, got {inputs.shape}")
    outputs = run(inputs)
    for number, output in enumerate(outputs[:SHOWN]):
        target = arrays.get("targets")
        known = "" if target is None or target.ndim != 1 else f"   (target {name(target[number], task['labels'])})"
        print(f"{number:4d}  {describe(output, task['labels'])}{known}")
    if len(sys.argv) == 1:
        return compare(outputs, arrays["outputs"], samples["tolerance"])
    return 0


def name(target, labels):
    """Return the name of a target where there are names."""
    return labels[int(target)] if labels and 0 <= int(target) < len(labels) else target


def compare(outputs, expected, tolerance):
    """Print how far the outputs are from the expected ones, and return the exit code."""
    if outputs.shape != expected.shape:
        print(f"outputs are NOT as expected: of shape {outputs.shape} instead of {expected.shape}")
        return 1
    difference = float(np.abs(outputs - expected).max() / max(float(np.abs(expected).max()), 1e-30))
    same = difference <= tolerance  # never so where it is not a number
    found = f"they differ by {difference:.2e} of the largest, {tolerance:g} is allowed"
    print(f"outputs are {'' if same else 'NOT '}as expected: {found}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
