"""What readers of files from anywhere share: their bytes, their refusals, and order among operators."""

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edgekd.errors import ConfigError
from edgekd.specs import Operator

LARGEST_BYTES: Final = 2**31
"""Of a file that is read whole; FlatBuffers and Protocol Buffers hold no more."""


class Broken(Exception):
    """The bytes say what cannot be; only ever seen inside of `refusing`."""


@contextmanager
def refusing(path: Path, kind: str) -> Iterator[None]:
    """Turn what is wrong with a file's bytes into a ConfigError of one line."""
    try:
        yield
    except Broken as broken:
        reason = "".join(character if character.isprintable() else "?" for character in str(broken))
        raise ConfigError(f"{path}: not {kind}, or damaged: {reason[:300]}") from broken


def content(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        ConfigError: it is not there, not a file, too large, or not readable.
    """
    try:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
        if path.stat().st_size > LARGEST_BYTES:
            raise ConfigError(f"{path}: larger than {LARGEST_BYTES} bytes")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def member(folder: Path, name: str) -> Path:
    """A file that a model's file names, which must lie in the folder of the model.

    Raises:
        Broken: it is elsewhere, or not there.
    """
    try:
        found = (folder / name).resolve()
        inside = found.is_relative_to(folder.resolve()) and found.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # no name of a file, or links in a circle
        raise Broken(f"{name!r} is not the name of a file") from error
    if not inside or Path(name).is_absolute():
        raise Broken(f"its file {name!r} is not in its folder")
    return found


class Names:
    """Gives every name once: a name that was given gets a number behind a colon.

    >>> names = Names()
    >>> names.unique("conv"), names.unique("conv"), names.unique("conv")
    ('conv', 'conv:1', 'conv:2')
    """

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._count: Counter[str] = Counter()

    def unique(self, name: str) -> str:
        """The name, or the next free one like it."""
        free = name
        while free in self._given:
            self._count[name] += 1
            free = f"{name}:{self._count[name]}"
        self._given.add(free)
        return free


def layer_of(name: str) -> str:
    """The torch module in a name that a converter of ours gave.

    >>> layer_of("blocks.3.conv:1"), layer_of("blocks.3.conv")
    ('blocks.3.conv', 'blocks.3.conv')
    """
    head, colon, tail = name.rpartition(":")
    return head if colon and tail.isdecimal() else name


def is_ours(properties: dict[str, str]) -> bool:
    """Whether a converter of edgekd wrote the file, so that its names are those of torch modules."""
    return any(key.startswith("edgekd.") for key in properties)


def ordered(operators: Sequence[Operator]) -> tuple[Operator, ...]:
    """The operators so that each comes after those whose outputs it reads, else as they were.

    Raises:
        Broken: some wait for each other.
    """
    made = {tensor: index for index, one in enumerate(operators) for tensor in one.outputs}
    waiting = [{made[tensor] for tensor in one.inputs if tensor in made} for one in operators]
    readers: list[list[int]] = [[] for _ in operators]
    for index, sources in enumerate(waiting):
        for source in sources:
            readers[source].append(index)
    ready = [index for index, sources in enumerate(waiting) if not sources]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers[index]:
            waiting[reader].discard(index)
            if not waiting[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(operators):
        raise Broken("operators wait for each other")
    return tuple(operators[index] for index in order)


def pick(wanted: Sequence[str], known: Callable[[str], bool], path: Path) -> None:
    """Check that every tensor that is asked for is there.

    Raises:
        ConfigError: one is not.
    """
    for tensor in wanted:
        if not known(tensor):
            raise ConfigError(f"{path}: no operator makes a tensor {tensor!r}")


def resized(shapes: Mapping[str, tuple[int, ...]], inputs: Sequence[str]) -> None:
    """Check that shapes are given to inputs.

    Raises:
        ConfigError: one is not, or has a size that is none.
    """
    for name, shape in shapes.items():
        if name not in inputs:
            raise ConfigError(f"the model has no input {name!r}", hint=f"its inputs: {', '.join(inputs)}")
        if min(shape, default=1) < 1:
            raise ConfigError(f"{name} = {','.join(map(str, shape))} is no shape", hint="sizes are 1 and more")
