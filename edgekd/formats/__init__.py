"""What stands in a file of a device's format: its operators, tensors and metadata, read without executing anything.

To add one, write `edgekd/formats/<name>.py`, named as its converter, that ends in `PLUGIN: Format = ...`.
tests/contracts/test_formats.py finds it. Files come from anywhere: a reader answers with a Graph or with a ConfigError,
whatever the bytes are, in time and memory that the size of the file bounds.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

from edgekd.errors import ConfigError, PluginUnavailable
from edgekd.plugins import find, names
from edgekd.programs import Program
from edgekd.specs import Graph, Operator

NO_SHAPES: Final[Mapping[str, tuple[int, ...]]] = MappingProxyType({})
EXTRAS = {"tflite": "tflite", "onnx": "onnx", "openvino": "openvino", "coreml": "coreml"}


class Format(Protocol):
    """A device's format."""

    suffixes: tuple[str, ...]
    """Of the files, or folders, that are of this format."""

    def read(self, path: Path) -> Graph:
        """The graph of a model file.

        Raises:
            ConfigError: the file is not of this format, or is damaged.
        """

    def program(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Program:
        """The model with the sizes of its tensors; `shapes` gives sizes to inputs that leave them open, others are 1.

        Raises:
            ConfigError: as `read`, or a shape is given to what is no input.
        """

    def tap(self, path: Path, tensors: Sequence[str], out: Path) -> None:
        """Write a copy of the model whose outputs are followed by `tensors`, names of operators' outputs.

        Raises:
            ConfigError: as `read`, or there is no such tensor.
        """


def format_of(path: Path) -> str:
    """Name of the format that a file has, by its ending.

    Raises:
        ConfigError: no such file, or no format of edgekd.
    """
    if not path.exists():
        raise ConfigError(f"{path}: no such file")
    family = sys.modules[__name__]
    suffixes = {suffix: name for name in names(family) for suffix in find(family, name).suffixes}
    if path.suffix not in suffixes:
        raise ConfigError(f"{path}: not a model that a device reads", hint=f"known: {', '.join(sorted(suffixes))}")
    return suffixes[path.suffix]


def read(path: Path) -> Graph:
    """The graph of a model file of any known format.

    Raises:
        ConfigError: no such file, not of a known format, or damaged.
        PluginUnavailable: a package that reads this format is not installed.
    """
    name = format_of(path)
    found: Format = find(sys.modules[__name__], name)
    with _needing(name):
        return found.read(path)


def program(path: Path, shapes: Mapping[str, tuple[int, ...]] = NO_SHAPES) -> Program:
    """A model file of any known format with the sizes of its tensors, as far as the file tells them.

    Raises:
        ConfigError: as `read`, or a shape is given to what is no input.
        PluginUnavailable: as `read`.
    """
    name = format_of(path)
    found: Format = find(sys.modules[__name__], name)
    with _needing(name):
        return found.program(path, shapes)


def tap(path: Path, tensors: Sequence[str], out: Path) -> None:
    """Write a copy of a model file of any known format that gives `tensors` out behind its own outputs.

    Raises:
        ConfigError: as `read`, or there is no such tensor.
        PluginUnavailable: as `read`.
    """
    name = format_of(path)
    found: Format = find(sys.modules[__name__], name)
    with _needing(name):
        found.tap(path, tensors, out)


def live(graph: Graph) -> tuple[Operator, ...]:
    """The operators on the way from an input to an output; what only works on weights, or in a branch, is left out."""
    reached, wanted = {spec.name for spec in graph.inputs}, {spec.name for spec in graph.outputs}
    forward = []
    for one in graph.operators:
        if reached.intersection(one.inputs):
            reached.update(one.outputs)
            forward.append(one)
    found = []
    for one in reversed(forward):
        if wanted.intersection(one.outputs):
            wanted.update(one.inputs)
            found.append(one)
    return tuple(reversed(found))


@contextmanager
def _needing(name: str) -> Iterator[None]:
    """Say which extra a format needs where a package is missing."""
    try:
        yield
    except ModuleNotFoundError as missing:
        hint = f"pip install 'edgekd[{EXTRAS.get(name, name)}]'"
        raise PluginUnavailable(f"format {name!r} needs the package {missing.name!r}", hint=hint) from missing


def wrap(own: Any) -> Format:
    """A user's own format."""
    if not hasattr(own, "read"):
        raise ConfigError(f"{own!r} is not a format", hint="see edgekd/formats/__init__.py for what it must have")
    return own  # type: ignore[no-any-return]  # checked above as far as one can
