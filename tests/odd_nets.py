"""Nets whose inputs and outputs are odd, for tests to convert in a worker process."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import conversions
import numpy as np
import torch
from torch import Tensor, nn
from zoo import Case

from edgekd.specs import Quantization, TensorSpec

EXAMPLES: Final = 4


class Echo(nn.Module):
    """Answers one tensor twice, and one of its inputs; it does not look at the other."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, numbers: Tensor, ignored: Tensor) -> tuple[Tensor, ...]:
        once = torch.relu(self.linear(numbers))
        return once, numbers, once


def echo() -> Case:
    """Names of inputs and outputs are all that tells tensors apart."""
    return _case(Echo(), ("numbers", "ignored"), ("once", "same", "twice"))


class Tied(nn.Module):
    """Two layers of one weight, and a branch that is always zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.second.weight = self.first.weight

    def forward(self, numbers: Tensor) -> Tensor:
        out: Tensor = self.second(torch.relu(self.first(numbers))) + torch.relu(-numbers.abs() - 1)
        return out


def tied() -> Case:
    """One layer may stay in float while the other does not."""
    return _case(Tied(), ("numbers",), ("out",), 64)


class Listed(nn.Module):
    """Modules of the same name in two lists; one is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.ModuleList([nn.Linear(4, 4)]), nn.ModuleList([nn.Linear(4, 4)])

    def forward(self, numbers: Tensor) -> Tensor:
        out: Tensor = self.second[0](torch.tanh(self.second[0](torch.tanh(self.first[0](numbers)))))
        return out


def chain() -> Case:
    """Two layers with nothing between them."""
    module = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    return _case(module, ("numbers",), ("out",), 64)


def listed() -> Case:
    """The whole path tells modules apart."""
    return _case(Listed(), ("numbers",), ("out",))


def dotted() -> Case:
    """Names that are fine in a file of torch."""
    return _case(nn.Linear(4, 4), ("my.numbers",), ("out/0",))


def alike() -> Case:
    """An input and an output of one name."""
    return _case(nn.Linear(4, 4), ("numbers",), ("numbers",))


def _case(module: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...], width: int = 4) -> Case:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    examples = tuple(random.normal(size=(EXAMPLES, 1, width)).astype(np.float32) for _ in inputs)
    made, taken = (tuple(TensorSpec(name=name, shape=(1, width)) for name in names) for names in (outputs, inputs))
    return Case(module.eval(), taken, made, examples)


NETS: Final[dict[str, Callable[[], Case]]] = {
    "echo": echo,
    "tied": tied,
    "chain": chain,
    "listed": listed,
    "dotted": dotted,
    "alike": alike,
}


def convert(name: str, cases: tuple[str, ...], folder: str) -> dict[str, conversions.Made]:
    """By each of "net precision module-in-float", what the converter of that name makes of it."""
    made = {}
    for case in cases:
        net, precision, *in_float = case.split()
        way = Quantization(in_float=tuple(in_float))
        made[case] = conversions._convert(name, NETS[net](), precision, Path(folder) / case.replace(" ", "-"), way)
    return made


def convert_and_read(cases: tuple[str, ...], folder: str) -> tuple[dict[str, conversions.Made], tuple[str, ...], int]:
    """The same of Core ML, with the first package's inputs, outputs and version as Apple's library reads them."""
    made = convert("coreml", cases, folder)

    from coremltools.models import MLModel

    specification = MLModel(made[cases[0]].file, skip_model_load=True).get_spec()
    ends = (*specification.description.input, *specification.description.output)
    return made, tuple(one.name for one in ends), specification.specificationVersion
