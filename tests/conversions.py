"""Conversions of the zoo's nets, for tests to ask of a worker process: it imports heavy libraries once for many."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from zoo import ZOO, Case

from edgekd import converters
from edgekd.converters import Source
from edgekd.errors import EdgekdError
from edgekd.files import content, members
from edgekd.plugins import find
from edgekd.specs import Quantization, Spec, TensorSpec

PROPERTIES = {
    "edgekd.classes": '["a","b","c","d","e","f","g","h","i","j"]',
    "edgekd.preprocessing": '{"size":[32,32],"mean":[127.5,120.0,110.0],"std":[58.0,57.0,56.5]}',
    "edgekd.data_licence": "CC-BY-4.0",
    "edgekd.licence": "Apache-2.0",
    "edgekd.run": "zoo",
    "edgekd.title": "A net of the zoo",
}


class Made(Spec, frozen=True, kw_only=True):
    """What became of one conversion."""

    file: str
    sha256: str = ""
    left: tuple[str, ...] = ()
    """Other files that lie beside the model."""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    error: str = ""


def convert(name: str, nets: tuple[str, ...], precisions: tuple[str, ...], folder: str) -> dict[str, Made]:
    """By "net-precision", what the converter of that name makes of the nets."""
    made = {}
    for net in nets:
        case = ZOO[net]()
        for precision in precisions:
            made[f"{net}-{precision}"] = _convert(name, case, precision, Path(folder) / f"{net}-{precision}")
    return made


def quantize(net: str, name: str, precision: str, ways: tuple[Quantization, ...], folder: str) -> tuple[Made, ...]:
    """A net of the zoo, quantized in several ways."""
    case = ZOO[net]()
    return tuple(_convert(name, case, precision, Path(folder) / str(i), way) for i, way in enumerate(ways))


def for_sets(net: str, newest: tuple[int | None, ...], folder: str) -> tuple[Made, ...]:
    """A net of the zoo in ONNX, for runtimes that read operator sets up to these."""
    case = ZOO[net]()
    return tuple(_convert("onnx", case, "int8", Path(folder) / str(number), newest_set=number) for number in newest)


class Products(nn.Module):
    """Each head's own projection, as one product of three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 8, 8) * torch.logspace(-2, 0, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.table


def products(folder: str) -> tuple[Made, ...]:
    """Products with a constant, in int8."""
    torch.manual_seed(0)
    spec = TensorSpec(name="x", shape=(4, 6, 8))
    examples = np.random.default_rng(0).normal(size=(16, 4, 6, 8)).astype(np.float32)
    case = Case(Products().eval(), (spec,), (TensorSpec(name="y", shape=(4, 6, 8)),), (examples,))
    return (_convert("tflite", case, "int8", Path(folder)),)


def _convert(
    name: str,
    case: Case,
    precision: str,
    folder: Path,
    quantization: Quantization | None = None,
    newest_set: int | None = None,
) -> Made:
    source = Source(*case, PROPERTIES, quantization or Quantization(), newest_set)
    converter = find(converters, name)
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"model{converter.suffix}"
    try:
        inputs, outputs = converter.convert(source, precision, out)
    except EdgekdError as error:
        return Made(file=str(out), error=f"{type(error).__name__}: {error} ({error.hint})")
    left = {path.name for path in folder.iterdir()} - {path.relative_to(folder).parts[0] for path in members(out)}
    return Made(file=str(out), sha256=content(out)[1], left=tuple(sorted(left)), inputs=inputs, outputs=outputs)


# --- modules that formats cannot express


class Part(nn.Module):
    """Does what it is given."""

    def __init__(self, function: Any):
        super().__init__()
        self.function = function

    def forward(self, numbers: torch.Tensor) -> Any:
        return self.function(numbers)  # the line that errors name


class Whole(nn.Module):
    """A linear layer, and then the part."""

    def __init__(self, function: Any):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.part = Part(function)

    def forward(self, numbers: torch.Tensor) -> Any:
        return self.part(self.linear(numbers))


def _branch(numbers: torch.Tensor) -> torch.Tensor:
    if numbers.sum() > 0:  # a branch that data choose
        return numbers
    return -numbers


def _wrong(numbers: torch.Tensor) -> torch.Tensor:
    return numbers @ torch.ones(5, 5)  # a mistake


FUNCTIONS: dict[str, Any] = {
    "inverse": torch.linalg.inv,
    "spectrum": lambda numbers: torch.complex(numbers, numbers).abs(),
    "sorted": lambda numbers: numbers.sort(-1)[0],
    "found": lambda numbers: numbers.nonzero(),
    "numpy": lambda numbers: torch.from_numpy(numbers.detach().numpy()),
    "gamma": torch.lgamma,
    "branch": _branch,
    "wrong": _wrong,
}


class Refusal(Spec, frozen=True, kw_only=True):
    """What a converter raised; "" where it did not."""

    kind: str = ""
    message: str = ""
    hint: str = ""


def refusals(name: str, functions: tuple[str, ...], folder: str) -> dict[str, Refusal]:
    """What a converter says to modules that call these of FUNCTIONS."""
    return {function: _refusal(name, function, folder) for function in functions}


def _refusal(name: str, function: str, folder: str) -> Refusal:
    torch.manual_seed(0)
    numbers = TensorSpec(name="numbers", shape=(4, 4))
    source = Source(Whole(FUNCTIONS[function]).eval(), (numbers,), (numbers,), (), {})
    converter = find(converters, name)
    try:
        converter.convert(source, "fp32", Path(folder) / f"model{converter.suffix}")
    except EdgekdError as error:
        return Refusal(kind=type(error).__name__, message=str(error), hint=error.hint)
    return Refusal()
