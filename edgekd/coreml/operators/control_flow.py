"""Branches, loops, choices and lists."""

from typing import Final

import torch
from torch import Tensor

from edgekd.coreml.given import Given, Value, broadcast
from edgekd.coreml.operators import Table


def _cond(given: Given) -> tuple[Value, ...]:
    return tuple(given.execute(0 if given.flag("pred") else 1, []))


def _while_loop(given: Given) -> tuple[Value, ...]:
    variables = list(given.all("loop_vars"))
    while _goes_on(given.execute(0, variables)):
        variables = given.execute(1, variables)
    return tuple(variables)


def _goes_on(answer: list[Value]) -> bool:
    if len(answer) != 1 or not isinstance(answer[0], Tensor) or answer[0].numel() != 1:
        raise ValueError("the condition is not one truth value")
    return bool(answer[0].item())


def _select(given: Given) -> Tensor:
    cond, a, b = given.tensor("cond"), given.tensor("a"), given.tensor("b")
    given.room(broadcast(cond, a, b))
    return torch.where(cond.bool(), a, b)


# --- lists of tensors that grow; a place that nothing was written to is None

_TENSOR_BYTES: Final = 1024
"""What a tensor takes beside its elements."""


def _make_list(given: Given) -> list[Tensor | None]:
    given.ignore("elem_shape", "dtype", "dynamic_length")  # they are the elements' declared type
    length = given.integer("init_length", 1, least=0)
    given.room(length, 8)
    return [None] * length


def _list_length(given: Given) -> Tensor:
    return torch.tensor(len(given.elements("ls")), dtype=torch.int32)


def _list_write(given: Given) -> list[Tensor | None]:
    return _written(given, [given.integer("index")], [given.tensor("value")])


def _list_scatter(given: Given) -> list[Tensor | None]:
    value = given.tensor("value")
    given.room(len(value), _TENSOR_BYTES)
    return _written(given, list(given.ints("indices")), list(value.unbind(0)))


def _list_read(given: Given) -> Tensor:
    return _element(given.elements("ls"), given.integer("index"))


def _list_gather(given: Given) -> Tensor:
    elements = given.elements("ls")
    indices = given.ints("indices")
    given.room(len(indices), _TENSOR_BYTES)
    found = [_element(elements, index) for index in indices]
    if not found:
        raise ValueError("no indices")
    given.room(len(found) * found[0].numel())
    return torch.stack(found)


def _written(given: Given, indices: list[int], values: list[Tensor]) -> list[Tensor | None]:
    if len(indices) != len(values) or min(indices, default=0) < 0:
        raise ValueError(f"{len(values)} values at {indices}")
    elements, length = list(given.elements("ls")), max(indices, default=-1) + 1
    given.room(length, 8)
    elements += [None] * (length - len(elements))
    for index, value in zip(indices, values, strict=True):
        elements[index] = value
    return elements


def _element(elements: list[Tensor | None], index: int) -> Tensor:
    if not 0 <= index < len(elements):
        raise ValueError(f"element {index} of a list of {len(elements)}")
    found = elements[index]
    if found is None:
        raise ValueError(f"element {index} was never written")
    return found


OPERATORS: Final[Table] = {
    "cond": _cond,
    "list_gather": _list_gather,
    "list_length": _list_length,
    "list_read": _list_read,
    "list_scatter": _list_scatter,
    "list_write": _list_write,
    "make_list": _make_list,
    "select": _select,
    "while_loop": _while_loop,
}
