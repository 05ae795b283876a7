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
from types import ModuleType
from typing import Any, Protocol

from numpy.typing import NDArray

from edgekd.errors import PluginUnavailable
from edgekd.plugins import find, names

EXTRAS = {
    "coreml": "coreml",
    "litert": "tflite",
    "litert_builtin": "tflite",
    "mil": "coreml",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "openvino_default": "openvino",
    "tflite_reference": "tensorflow",
}

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

    # A session of a runtime that has a profiler also has
    #     def profile(self, feeds, count) -> list[list[dict[str, Any]]] | None
    # with what `count` inferences did, node by node: see `Guest.profile` in _guest.py.


class Engine(Protocol):
    """A runtime."""

    suffixes: Sequence[str]
    """Of the files that it executes."""

    def version(self) -> str:
        """Version of the runtime."""

    def load(self, model: str, threads: int) -> Session:
        """Load a model file."""


def able(model: str) -> tuple[str, ...]:
    """Names of the engines that are installed here and execute a file of that name's ending."""
    return tuple(name for name in names(_family()) if _executes(name, model))


def arithmetic(name: str) -> str:
    """The precision that an engine computes in whatever the file says; "" where it does as the file says."""
    return getattr(find(_family(), name), "arithmetic", "")


def _executes(name: str, model: str) -> bool:
    try:
        return model.endswith(tuple(find(_family(), name).suffixes))
    except PluginUnavailable:
        return False


def _family() -> ModuleType:
    return sys.modules[__name__]


def path(name: str) -> Path:
    """File of an engine, to be copied to a device."""
    ours = Path(__file__).with_name(f"{name}.py")
    return ours if ours.is_file() else Path(inspect.getfile(type(find(_family(), name))))
