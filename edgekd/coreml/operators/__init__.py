"""Operators of ML programs, a file for each category of MIL.

A file has a table `OPERATORS` of names and functions, and where some came later than iOS 15 a table `SINCE` of op set
numbers and names. A function takes a `Given`, never changes an input in place, and returns a value for each output.
The files are imported when the first program is executed, for all of them need torch.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from edgekd.coreml.given import Given, Result

Function = Callable[[Given], Result]
Table = Mapping[str, Function]
Since = Mapping[int, tuple[str, ...]]

FIRST_OPSET = 5

REFUSED = {
    **dict.fromkeys(
        ("random_bernoulli", "random_categorical", "random_normal", "random_uniform"),
        "nobody but Core ML knows its random numbers; give them to the model as an input",
    ),
    "conv_quantized": "it was an experiment that no converter writes",
    "custom_layer": "its code is not in the package",
}
"""Operators that cannot be executed here, and why."""


@dataclass(frozen=True)
class Operator:
    """A function, and the first op set that has the operator."""

    function: Function
    since: int


@cache
def operators() -> dict[str, Operator]:
    """All operators by name."""
    found: dict[str, Operator] = {}
    for file in pkgutil.iter_modules(__path__):
        if not file.name.startswith("_"):
            module = importlib.import_module(f"{__name__}.{file.name}")
            since = {name: number for number, names in getattr(module, "SINCE", {}).items() for name in names}
            for name, function in module.OPERATORS.items():
                found[name] = Operator(function, since.get(name, FIRST_OPSET))
    return found
