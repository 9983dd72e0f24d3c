"""Run model.onnx with numpy and onnxruntime alone.

    python run.py                     the samples: what the model says of them, and whether that is as expected
    python run.py inputs.npy          inputs of your own, shape (n, ...), prepared as MODEL_CARD.md says
    python run.py inputs.npz          the same, in an array called `inputs`; of several inputs one array each, by name

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
    """Return the outputs by name, each of shape (n, ...), for inputs by name, each of shape (n, ...)."""
    session = onnxruntime.InferenceSession(str(HERE / "model.onnx"), providers=["CPUExecutionProvider"])
    entry, count = session.get_inputs()[0], len(next(iter(inputs.values())))
    size = entry.shape[0] if isinstance(entry.shape[0], int) else 64  # some files take one input at a time
    names = [each.name for each in session.get_outputs()]
    taken = [each.name for each in session.get_inputs()]
    answers = []
    for start in range(0, count, size):
        rows = min(size, count - start)
        feeds = {}
        for name in taken:
            given = inputs[name] if name in inputs else next(iter(inputs.values()))  # a single one
            batch = given[start : start + size]
            if isinstance(entry.shape[0], int) and rows < size:
                batch = np.concatenate([batch, np.repeat(batch[:1], size - rows, axis=0)])
            feeds[name] = batch
        answers.append([answer[:rows] for answer in session.run(names, feeds)])
    return {name: np.concatenate(parts) for name, parts in zip(names, zip(*answers))}  # noqa: B905


def read(path):
    """Return the arrays of a file by name; a .npy has one, called `inputs`."""
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {"inputs": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        sys.exit(fault(f"{path} cannot be read: {error}"))
    return arrays


def inputs_of(arrays, task, path):
    """Return the inputs by their names, of the types that the file takes; of one input the name is `input`."""
    shapes, kinds = task["input_shape"], task.get("input_type", "float32")
    if not isinstance(shapes, dict):
        shapes, kinds = {"input": shapes}, {"input": kinds}
    inputs = {}
    for name, shape in shapes.items():
        places = ("inputs",) if len(shapes) == 1 and "inputs" in arrays else (f"inputs.{name}", name)
        given = next((arrays[place] for place in places if place in arrays), None)
        if given is None or given.ndim < 1 or not len(given):
            sys.exit(fault(f"{path} holds no {'inputs' if name == 'input' else name}"))
        kind, called = np.dtype(kinds[name]), "inputs" if name == "input" else name
        inputs[name] = np.ascontiguousarray(given.astype(kind))
        if not np.issubdtype(kind, np.floating) and not np.array_equal(inputs[name], given):
            sys.exit(fault(f"{called} that {kind} can hold expected, got others in {given.dtype}"))
        if shape is not None and list(given.shape[1:]) != shape:
            sys.exit(fault(f"{called} of shape (n, {str(shape)[1:-1]}) expected, got {given.shape}"))
    if len({len(each) for each in inputs.values()}) > 1:
        sys.exit(fault(f"{path} holds other numbers of rows: { ({name: len(each) for name, each in inputs.items()}) }"))
    return inputs


def fault(text):
    """Print what is wrong, and return the exit code for it."""
    print(f"error: {text}", file=sys.stderr)
    return 2


def describe(output, labels):
    """Return one line about the output for one input."""
    if output.ndim == 0:
        return f"{output:.4g}"
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
    outputs = run(inputs_of(arrays, task, sys.argv[1] if len(sys.argv) == 2 else samples["file"]))
    target = arrays.get("targets")
    for number in range(min(SHOWN, len(next(iter(outputs.values()))))):
        known = "" if target is None or target.ndim != 1 else f"   (target {name(target[number], task['labels'])})"
        told = [describe(each[number], task["labels"] if len(outputs) == 1 else []) for each in outputs.values()]
        if len(outputs) > 1:
            told = [f"{each}: {text}" for each, text in zip(outputs, told)]  # noqa: B905
        print(f"{number:4d}  {'; '.join(told)}{known}")
    if len(sys.argv) > 1:
        return 0
    if len(outputs) == 1 and "outputs" in arrays:
        return compare(next(iter(outputs.values())), arrays["outputs"], samples["tolerance"])
    return max(compare(each, arrays[f"outputs.{name}"], samples["tolerance"], name) for name, each in outputs.items())


def name(target, labels):
    """Return the name of a target where there are names."""
    return labels[int(target)] if labels and 0 <= int(target) < len(labels) else target


def compare(outputs, expected, tolerance, of=""):
    """Print how far the outputs are from the expected ones, and return the exit code."""
    if outputs.shape != expected.shape:
        print(f"{f'outputs {of}'.rstrip()} are NOT as expected: of shape {outputs.shape} instead of {expected.shape}")
        return 1
    difference = float(np.abs(outputs.astype(np.float64) - expected).max() / max(float(np.abs(expected).max()), 1e-30))
    same = difference <= tolerance  # never so where it is not a number
    found = f"they differ by {difference:.2e} of the largest, {tolerance:g} is allowed"
    print(f"{f'outputs {of}'.rstrip()} are {'' if same else 'NOT '}as expected: {found}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
