"""TensorFlow Lite as devices have it that were set up before LiteRT: the last release of the package tflite-runtime."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np

ENVIRONMENT = ("tflite-runtime==2.14.0", "numpy==1.26.4")  # built for numpy 1
WHEELS_ARMV7 = ("tflite-runtime==2.14.0",)  # with the numpy of the device's own Debian


class TFLiteRuntime:
    """An engine; see edgekd/engines/__init__.py."""

    suffixes = (".tflite",)
    runtime = "tflite_runtime.interpreter"

    def version(self) -> str:
        """Version of the package."""
        from importlib.metadata import version

        return version("tflite-runtime")

    def load(self, model: str, threads: int) -> TFLiteRuntimeSession:
        """Load a model file."""
        return TFLiteRuntimeSession(model, threads)


class TFLiteRuntimeSession:
    """A session; see edgekd/engines/__init__.py."""

    def __init__(self, model: str, threads: int) -> None:
        from tflite_runtime import interpreter

        self._interpreter = interpreter.Interpreter(model_path=model, num_threads=threads)
        self._interpreter.allocate_tensors()
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        self.inputs = [_described(detail) for detail in self._inputs]
        self.outputs = [_described(detail) for detail in self._outputs]

    def feed(self, arrays: Sequence[np.ndarray]) -> None:
        """Set the inputs, quantized by the model's own scale where they are integers."""
        for detail, array in zip(self._inputs, arrays):
            self._interpreter.set_tensor(detail["index"], _quantized(array, detail))

    def invoke(self) -> None:
        """Execute once."""
        self._interpreter.invoke()

    def fetch(self) -> list[np.ndarray]:
        """The outputs: floats and what stands for floats as float32, other integers as they are."""
        return [_dequantized(self._interpreter.get_tensor(detail["index"]), detail) for detail in self._outputs]


def _described(detail: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": detail["name"],
        "shape": [int(size) for size in detail["shape"]],
        "dtype": np.dtype(detail["dtype"]).name,
    }


def _quantized(array: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    scale, zero_point = detail["quantization"]
    if scale and np.issubdtype(array.dtype, np.floating):
        limits = np.iinfo(detail["dtype"])
        array = np.clip(np.round(array / scale) + zero_point, limits.min, limits.max)
    return array.astype(detail["dtype"], copy=False)


def _dequantized(array: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    scale, zero_point = detail["quantization"]
    if scale:
        array = (array.astype(np.float32) - zero_point) * scale
    return array.astype(np.float32) if np.issubdtype(array.dtype, np.floating) else array


PLUGIN = TFLiteRuntime()
