"""What torch answers on the meta device, remembered.

There are no numbers there, so an operator's answer follows from the shapes, strides and types of what it is given, and
torch finds many of them by slow Python. Views, and whatever is not on the meta device, are left to torch.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._prims_common import make_contiguous_strides_for
from torch.utils._python_dispatch import TorchDispatchMode

T = TypeVar("T")
Key = tuple[Any, ...]
_Answer = tuple[tuple[Any, ...], ...] | None
"""Size, stride and type of each result; none where the first argument is answered; None where torch is to answer."""

_NORM: Final = torch.ops.aten.native_batch_norm.default
_META: Final = torch.device("meta")
_MOST: Final = 1 << 15
"""Answers that are kept: over nets of a user's own a search meets new shapes without end."""
WRAPPED: Final = False
"""A mode need not be kept out of compiled graphs: nothing is compiled on the way, and the wrapper takes as long as a
whole operator."""
_UNKNOWN: Final = (("unknown",),)
_known: dict[Key, _Answer] = {}
_rests: dict[Key, tuple[Any, Any]] = {}
"""What `_alike` tells -> the type of the first result, and the others."""


class Remembering(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch
    """Within it, operators on the meta device answer from memory."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return WRAPPED

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return answer(key(func, args, kwargs), func, args, kwargs)


def key(func: Any, args: Any, kwargs: Any) -> Key | None:
    """What the answer to `func(*args, **kwargs)` follows from; None where that is more than shapes."""
    tensors: list[Tensor] = []
    found = (func, described(args, tensors), described(tuple(kwargs.items()), tensors) if kwargs else ())
    if not (all(tensor.is_meta for tensor in tensors) if tensors else kwargs.get("device") == _META):
        return None
    try:
        hash(found)
    except TypeError:
        return None
    return found


def answer(asked: Key | None, func: Any, args: Any, kwargs: Any) -> Any:
    """What `func(*args, **kwargs)` returns; `asked` is its key."""
    if asked is None:
        return func(*args, **kwargs)
    known = _known.get(asked, _UNKNOWN)
    if known is _UNKNOWN:
        alike = None if kwargs else _alike(func, args)
        if _fills(func, args, kwargs):
            known = ()
        elif alike in _rests:
            dtype, others = _rests[alike]
            known = ((args[0].shape, args[0].stride(), dtype), *others)
        else:
            out = func(*args, **kwargs)
            known = _answer(func, asked, args, out)
            if alike and known and known[0][:2] == (args[0].shape, args[0].stride()):
                keep(_rests, alike, (known[0][2], known[1:]))
            keep(_known, asked, known)
            return out
        keep(_known, asked, known)
    if known is None:
        return func(*args, **kwargs)
    if not known:
        return args[0]
    results = made(known)
    return results[0] if len(results) == 1 else tuple(results)


def made(answer: Sequence[tuple[Any, ...]]) -> list[Tensor]:
    """New tensors on the meta device, of these sizes, strides and types; no mode sees them being made."""
    with torch._C._DisableTorchDispatch():
        return [torch.empty_strided(size, stride, dtype=dtype, device="meta") for size, stride, dtype in answer]


def keep(memory: dict[Key, T], asked: Key, value: T) -> None:
    """Remember a value; what is full begins anew."""
    if len(memory) >= _MOST:
        memory.clear()
    memory[asked] = value


def described(value: Any, tensors: list[Tensor]) -> Any:
    """What is told of a value in a key; the tensors in it are added to `tensors`."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return value.shape, value.stride(), value.dtype
    if isinstance(value, tuple | list):
        return tuple([described(one, tensors) for one in value])
    return value if type(value) is int else (type(value), value)  # 1 and 1.0 are equal, their results are not


def _fills(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operator changes its first argument's numbers alone, and is given no other tensor to do it by."""
    return (
        isinstance(func, OpOverload)
        and isinstance(next(iter(args), None), Tensor)
        and _written(func) == [True] + [False] * (len(func._schema.arguments) - 1)
        and len(func._schema.returns) == 1
        and torch.Tag.inplace_view not in func.tags
        and not any(isinstance(one, Tensor) for one in (*args[1:], *kwargs.values()))
    )


def _alike(func: Any, args: Any) -> Key | None:
    """What an answer follows from but for the places of its first argument, as which the first result is; None where
    that is another: torch takes longest for these, and pictures are of many sizes."""
    first = args[0]
    if not isinstance(func, OpOverload) or not isinstance(first, Tensor) or func._schema.is_mutable:
        return None
    if first.stride() != make_contiguous_strides_for(first.shape):
        return None
    tensors: list[Tensor] = []
    others = described(args[1:], tensors)
    if torch.Tag.pointwise in func.tags and not tensors:
        return func, first.dtype, others
    if func is _NORM and not args[5]:  # not training
        return func, first.dtype, first.dim(), first.shape[1], others
    return None


def _written(func: OpOverload) -> list[bool]:
    """Of each argument whether it is changed."""
    return [one.alias_info is not None and one.alias_info.is_write for one in func._schema.arguments]


def _answer(func: Any, asked: Key, args: Any, out: Any) -> _Answer:
    """What to remember of an answer."""
    if not isinstance(func, OpOverload) or func.is_view:
        return None
    if func._schema.is_mutable:
        stays = out is args[0] and sum(_written(func)) == 1 and described(out, []) == asked[1][0]
        return () if stays else None
    results = out if isinstance(out, tuple) else (out,)
    given = {id(one) for one in args}
    if not all(isinstance(one, Tensor) and is_plain(one) and id(one) not in given for one in results):
        return None
    return tuple((one.shape, one.stride(), one.dtype) for one in results)


def is_plain(tensor: Tensor) -> bool:
    """Whether size, stride and type tell all of a tensor."""
    return tensor.is_meta and tensor.layout == torch.strided and type(tensor) is Tensor
