"""ONNX Runtime on its CPU provider."""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any, Sequence

import numpy as np

WHEELS = ("onnxruntime==1.32.0", "numpy==2.3.5")  # what a device that has nothing needs


class OnnxRuntime:
    """An engine; see edgekd/engines/__init__.py."""

    suffixes = (".onnx",)
    runtime = "onnxruntime"

    def version(self) -> str:
        """Version of the package."""
        import onnxruntime

        return str(onnxruntime.__version__)

    def load(self, model: str, threads: int) -> OnnxRuntimeSession:
        """Load a model file."""
        return OnnxRuntimeSession(model, threads)


class OnnxRuntimeSession:
    """A session; see edgekd/engines/__init__.py."""

    def __init__(self, model: str, threads: int) -> None:
        self._model, self._threads = model, threads
        self._session = _session(model, _options(threads))
        self.inputs = [_described(value) for value in self._session.get_inputs()]
        self.outputs = [_described(value) for value in self._session.get_outputs()]
        self._feeds: dict[str, np.ndarray] = {}
        self._results: list[Any] = []

    def feed(self, arrays: Sequence[np.ndarray]) -> None:
        """Set the inputs."""
        typed = [array.astype(given["dtype"], copy=False) for given, array in zip(self.inputs, arrays)]
        self._feeds = {given["name"]: array for given, array in zip(self.inputs, typed)}

    def invoke(self) -> None:
        """Execute once."""
        self._results = self._session.run(None, self._feeds)

    def fetch(self) -> list[np.ndarray]:
        """The outputs: floats as float32, integers as they are."""
        return [_widened(np.asarray(result)) for result in self._results]

    def profile(self, feeds: Sequence[Sequence[np.ndarray]], count: int) -> list[list[dict[str, Any]]]:
        """What each of `count` inferences did: see edgekd/engines/_guest.py."""
        options = _options(self._threads)
        options.enable_profiling = True
        with tempfile.TemporaryDirectory() as folder:
            options.profile_file_prefix = os.path.join(folder, "profile")
            session = _session(self._model, options)
            for turn in range(3 + count):
                feed = feeds[turn % len(feeds)]
                named = {given["name"]: array.astype(given["dtype"]) for given, array in zip(self.inputs, feed)}
                session.run(None, named)
            with open(session.end_profiling(), encoding="utf-8") as opened:
                events = json.load(opened)
        return _runs(events)[-count:]


def _options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def _session(model: str, options: Any) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _runs(events: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The nodes of each inference; its own event comes behind those of its nodes."""
    runs: list[list[dict[str, Any]]] = []
    nodes: list[dict[str, Any]] = []
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_ENDING):
            name, kind = event["name"][: -len(_ENDING)], event["args"].get("op_name", "")
            nodes.append({"name": name, "kind": kind, "ms": event["dur"] / 1000, "index": -1})
        elif event["cat"] == "Session" and event["name"] == "model_run":
            runs.append(nodes)
            nodes = []
    return runs


_ENDING = "_kernel_time"

_DTYPES = {"float": "float32", "double": "float64", "bool": "bool"}


def _described(value: Any) -> dict[str, Any]:
    kind = value.type[len("tensor(") : -1]
    return {
        "name": value.name,
        "shape": [size if isinstance(size, int) else -1 for size in value.shape],
        "dtype": _DTYPES.get(kind, kind),
    }


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if np.issubdtype(array.dtype, np.floating) else array


PLUGIN = OnnxRuntime()
