"""Functions, branches by a constant condition, and loops of a constant number of turns with their lists."""

from collections.abc import Sequence

import torch

from edgekd.errors import ConfigError
from edgekd.sources._tensorflow_graphs import Array, Node, Sequence_, Thing, Things
from edgekd.sources._tensorflow_operators import operator

MOST_TURNS = 4096
MOST_ITEMS = 2**16


@operator("PartitionedCall", "StatefulPartitionedCall")
def call(node: Node) -> Sequence[Thing]:
    """Put in place."""
    return node.interpreter.call(node.attributes["f"].func.name, node.inputs)


@operator("If", "StatelessIf")
def branch(node: Node) -> Sequence[Thing]:
    """Only the branch that is taken is kept."""
    taken = "then_branch" if bool(node.static(0, "condition").any()) else "else_branch"
    return node.interpreter.call(node.attributes[taken].func.name, node.inputs[1:])


@operator("While", "StatelessWhile")
def loop(node: Node) -> Things:
    """Unrolled."""
    condition, body = node.attributes["cond"].func.name, node.attributes["body"].func.name
    carried = list(node.inputs)
    for _ in range(MOST_TURNS):
        (more,) = node.interpreter.call(condition, carried)
        known = more.constant if isinstance(more, Array) else None
        if known is None:
            raise node.refusal("its end depends on the data", hint="write it with a fixed number of turns")
        if not bool(known.any()):
            return carried
        carried = node.interpreter.call(body, carried)
    raise node.refusal(f"more than {MOST_TURNS} turns", hint="write it with fewer")


# --- lists


@operator("TensorListReserve", "EmptyTensorList")
def reserve(node: Node) -> Thing:
    """So many places, empty."""
    count = node.integers(1, "number of items")[0] if node.operator == "TensorListReserve" else 0
    if not 0 <= count <= MOST_ITEMS:
        raise ConfigError(f"{node}: a list of {count} tensors")
    return Sequence_((None,) * count, _shape(node, 0), node.dtype_of("element_dtype"))


def _shape(node: Node, position: int) -> tuple[int, ...]:
    return tuple(max(size, 1) for size in node.integers(position, "shape of items"))


@operator("TensorListFromTensor")
def list_of(node: Node) -> Thing:
    """Slices of the first axis."""
    array = node.array()
    if array.shape[0] > MOST_ITEMS:
        raise ConfigError(f"{node}: a list of {array.shape[0]} tensors")
    parts = node.make_all(lambda data: torch.unbind(data, 0), [array.plain()]) if array.shape[0] else []
    return Sequence_(tuple(parts), array.shape[1:], array.dtype)


@operator("TensorListGetItem")
def item(node: Node) -> Thing:
    """Zeros where nothing was written."""
    sequence, place = node.sequence(), node.integers(1, "index")[0]
    if not 0 <= place < len(sequence.items):
        raise ConfigError(f"{node}: item {place} of {len(sequence.items)}")
    return _or_zeros(node, sequence, sequence.items[place])


def _or_zeros(node: Node, sequence: Sequence_, found: Array | None) -> Array:
    return node.constant(torch.zeros(sequence.shape, dtype=sequence.dtype)) if found is None else found


@operator("TensorListSetItem")
def with_item(node: Node) -> Thing:
    """A list with one item written."""
    sequence, place, value = node.sequence(), node.integers(1, "index")[0], node.array(2)
    if not 0 <= place < len(sequence.items):
        raise ConfigError(f"{node}: item {place} of {len(sequence.items)}")
    items = (*sequence.items[:place], value, *sequence.items[place + 1 :])
    return Sequence_(items, value.shape, value.dtype)


@operator("TensorListPushBack")
def with_last(node: Node) -> Thing:
    """A list with one item more."""
    sequence, value = node.sequence(), node.array(1)
    if len(sequence.items) >= MOST_ITEMS:
        raise ConfigError(f"{node}: a list of more than {MOST_ITEMS} tensors")
    return Sequence_((*sequence.items, value), value.shape, value.dtype)


@operator("TensorListLength")
def length(node: Node) -> Thing:
    """Known now."""
    return node.constant(torch.tensor(len(node.sequence().items), dtype=torch.int32))


@operator("TensorListStack")
def stack(node: Node) -> Thing:
    """One tensor of all items."""
    sequence = node.sequence()
    if not sequence.items:
        return node.constant(torch.zeros((0, *sequence.shape), dtype=sequence.dtype))
    arrays = [_or_zeros(node, sequence, found) for found in sequence.items]
    return node.make(lambda *parts: torch.stack(parts), [array.plain() for array in arrays])
