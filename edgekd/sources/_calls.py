"""Modules that take and return anything, brought to tensors in order."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from edgekd.errors import ConfigError


def tensors_of(made: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of what a module returned: keys of dicts, fields of dataclasses, positions of the rest.

    Raises:
        ConfigError: something in it is not a tensor.
    """
    if isinstance(made, Tensor):
        yield name or "output", made
    elif made is not None:
        for key, part in _parts(made, name):
            yield from tensors_of(part, f"{name}_{key}" if name else key)


def _parts(made: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(made, Mapping):
        yield from ((str(key), part) for key, part in made.items())
    elif dataclasses.is_dataclass(made) and not isinstance(made, type):
        yield from ((field.name, getattr(made, field.name)) for field in dataclasses.fields(made))
    elif isinstance(made, tuple) and hasattr(made, "_fields"):
        yield from zip(made._fields, made, strict=True)
    elif isinstance(made, tuple | list):
        yield from ((str(place) if name else f"output_{place}", part) for place, part in enumerate(made))
    else:
        where = f"output {name!r}" if name else "what it returns"
        raise ConfigError(
            f"{where} is of type {type(made).__name__}", hint="return tensors, or tuples, dicts and dataclasses of them"
        )


class Flat(nn.Module):
    """Calls a module with tensors in order, by keyword where `keywords` says so; returns its tensors in order."""

    def __init__(self, module: nn.Module, keywords: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.keywords = tuple(keywords)

    def forward(self, *inputs: Tensor) -> Any:
        count = len(inputs) - len(self.keywords)
        made = self.module(*inputs[:count], **dict(zip(self.keywords, inputs[count:], strict=True)))
        tensors = tuple(tensor for _, tensor in tensors_of(made))
        return tensors[0] if len(tensors) == 1 else tensors


def is_flat(made: Any) -> bool:
    """Whether a module's own result is what a Model returns."""
    if isinstance(made, Tensor):
        return True
    return type(made) is tuple and len(made) > 1 and all(isinstance(part, Tensor) for part in made)
