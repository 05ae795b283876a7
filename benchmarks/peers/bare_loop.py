"""A bare loop over a runtime's own API, as one would write it by hand: what benchmarks/peers/timing.py compares with.

usage: python benchmarks/peers/bare_loop.py MODEL SECONDS

Prints the median in ms and the peak of resident memory in bytes.
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def bare(model: str, seconds: float) -> None:
    """One thread, inputs of zeros."""
    invoke = _tflite(model) if model.endswith(".tflite") else _onnx(model)
    start = time.monotonic()
    while time.monotonic() - start < 1.0:
        invoke()
    samples = []
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        before = time.perf_counter_ns()
        invoke()
        samples.append(time.perf_counter_ns() - before)
    status = Path("/proc/self/status").read_text()  # what getrusage tells is also of the process that started this one
    print(np.median(samples) / 1e6, int(status.partition("VmHWM:")[2].split()[0]) * 1024)


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


if __name__ == "__main__":
    bare(sys.argv[1], float(sys.argv[2]))
