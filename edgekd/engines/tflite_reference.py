"""TensorFlow's reference kernels for .tflite files: plain loops, to hold the fast ones against."""

from __future__ import annotations

import os
import warnings
from typing import Any, Sequence

import numpy as np


class TFLiteReference:
    """An engine; see edgekd/engines/__init__.py."""

    suffixes = (".tflite",)
    runtime = "tensorflow"

    def prepare(self) -> None:
        """Keep TensorFlow from telling what it found on this machine."""
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    def version(self) -> str:
        """Version of the package."""
        from importlib.metadata import version

        return version("tensorflow")

    def load(self, model: str, threads: int) -> TFLiteReferenceSession:
        """Load a model file."""
        return TFLiteReferenceSession(model, threads)


class TFLiteReferenceSession:
    """A session; see edgekd/engines/__init__.py."""

    def __init__(self, model: str, threads: int) -> None:
        import tensorflow

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tf.lite has moved to LiteRT; what is wanted here is the old one
            self._interpreter = tensorflow.lite.Interpreter(
                model_path=model,
                num_threads=threads,
                experimental_op_resolver_type=tensorflow.lite.experimental.OpResolverType.BUILTIN_REF,
            )
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


PLUGIN = TFLiteReference()
