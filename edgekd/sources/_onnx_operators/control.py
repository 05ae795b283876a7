"""Control flow that is known now: a branch by a constant condition, a loop of a constant number of turns."""

import torch

from edgekd.sources._graphs import Value
from edgekd.sources._onnx_operators import Node, Translation, operator

MOST_TURNS = 4096


@operator("If")
def branch(node: Node) -> Translation:
    """Only the branch that is taken is kept."""
    condition = node.static(0, "condition")
    return node.run_graph(node.graph_of("then_branch" if bool(condition.any()) else "else_branch"), [])


@operator("Loop")
def loop(node: Node) -> Translation:
    """Unrolled; the condition may end it early where it is constant."""
    turns = int(node.static(0, "number of turns")) if node.has(0) else MOST_TURNS + 1
    goes_on = bool(node.static(1, "condition").any()) if node.has(1) else True
    body = node.graph_of("body")
    carried = [value for value in node.inputs[2:] if value is not None]
    collected: list[list[Value]] = [[] for _ in range(len(body.output) - 1 - len(carried))]
    turn = 0
    while turn < turns and goes_on:
        if turn >= MOST_TURNS:
            raise node.refusal(f"more than {MOST_TURNS} turns", hint="export with a fixed and smaller number")
        number = node.builder.constant(torch.tensor(turn), f"{node.name}.turn.{turn}")
        more = node.builder.constant(torch.tensor(True), f"{node.name}.more.{turn}")
        condition, *rest = node.run_graph(body, [number, more, *carried])
        if condition.tensor is None:
            raise node.refusal("its end depends on the data", hint="export with a fixed number of turns")
        goes_on = bool(condition.tensor.any())
        carried, found = rest[: len(carried)], rest[len(carried) :]
        for values, value in zip(collected, found, strict=True):
            values.append(value)
        turn += 1
    if not all(collected):
        raise node.refusal("a loop without a turn that collects values", hint="remove it")
    names = [node.outputs[len(carried) + at] if node.wants(len(carried) + at) else "" for at in range(len(collected))]
    stacked = [
        node.builder.apply(lambda *parts: torch.stack(parts), values, [name])[0]
        for name, values in zip(names, collected, strict=True)
    ]
    return [*carried, *stacked]


@operator("Scan")
def scan(node: Node) -> Translation:
    """Unrolled along the first axis of what is scanned, forwards."""
    body, count = node.graph_of("body"), node.int_of("num_scan_inputs", 1)
    marks = ("scan_input_axes", "scan_output_axes", "scan_input_directions", "scan_output_directions")
    if any(any(node.ints_of(mark) or []) for mark in marks) or node.opset < 9:
        raise node.refusal("it scans backwards or along another axis", hint="transpose and reverse around it")
    given = [node.value(position) for position in range(len(node.inputs))]
    carried, scanned = given[: len(given) - count], given[len(given) - count :]
    collected: list[list[Value]] = [[] for _ in range(len(body.output) - len(carried))]
    for turn in range(scanned[0].shape[0]):
        parts = [
            node.builder.apply(lambda data, turn=turn: data[turn], [value], [f"{value.name}.{turn}"])[0]
            for value in scanned
        ]
        found = node.run_graph(body, [*carried, *parts])
        carried = found[: len(carried)]
        for values, value in zip(collected, found[len(carried) :], strict=True):
            values.append(value)
    stacked = [
        node.builder.apply(lambda *parts: torch.stack(parts), values, [f"{node.name}.{position}"])[0]
        for position, values in enumerate(collected)
    ]
    return [*carried, *stacked]
