"""Values taken from, or brought to, places that indices tell."""

import math
from typing import Final

import torch
from torch import Tensor

from edgekd.coreml.given import Given
from edgekd.coreml.operators import Table

_MODES: Final = ("update", "add", "sub", "mul", "div", "max", "min")
_NEGATIVE_UNTIL: Final = 6
"""Later op sets do not define what negative indices mean; a program that has one is wrong."""


def _valid(given: Given, name: str, size: int) -> Tensor:
    """Indices into an axis of that size, counted from the front."""
    given.ignore("validate_indices")  # ours are always validated
    return _checked(given, given.indices(name), size, name)


def _checked(given: Given, indices: Tensor, size: int, name: str) -> Tensor:
    least = -size if given.opset <= _NEGATIVE_UNTIL else 0
    if indices.numel() and not least <= int(indices.min()) <= int(indices.max()) < size:
        raise ValueError(f"{name} go from {int(indices.min())} to {int(indices.max())}, where there are {size}")
    return torch.where(indices < 0, indices + size, indices)


def _gather(given: Given) -> Tensor:
    x = given.tensor("x")
    axis, batch = given.axis("axis", x.dim(), 0), given.integer("batch_dims", 0, least=0)
    indices = _valid(given, "indices", x.shape[axis])
    if batch > min(indices.dim(), axis) or indices.shape[:batch] != x.shape[:batch]:
        raise ValueError(f"{batch} batch axes of {tuple(x.shape)} and {tuple(indices.shape)}")
    inner, outer = indices.shape[batch:], x.shape[:axis]
    shape = (*outer, *inner, *x.shape[axis + 1 :])
    given.room(math.prod(shape))
    if not batch:
        return x.index_select(axis, indices.reshape(-1)).reshape(shape)
    flat = x.reshape(math.prod(x.shape[:batch]), -1, x.shape[axis], math.prod(x.shape[axis + 1 :]))
    places = indices.reshape(flat.shape[0], 1, -1, 1).expand(-1, flat.shape[1], -1, flat.shape[3])
    return flat.gather(2, places).reshape(shape)


def _gather_along_axis(given: Given) -> Tensor:
    x = given.tensor("x")
    axis = given.axis("axis", x.dim(), 0)
    indices = _valid(given, "indices", x.shape[axis])
    if indices.dim() != x.dim():
        raise ValueError(f"indices of rank {indices.dim()} into rank {x.dim()}")
    return x.gather(axis, indices)


def _gather_nd(given: Given) -> Tensor:
    x, batch = given.tensor("x"), given.integer("batch_dims", 0, least=0)
    given.ignore("validate_indices")
    indices = given.indices("indices")
    if indices.dim() <= batch or batch > x.dim() or indices.shape[:batch] != x.shape[:batch]:
        raise ValueError(f"{batch} batch axes of {tuple(x.shape)} and {tuple(indices.shape)}")
    depth = indices.shape[-1]
    places, inner = _flat(given, indices, x.shape[batch:]), x.shape[batch + depth :]
    shape = (*indices.shape[:-1], *inner)
    given.room(math.prod(shape))
    batches = math.prod(x.shape[:batch])
    flat = x.reshape(batches, -1, math.prod(inner))
    places = places.reshape(batches, -1, 1).expand(-1, -1, flat.shape[2])
    return flat.gather(1, places).reshape(shape)


def _flat(given: Given, indices: Tensor, shape: torch.Size) -> Tensor:
    """Coordinates in the last axis -> the number of the slice, where the leading axes of `shape` are flattened."""
    depth = indices.shape[-1]
    if depth > len(shape):
        raise ValueError(f"{depth} coordinates into {tuple(shape)}")
    found = torch.zeros(indices.shape[:-1], dtype=torch.long)
    for at in range(depth):
        found = found * shape[at] + _checked(given, indices[..., at], shape[at], "indices")
    return found


def _scatter(given: Given) -> Tensor:
    data, updates = given.tensor("data"), given.tensor("updates")
    axis = given.axis("axis", data.dim(), 0)
    indices = _valid(given, "indices", data.shape[axis])
    if updates.shape != (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]):
        raise ValueError(f"updates of shape {tuple(updates.shape)} for {tuple(indices.shape)} indices")
    flat = updates.reshape(*data.shape[:axis], -1, *data.shape[axis + 1 :])
    places = indices.reshape(-1, *[1] * (data.dim() - axis - 1)).expand(flat.shape)
    return _scattered(given, data, axis, places, flat)


def _scatter_along_axis(given: Given) -> Tensor:
    data, updates = given.tensor("data"), given.tensor("updates")
    axis = given.axis("axis", data.dim(), 0)
    indices = _valid(given, "indices", data.shape[axis])
    if indices.shape != updates.shape or indices.dim() != data.dim():
        raise ValueError(f"updates of shape {tuple(updates.shape)} at indices of shape {tuple(indices.shape)}")
    return _scattered(given, data, axis, indices, updates)


def _scatter_nd(given: Given) -> Tensor:
    data, updates, indices = given.tensor("data"), given.tensor("updates"), given.indices("indices")
    given.ignore("validate_indices")
    if not indices.dim() or updates.shape != (*indices.shape[:-1], *data.shape[indices.shape[-1] :]):
        raise ValueError(f"updates of shape {tuple(updates.shape)} at indices of shape {tuple(indices.shape)}")
    places, inner = _flat(given, indices, data.shape), math.prod(data.shape[indices.shape[-1] :])
    flat = data.reshape(-1, inner)
    places = places.reshape(-1, 1).expand(-1, inner)
    return _scattered(given, flat, 0, places, updates.reshape(-1, inner)).reshape(data.shape)


def _scattered(given: Given, data: Tensor, axis: int, places: Tensor, updates: Tensor) -> Tensor:
    mode = given.text("mode", "add", among=_MODES)
    if updates.dtype != data.dtype:
        raise ValueError("updates of another type than the data")
    match mode:
        case "update":
            return data.scatter(axis, places, updates)
        case "add" | "sub":
            return data.scatter_add(axis, places, -updates if mode == "sub" else updates)
        case "mul":
            return data.scatter_reduce(axis, places, updates, "prod")
        case "div":
            return data / torch.ones_like(data).scatter_reduce(axis, places, updates, "prod")
        case _:
            return data.scatter_reduce(axis, places, updates, f"a{mode}")


OPERATORS: Final[Table] = {
    "gather": _gather,
    "gather_along_axis": _gather_along_axis,
    "gather_nd": _gather_nd,
    "scatter": _scatter,
    "scatter_along_axis": _scatter_along_axis,
    "scatter_nd": _scatter_nd,
}
