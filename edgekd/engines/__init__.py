"""Engines execute artifacts.

An engine is one file that is copied to the device, so it imports the standard library, numpy and its runtime alone,
and nothing of edgekd. `_guest.py` goes with it, loads it there and speaks JSON lines. To add one, write
`edgekd/engines/<name>.py` that ends in `PLUGIN = ...` and has what the protocols below ask for. tests/contracts/
test_engines.py finds it.

The runtime is imported inside of functions, so that what an engine executes is known without it. Where its packages
cannot live beside edgekd's own, the file names them: `ENVIRONMENT = ("tflite-runtime==2.14.0", "numpy==1.26.4")`, and
`edgekd engines install NAME` makes a virtual environment of them.
"""

import importlib.util
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from numpy.typing import NDArray

from edgekd import environments
from edgekd.errors import ConfigError, PluginUnavailable
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
BENCHMARK_MODEL = Path(__file__).with_name("_benchmark_model.py")
"""In front of a program that the user gives; no engine, for it executes nothing without one."""


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

    # A session of a runtime that plans its memory also has `arena_bytes`, how much, and where it tells it
    # `persistent_bytes`, how much of that holds no tensor of the graph; one that has a profiler has
    #     def profile(self, feeds, count) -> list[list[dict[str, Any]]] | None
    # with what `count` inferences did, node by node: see `Guest.profile` in _guest.py.
    #
    # A session whose `invoke` is more than an inference, as where it starts a program, has a clock of its own:
    #     def time(self, feeds, warmup_count, warmup_s, min_count, min_s, max_s) -> list[float]
    # with the milliseconds of each inference after the warm-up, at least `min_count` in at least `min_s` seconds unless
    # that would take longer than `max_s`. What begins and ends such a sample, the engine's file says: those of
    # `tensorrt` are the transfer in, the computation and the transfer out. Where another process executes, the session
    # also says `process_bytes`, the peak memory of that one.


class Engine(Protocol):
    """A runtime."""

    suffixes: Sequence[str]
    """Of the files that it executes."""
    runtime: str
    """The module that is its runtime: "onnxruntime"."""

    def version(self) -> str:
        """Version of the runtime."""

    def load(self, model: str, threads: int) -> Session:
        """Load a model file."""

    # A runtime that wants something done before it is imported also has
    #     def prepare(self) -> None
    # one that is a program and no module, whose `runtime` then is the module that starts it,
    #     def installed(self) -> bool
    # and one that no package brings to this machine says instead what it needs: `needs = "a Mac"`. One that is no
    # runtime of any device, whose times tell nothing, says `timed = False`.


def able(model: str) -> tuple[str, ...]:
    """Names of the engines that are installed here and execute a file of that name's ending."""
    return tuple(name for name in names(_family()) if _executes(name, model))


def fitting(model: str) -> tuple[str, ...]:
    """Names of the engines that execute a file of that name's ending, installed here or not, and that devices have."""
    return tuple(
        name for name in names(_family()) if model.endswith(tuple(find(_family(), name).suffixes)) and timed(name)
    )


def arithmetic(name: str) -> str:
    """The precision that an engine computes in whatever the file says; "" where it does as the file says."""
    return getattr(find(_family(), name), "arithmetic", "")


def timed(name: str) -> bool:
    """False for an engine that checks artifacts and is no runtime of any device."""
    return getattr(find(_family(), name), "timed", True)


def installed(name: str) -> bool:
    """True where an engine's runtime is on this machine; it is not loaded to find out."""
    plugin, file = find(_family(), name), path(name)
    if environments.packages_of(file):
        return environments.installed(file)
    if hasattr(plugin, "installed"):
        return bool(plugin.installed())
    return importlib.util.find_spec(plugin.runtime.partition(".")[0]) is not None


def how_to_install(name: str) -> str:
    """The command that brings an engine's runtime to this machine, or what the engine says that it needs."""
    needs: str = getattr(find(_family(), name), "needs", "")
    if needs:
        return needs
    if environments.packages_of(path(name)):
        return f"edgekd engines install {name}"
    return f"pip install 'edgekd[{EXTRAS[name]}]'" if name in EXTRAS else ""


def _executes(name: str, model: str) -> bool:
    try:
        return model.endswith(tuple(find(_family(), name).suffixes)) and installed(name)
    except PluginUnavailable:
        return False


def _family() -> ModuleType:
    return sys.modules[__name__]


def path(name: str) -> Path:
    """File of an engine, to be copied to a device."""
    own = ":" in name or not Path(__file__).with_name(f"{name}.py").is_file()
    return Path(inspect.getfile(type(find(_family(), name)))) if own else Path(__file__).with_name(f"{name}.py")


def wrap(own: Any) -> Engine:
    """A user's own engine; the file that it is written in is what goes to the device."""
    if not (hasattr(own, "load") and hasattr(own, "suffixes")):
        raise ConfigError(f"{own!r} is not an engine", hint="see edgekd/engines/__init__.py for what it must have")
    return own  # type: ignore[no-any-return]  # checked above as far as one can
