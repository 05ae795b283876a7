"""Compilers of neural processors: a model file goes in, and one comes out whose operators that processor executes.

To add one, write `edgekd/compilers/<name>.py` that ends in `PLUGIN: Compiler = ...`. tests/contracts/test_compilers.py
finds it. A target names the one that its device needs as `npu`, with the plugin's options. Where its packages cannot
live beside edgekd's own, the file names them as an engine does, `ENVIRONMENT = ("ethos-u-vela==5.2.0",)`, and
`edgekd engines install NAME` makes a virtual environment of them.
"""

import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from edgekd import environments
from edgekd.errors import ConfigError, PluginUnavailable
from edgekd.plugins import find, options
from edgekd.specs import Choice


@dataclass(frozen=True)
class Compilation:
    """What a compiler wrote, and what it says of it: fields as in `specs.Compiled`."""

    file: Path
    version: str
    processor: str
    npu_operators: int
    cpu_operators: tuple[str, ...]
    macs: int
    cycles: int
    latency_ms: float
    sram_bytes: int
    flash_bytes: int


class Compiler(Protocol):
    """A compiler."""

    title: str
    """As its maker calls it: "Arm Vela"."""
    suffixes: tuple[str, ...]
    """Of the files that it takes."""
    Options: type[Any]

    def compile(self, python: Path, model: Path, options: Any, out: Path) -> Compilation:
        """Compile a file into the folder `out`; `python` is that of the compiler's environment.

        Raises:
            ConvertError: the compiler gave up; the message has its last word.
        """


def compile_model(npu: Choice, model: Path, out: Path) -> Compilation:
    """A model file, compiled for a neural processor into the folder `out`.

    Raises:
        UnknownPlugin, ConfigError: there is no such compiler, or its options are others.
        PluginUnavailable: its environment is not made yet; the hint has the command.
        ConvertError: the compiler gave up.
    """
    check(npu)
    if not installed(npu.name):
        packages = ", ".join(environments.packages_of(path(npu.name)))
        raise PluginUnavailable(
            f"compiler {npu.name!r} needs an environment of its own, with {packages}", hint=how_to_install(npu.name)
        )
    compiler: Compiler = find(_family(), npu.name)
    return compiler.compile(environments.python_for(path(npu.name)), model, _options(npu), out)


def check(npu: Choice) -> None:
    """Raise what can be known of a target's compiler before any work.

    Raises:
        UnknownPlugin, ConfigError: there is none, or its options are others.
    """
    _options(npu)


def title(name: str) -> str:
    """As its maker calls it."""
    compiler: Compiler = find(_family(), name)
    return compiler.title


def installed(name: str) -> bool:
    """True where a compiler is ready on this machine."""
    return environments.installed(path(name))


def how_to_install(name: str) -> str:
    """The command that brings it."""
    return f"edgekd engines install {name}"


def path(name: str) -> Path:
    """File of a compiler."""
    return Path(inspect.getfile(type(find(_family(), name))))


def wrap(own: Any) -> Compiler:
    """A user's own compiler."""
    if not hasattr(own, "compile"):
        raise ConfigError(f"{own!r} is not a compiler", hint="see edgekd/compilers/__init__.py for what it must have")
    return own  # type: ignore[no-any-return]  # checked above as far as one can


def _options(npu: Choice) -> Any:
    return options(find(_family(), npu.name).Options, npu.options, f"options of npu {npu.name}")


def _family() -> ModuleType:
    return sys.modules[__name__]
