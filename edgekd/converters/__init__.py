"""Formats that devices read.

To add one, write `edgekd/converters/<name>.py` that ends in `PLUGIN: Converter = ...`. tests/contracts/
test_converters.py finds it. A target asks for `<name>-<precision>`. Converters run in worker processes, and load their
libraries inside of functions, so that what a converter can do is known in no time.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from edgekd.errors import ConfigError
from edgekd.specs import Quantization, TensorSpec

if TYPE_CHECKING:
    from torch import nn

EXTRAS = {"tflite": "tflite", "onnx": "onnx", "openvino": "openvino", "coreml": "coreml"}


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


class Converter(Protocol):
    """A format."""

    suffix: str
    """Of the file, or of the folder where the format is one (.mlpackage)."""
    precisions: tuple[str, ...]
    packages: tuple[str, ...]
    """Packages that make the file; their versions are recorded."""

    def convert(
        self, source: Source, precision: str, out: Path
    ) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Write the file `out`; inputs and outputs as the file has them. Equal sources give equal bytes.

        Raises:
            ConvertError: names what the format cannot express.
        """


def wrap(own: Any) -> Converter:
    """A user's own converter."""
    if not hasattr(own, "convert"):
        raise ConfigError(f"{own!r} is not a converter", hint="see edgekd/converters/__init__.py for what it must have")
    return own  # type: ignore[no-any-return]  # checked above as far as one can
