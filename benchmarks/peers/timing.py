"""edgekd's host timing beside a bare loop over each runtime's own API: medians and resident memory, in one run.

usage: python benchmarks/peers/timing.py MODEL...; .tflite on LiteRT, .onnx on ONNX Runtime. Processes alternate, so
that a busy moment hits both alike.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.bench import Bench, jobs, measured
from edgekd.specs import Measurement

ROUNDS = 5
SECONDS = 6.0


def bare(model: str) -> None:
    """In a process of its own: one thread, random inputs, a median in ms and the peak of resident memory in bytes."""
    invoke = _tflite(model) if model.endswith(".tflite") else _onnx(model)
    start = time.monotonic()
    while time.monotonic() - start < 1.0:
        invoke()
    samples = []
    start = time.monotonic()
    while time.monotonic() - start < SECONDS:
        before = time.perf_counter_ns()
        invoke()
        samples.append(time.perf_counter_ns() - before)
    print(np.median(samples) / 1e6, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def _tflite(model: str) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=model, num_threads=1)
    interpreter.allocate_tensors()
    for given in interpreter.get_input_details():
        interpreter.set_tensor(given["index"], np.zeros(given["shape"], given["dtype"]))
    return interpreter.invoke


def _onnx(model: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
    feeds = {
        given.name: np.zeros([size if isinstance(size, int) else 1 for size in given.shape], kinds[given.type])
        for given in session.get_inputs()
    }
    return lambda: session.run(None, feeds)


def main(models: list[str]) -> None:
    """Print a table of ratios."""
    print("| model | ms bare | ms edgekd | ratio |\n|---|---|---|---|")
    for model in models:
        theirs, ours = [], []
        for _ in range(ROUNDS):
            said = subprocess.run(
                [sys.executable, __file__, "--bare", model], capture_output=True, text=True, check=True
            ).stdout.split()
            theirs.append(float(said[0]))
            bench = Bench(models=(model,), mode="rapid")
            (found,) = measured(bench, jobs(bench))
            assert isinstance(found, Measurement), found
            ours.append(found.latency_ms.p50)
        ratio = np.median(ours) / np.median(theirs)
        print(f"| {Path(model).name} | {np.median(theirs):.4f} | {np.median(ours):.4f} | {ratio:.3f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--bare":
        bare(sys.argv[2])
    else:
        main(sys.argv[1:])
