"""TFLite Micro, the runtime of microcontrollers, with its reference kernels on this machine.

Its answers and its arena are those of the device; its times are not, so it is asked for none. (A device of 32 bits
needs less for records, which are half pointers; kernels made for its processor may want scratch memory besides.)
"""

from __future__ import annotations

import os
import re
import tempfile
from typing import Any, Callable, Sequence

import numpy as np

ENVIRONMENT = ("tflite-micro==0.dev20261023182759", "numpy==2.3.5")  # it has no releases but dated ones

LARGEST_ARENA = 1 << 29


class TFLiteMicro:
    """An engine; see edgekd/engines/__init__.py."""

    suffixes = (".tflite",)
    runtime = "tflite_micro"
    timed = False

    def version(self) -> str:
        """Version of the package."""
        from importlib.metadata import version

        return version("tflite-micro")

    def load(self, model: str, threads: int) -> TFLiteMicroSession:
        """Load a model file; a microcontroller has one thread."""
        return TFLiteMicroSession(model)


class TFLiteMicroSession:
    """A session; see edgekd/engines/__init__.py."""

    def __init__(self, model: str) -> None:
        self._interpreter = _interpreter(model)
        self._inputs = _all(self._interpreter.get_input_details)
        self._outputs = _all(self._interpreter.get_output_details)
        self.inputs = [_described("input", index, one) for index, one in enumerate(self._inputs)]
        self.outputs = [_described("output", index, one) for index, one in enumerate(self._outputs)]

    @property
    def arena_bytes(self) -> int | None:
        """What the model needs of a microcontroller's memory, beside its file."""
        return self._allocated("total")

    @property
    def persistent_bytes(self) -> int | None:
        """Those of them that stay: records of nodes and tensors, and buffers of kernels."""
        return self._allocated("tail")

    def _allocated(self, where: str) -> int | None:
        found = re.search(r"Arena allocation %s (\d+) bytes" % where, _printed(self._interpreter.print_allocations))
        return int(found.group(1)) if found else None

    def feed(self, arrays: Sequence[np.ndarray]) -> None:
        """Set the inputs, quantized by the model's own scale where they are integers."""
        for index, (detail, array) in enumerate(zip(self._inputs, arrays)):
            self._interpreter.set_input(_quantized(array, detail), index)

    def invoke(self) -> None:
        """Execute once."""
        self._interpreter.invoke()

    def fetch(self) -> list[np.ndarray]:
        """The outputs: floats and what stands for floats as float32, other integers as they are."""
        return [_dequantized(self._interpreter.get_output(index), detail) for index, detail in enumerate(self._outputs)]


def _interpreter(model: str) -> Any:
    """An interpreter with the first arena that is large enough; only what is used of it is counted."""
    from tflite_micro import runtime

    with open(model, "rb") as opened:
        content = opened.read()
    if content[4:8] != b"TFL3":
        raise ValueError("not a .tflite file")
    arena = max(1 << 16, 10 * len(content))
    while True:
        try:
            return runtime.Interpreter.from_bytes(
                content, arena_size=arena, intrepreter_config=runtime.InterpreterConfig.kAllocationRecording
            )
        except RuntimeError:  # of every kind of failure alike
            if arena >= LARGEST_ARENA:
                raise
            arena = min(8 * arena, LARGEST_ARENA)


def _all(details: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
    """Details of all inputs or outputs, whose number the runtime does not tell."""
    found: list[dict[str, Any]] = []
    while True:
        try:
            found.append(details(len(found)))
        except IndexError:
            return found


def _printed(function: Callable[[], None]) -> str:
    """What a function of the runtime prints, for that is the only way in which it tells."""
    with tempfile.TemporaryFile() as taken:
        kept = [os.dup(stream) for stream in (1, 2)]
        try:
            for stream in (1, 2):
                os.dup2(taken.fileno(), stream)
            function()
        finally:
            for stream, before in zip((1, 2), kept):
                os.dup2(before, stream)
                os.close(before)
        taken.seek(0)
        return taken.read().decode("utf-8", "replace")


def _described(kind: str, index: int, detail: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "%s_%d" % (kind, index),
        "shape": [int(size) for size in detail["shape"]],
        "dtype": np.dtype(detail["dtype"]).name,
    }


def _scale(detail: dict[str, Any]) -> tuple[float, int]:
    parameters = detail["quantization_parameters"]
    if len(parameters["scales"]) != 1:
        return 0.0, 0
    return float(parameters["scales"][0]), int(parameters["zero_points"][0])


def _quantized(array: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    scale, zero_point = _scale(detail)
    if scale and np.issubdtype(array.dtype, np.floating) and np.issubdtype(detail["dtype"], np.integer):
        limits = np.iinfo(detail["dtype"])
        array = np.clip(np.round(array / scale) + zero_point, limits.min, limits.max)
    return np.ascontiguousarray(array.astype(detail["dtype"]))


def _dequantized(array: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    scale, zero_point = _scale(detail)
    if scale and np.issubdtype(array.dtype, np.integer):
        array = (array.astype(np.float32) - zero_point) * np.float32(scale)
    return array.astype(np.float32) if np.issubdtype(array.dtype, np.floating) else array


PLUGIN = TFLiteMicro()
