"""Formats that devices read.

To add one, write `edgekd/converters/<name>.py` that ends in `PLUGIN: Converter = ...`. tests/contracts/
test_converters.py finds it. A target asks for `<name>-<precision>`. Converters run in worker processes, and load their
libraries inside of functions, so that what a converter can do is known in no time.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from edgekd.errors import ConfigError, ConvertError, PluginUnavailable
from edgekd.files import discard
from edgekd.plugins import find
from edgekd.specs import Quantization, TensorSpec

if TYPE_CHECKING:
    from torch import nn

EXTRAS = {"tflite": "tflite", "onnx": "onnx", "openvino": "openvino", "coreml": "coreml"}

CALIBRATED = {"int8", "int16", "w8a8"}
"""Precisions whose activations are integers, so that their ranges must be seen."""


@dataclass(frozen=True)
class Source:
    """What is converted."""

    module: "nn.Module"
    """In evaluation mode."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    calibration: tuple[NDArray[Any], ...]
    """For each input an array of shape (examples, *input shape) that static quantization takes its ranges from."""
    properties: dict[str, str]
    """Classes, preprocessing, licence and the like, kept in the file where the format has a place for them."""
    quantization: Quantization = Quantization()
    newest_set: int | None = None
    """Newest operator set that the device's runtimes read, in formats that have such; None for what is usual."""


class Converter(Protocol):
    """A format."""

    suffix: str
    """Of the file, or of the folder where the format is one (.mlpackage)."""
    precisions: tuple[str, ...]
    packages: tuple[str, ...]
    """Packages that make the file; their versions are recorded."""
    family: str
    """Converters of one family share a process, and what one of them has made of a module."""

    def convert(
        self, source: Source, precision: str, out: Path
    ) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Write the file `out`; inputs and outputs as the file has them. Equal sources give equal bytes.

        Raises:
            ConvertError: names what the format cannot express.
        """


def split(export: str) -> tuple[str, str]:
    """Format and precision of an export such as "tflite-int8".

    Raises:
        ConfigError: there is no dash in it.
    """
    name, dash, precision = export.rpartition("-")
    if not dash:
        raise ConfigError(f"export {export!r} has no precision", hint="write it as format-precision: tflite-int8")
    return name, precision


def check(export: str) -> Converter:
    """The converter of an export.

    Raises:
        UnknownPlugin, PluginUnavailable: the format is not known, or its packages are not installed.
        ConfigError: the converter has no such precision.
    """
    name, precision = split(export)
    converter: Converter = find(sys.modules[__name__], name)
    if precision not in converter.precisions:
        raise ConfigError(f"{name} has no precision {precision!r}", hint=f"it has {', '.join(converter.precisions)}")
    for package in converter.packages:
        if not _installed(package):
            extra = EXTRAS.get(name, name)
            raise PluginUnavailable(f"{export} needs {package}", hint=f"pip install 'edgekd[{extra}]'")
    return converter


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def families(exports: Iterable[str]) -> list[tuple[str, ...]]:
    """Exports, those of a family together."""
    found: dict[str, list[str]] = {}
    for export in exports:
        found.setdefault(check(export).family, []).append(export)
    return [tuple(members) for members in found.values()]


def write(
    source: Source, export: str, out: Path
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], dict[str, str]]:
    """Write an export to `out`; its inputs and outputs as the file has them, and the versions of what made it.

    Raises:
        ConvertError: the format cannot express the model, or static quantization has no examples to calibrate with.
    """
    converter = check(export)
    _, precision = split(export)
    if precision in CALIBRATED and not (source.calibration and len(source.calibration[0])):
        raise ConvertError(
            f"{export} needs examples to calibrate with",
            hint="give some with --calibration, or choose another precision",
        )
    discard(out)  # what a killed try left
    inputs, outputs = converter.convert(source, precision, out)
    return inputs, outputs, {package: version(package) for package in converter.packages}


def wrap(own: Any) -> Converter:
    """A user's own converter."""
    if not hasattr(own, "convert"):
        raise ConfigError(f"{own!r} is not a converter", hint="see edgekd/converters/__init__.py for what it must have")
    return own  # type: ignore[no-any-return]  # checked above as far as one can
