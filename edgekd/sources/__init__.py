"""Models that a user already has, each brought to one form: a torch module in evaluation mode.

To add one, write `edgekd/sources/<name>.py` that ends in `PLUGIN: ModelSource = ...` and imports its libraries inside
of functions, so that a file's kind is known in no time. tests/contracts/test_sources.py finds it. Sources execute
nothing that a file holds, and are called in worker processes, where heavy libraries load and leak alone.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

from edgekd.errors import ConfigError
from edgekd.plugins import find, names
from edgekd.specs import TensorSpec

if TYPE_CHECKING:
    from torch import nn

EXTRAS = {
    "exported_program": "train",
    "keras": "tensorflow",
    "onnx": "onnx",
    "saved_model": "tensorflow",
    "torch_module": "train",
}

SAVED_MODEL = "saved_model.pb"
"""The file that makes a folder a SavedModel."""

NO_SHAPES: Final[Mapping[str, tuple[int, ...]]] = MappingProxyType({})


@dataclass(frozen=True)
class Model:
    """A model as a torch module."""

    module: "nn.Module"
    """In evaluation mode; takes tensors in the order of `inputs`, and returns a Tensor where there is one output, else
    a tuple of Tensors in the order of `outputs`."""
    inputs: tuple[TensorSpec, ...]
    """With concrete shapes, batch included. A layout is given only where a float input is a 4-D image."""
    outputs: tuple[TensorSpec, ...]
    properties: dict[str, str] = field(default_factory=dict)
    """Labels, licence, preprocessing and the like, as the file has them."""


class ModelSource(Protocol):
    """A kind of model file."""

    suffixes: tuple[str, ...]
    """Of its files, in lower case: (".onnx",); empty where a name's form says it."""

    def load(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Model:
        """The model; `shapes` gives sizes, batch included, to inputs that leave them open; others become 1.

        Raises:
            ConfigError: there is no such file, or it is not what its name says.
            UnsupportedOperator: names the operator, its node, and what to write instead.
        """


def open_model(name: str, shapes: Mapping[str, tuple[int, ...]] = NO_SHAPES) -> Model:
    """The model that a file, a folder, or a `module:function` names.

    Args:
        name: `model.onnx`, `model.pt2`, `model.keras`, `model.h5`, a SavedModel's folder, `package.module:function` or
            `file.py:function`.
        shapes: sizes, batch included, of inputs that leave them open.

    Raises:
        ConfigError: nothing is known to read this, it is broken, or the shapes do not fit it.
        PluginUnavailable: a package that reads it is not installed.
        UnsupportedOperator: the model has an operator that cannot be expressed.
    """
    source: ModelSource = find(sys.modules[__name__], kind_of(name))
    return source.load(name, shapes)


def kind_of(name: str) -> str:
    """Name of the plugin that reads it; nothing heavy is loaded to know.

    Raises:
        ConfigError: nothing here reads it.
    """
    path = Path(name)
    suffix = path.suffix.lower()
    readers = {ending: plugin for plugin, endings in _suffixes().items() for ending in endings}
    if suffix in readers:
        return readers[suffix]
    if name.rpartition(":")[2].isidentifier() and ":" in name:
        return "torch_module"
    if _is_folder(path):
        return "saved_model"
    raise ConfigError(
        f"{name!r} is not a model that edgekd reads",
        hint=f"known: {', '.join(sorted(readers))}, a folder with {SAVED_MODEL}, module:function, file.py:function",
    )


def wrap(own: Any) -> ModelSource:
    """A user's own source."""
    if not hasattr(own, "load"):
        raise ConfigError(f"{own!r} is not a source of models", hint="see edgekd/sources/__init__.py for what it has")
    return own  # type: ignore[no-any-return]  # checked above as far as one can


def _suffixes() -> dict[str, tuple[str, ...]]:
    family = sys.modules[__name__]
    return {name: find(family, name).suffixes for name in names(family)}


def _is_folder(path: Path) -> bool:
    try:
        return (path / SAVED_MODEL).is_file()
    except (OSError, ValueError):  # a name that is too long, or has a zero in it
        return False
