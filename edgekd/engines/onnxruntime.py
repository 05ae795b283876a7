"""ONNX Runtime on its CPU provider."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np


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
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.inputs = [_described(value) for value in self._session.get_inputs()]
        self.outputs = [_described(value) for value in self._session.get_outputs()]
        self._feeds: dict[str, np.ndarray] = {}
        self._results: list[Any] = []

    def feed(self, arrays: Sequence[np.ndarray]) -> None:
        """Set the inputs."""
        self._feeds = {given["name"]: array.astype(given["dtype"]) for given, array in zip(self.inputs, arrays)}

    def invoke(self) -> None:
        """Execute once."""
        self._results = self._session.run(None, self._feeds)

    def fetch(self) -> list[np.ndarray]:
        """The outputs as float32."""
        return [np.asarray(result, np.float32) for result in self._results]


_DTYPES = {"float": "float32", "double": "float64", "bool": "bool"}


def _described(value: Any) -> dict[str, Any]:
    kind = value.type[len("tensor(") : -1]
    return {
        "name": value.name,
        "shape": [size if isinstance(size, int) else -1 for size in value.shape],
        "dtype": _DTYPES.get(kind, kind),
    }


PLUGIN = OnnxRuntime()
