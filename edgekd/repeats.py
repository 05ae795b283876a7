"""Parts that many nets of a family share: while candidates are compared, each is made once and examined once.

    @repeated
    def convolution(inputs: int, outputs: int, kernel: int) -> nn.Module: ...

Inside of `sharing()` a function that is `repeated` returns a stand-in, which has no weights: what is known of the part
that was made with equal arguments stands for it. Outside it makes the part as ever. What it makes has to follow from
its arguments alone, and has to compute from what it is called with and from its own weights alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial, wraps
from inspect import ismethod
from typing import Any, ParamSpec, Protocol, TypeVar

from torch import nn

P = ParamSpec("P")
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Part:
    """A module that was made, and what is known of it."""

    module: nn.Module
    parameters: int
    seen: dict[Any, Any] = field(default_factory=dict)
    """How it is called -> what an examiner wrote down."""


class Examiner(Protocol):
    """Executes a part without computing it, from what was seen of it before."""

    def repeat(self, part: Part, method: str, given: tuple[Any, ...]) -> Any:
        """What a method of the part answers."""


class StandIn(nn.Module):
    """In place of a part; answers as the part does."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.__dict__["part"] = part  # not a child, whose weights would be counted once for all that stand in for it

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.part.module, name)
        if _examiner.get() and ismethod(found) and found.__self__ is self.part.module:
            return partial(self._answer, name)
        return found

    def train(self, mode: bool = True) -> "StandIn":
        """Nothing to do: parts are examined as they are executed."""
        return self

    def forward(self, *given: Any, **named: Any) -> Any:
        return self._answer("__call__", *given, **named)

    def _answer(self, method: str, *given: Any, **named: Any) -> Any:
        examiner = _examiner.get()
        if examiner is None or named:
            return getattr(self.part.module, method)(*given, **named)
        return examiner.repeat(self.part, method, given)


_parts: ContextVar[dict[Any, Part] | None] = ContextVar("parts", default=None)
_examiner: ContextVar[Examiner | None] = ContextVar("examiner", default=None)


def repeated(make: Callable[P, M]) -> Callable[P, M]:
    """A function, or a class, whose modules are shared inside of `sharing()`."""

    @wraps(make, updated=())
    def made(*args: P.args, **kwargs: P.kwargs) -> M:
        parts = _parts.get()
        if parts is None:
            return make(*args, **kwargs)
        key = (make, args, tuple(kwargs.items()), tuple(map(type, (*args, *kwargs.values()))))
        try:
            part = parts.get(key)
        except TypeError:  # an argument has no hash
            return make(*args, **kwargs)
        if part is None:
            module = make(*args, **kwargs)
            part = parts[key] = Part(module.eval(), parameters(module))
        return StandIn(part)  # type: ignore[return-value]  # it has all that a part has

    return made


@contextmanager
def sharing(share: bool = True) -> Iterator[None]:
    """What is `repeated` is made once inside of this; each time again where nothing is to be shared."""
    token = _parts.set({} if share else None)
    try:
        yield
    finally:
        _parts.reset(token)


@contextmanager
def examined_by(examiner: Examiner) -> Iterator[None]:
    """Stand-ins ask the examiner inside of this."""
    token = _examiner.set(examiner)
    try:
        yield
    finally:
        _examiner.reset(token)


def parameters(module: nn.Module) -> int:
    """Number of trainable and frozen parameters, those of parts included; buffers are not counted."""
    own: set[nn.Parameter] = set()
    shared = 0
    for one in module.modules():
        if isinstance(one, StandIn):
            shared += one.part.parameters
        else:
            own.update(parameter for parameter in one._parameters.values() if parameter is not None)
    return shared + sum(parameter.numel() for parameter in own)
