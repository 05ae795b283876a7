"""Engines execute artifacts.

An engine is one file that is copied to the device, so it imports the standard library, numpy and its runtime alone,
and nothing of edgekd. `_guest.py` goes with it, loads it there and speaks JSON lines. To add one, write
`edgekd/engines/<name>.py` that ends in `PLUGIN = ...` and has what the protocols below ask for. tests/contracts/
test_engines.py finds it.
"""

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from edgekd.plugins import find

EXTRAS = {"litert": "tflite", "litert_builtin": "tflite", "tflite_reference": "tensorflow", "onnxruntime": "onnx"}

GUEST = Path(__file__).with_name("_guest.py")


class Session(Protocol):
    """A loaded model."""

    inputs: Sequence[dict[str, Any]]
    """Of each input: name, shape, dtype."""
    outputs: Sequence[dict[str, Any]]

    def feed(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Set the inputs, batch included; floats are quantized here where the model takes integers."""

    def invoke(self) -> None:
        """Execute once. This alone is timed."""

    def fetch(self) -> list[NDArray[Any]]:
        """The outputs: floats as float32, also where integers stand for them; token ids and the like as they are."""


class Engine(Protocol):
    """A runtime."""

    suffixes: Sequence[str]
    """Of the files that it executes."""

    def version(self) -> str:
        """Version of the runtime."""

    def load(self, model: str, threads: int) -> Session:
        """Load a model file."""


def path(name: str) -> Path:
    """File of an engine, to be copied to a device."""
    ours = Path(__file__).with_name(f"{name}.py")
    return ours if ours.is_file() else Path(inspect.getfile(type(find(sys.modules[__name__], name))))
