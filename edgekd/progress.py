"""Tells whoever listens how far a long piece of work is; nobody listens by default."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[str, int, int], None]

_listeners: list[Listener] = []


def tell(what: str, done: int, total: int) -> None:
    """Say that `done` of `total` parts of `what` are done."""
    for listener in _listeners:
        listener(what, done, total)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener(what, done, total)` whenever work inside the block, or in a worker it started, gets on."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
