"""LSTM, GRU and RNN: torch's own where it computes the same, else unrolled in time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgekd.errors import ConfigError
from edgekd.sources._onnx_operators import Node, Translation, operator

Activation = Callable[[Tensor], Tensor]
DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
TORCH_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""Where torch's gates (LSTM: input, forget, cell, output; GRU: reset, update, new) stand in ONNX's weights."""


@dataclass(frozen=True)
class Cell:
    """What a node's attributes say."""

    kind: str
    directions: int
    backwards: bool
    hidden: int
    batch_first: bool
    clip: float
    activations: tuple[tuple[str, float, float], ...]
    """Name, alpha and beta of each, direction after direction."""
    linear_before_reset: bool
    input_forget: bool
    peepholes: bool
    biased: bool

    @property
    def is_torchs(self) -> bool:
        """Whether torch has this cell."""
        names = [name.lower() for name, _, _ in self.activations]
        usual = [name.lower() for name in DEFAULTS[self.kind]] * self.directions
        odd = self.clip or self.input_forget or self.peepholes
        return names == usual and not odd and (self.kind != "GRU" or self.linear_before_reset)


@operator("LSTM", "GRU", "RNN")
def recurrent(node: Node) -> Translation:
    """Outputs are all hidden states (time, directions, batch, hidden), and the last ones of each direction."""
    cell = _cell(node)
    steps, batch = node.shape()[:2] if not cell.batch_first else node.shape()[1::-1]
    if node.has(4) and node.integers(4, "sequence lengths") != [steps] * batch:
        raise node.refusal("its sequences differ in length", hint="export with sequences of one length")
    node.static_inputs.add(4)
    run = _by_torch if cell.is_torchs else _unrolled

    def function(
        data: Tensor,
        weights: Tensor,
        recurrence: Tensor,
        bias: Tensor | None = None,
        hidden: Tensor | None = None,
        memory: Tensor | None = None,
        peepholes: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        if data.is_meta:  # torch would work the shapes out step by step
            return _empty(cell, data, steps, batch)
        if cell.batch_first:
            data = data.transpose(0, 1)
            hidden, memory = (None if one is None else one.transpose(0, 1) for one in (hidden, memory))
        nothing = torch.zeros(cell.directions, batch, cell.hidden, dtype=data.dtype, device=data.device)
        state = (nothing if hidden is None else hidden, nothing if memory is None else memory)
        found = run(cell, data, (weights, recurrence, bias, peepholes), state)
        return _batch_first(found) if cell.batch_first else found

    return function


def _empty(cell: Cell, data: Tensor, steps: int, batch: int) -> tuple[Tensor, ...]:
    """What it returns, without content."""
    last = (batch, cell.directions, cell.hidden) if cell.batch_first else (cell.directions, batch, cell.hidden)
    states = (batch, steps, *last[1:]) if cell.batch_first else (steps, *last)
    shapes = (states, last, last) if cell.kind == "LSTM" else (states, last)
    return tuple(torch.empty(shape, dtype=data.dtype, device="meta") for shape in shapes)


def _batch_first(found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    states, *last = found
    return states.permute(2, 0, 1, 3), *(one.transpose(0, 1) for one in last)


def _cell(node: Node) -> Cell:
    kind, direction = node.operator, node.text_of("direction", "forward").lower()
    directions = 2 if direction == "bidirectional" else 1
    names = node.texts_of("activations") or DEFAULTS[kind] * directions
    if len(names) != len(DEFAULTS[kind]) * directions or any(name.lower() not in ACTIVATIONS for name in names):
        raise node.refusal(f"activations {names}", hint=f"known: {', '.join(sorted(ACTIVATIONS))}")
    rows = node.shape(1)[1]
    if rows % GATES[kind] or len(node.shape(1)) != 3:
        raise ConfigError(f"{node}: weights of shape {node.shape(1)}")
    return Cell(
        kind=kind,
        directions=directions,
        backwards=direction == "reverse",
        hidden=rows // GATES[kind],
        batch_first=bool(node.int_of("layout")),
        clip=node.float_of("clip"),
        activations=_with_parameters(names, node.floats_of("activation_alpha"), node.floats_of("activation_beta")),
        linear_before_reset=bool(node.int_of("linear_before_reset")),
        input_forget=bool(node.int_of("input_forget")),
        peepholes=node.has(7),
        biased=node.has(3),
    )


def _with_parameters(
    names: list[str], alphas: list[float] | None, betas: list[float] | None
) -> tuple[tuple[str, float, float], ...]:
    """Parameters belong to the activations that have some, in order."""
    left_alphas, left_betas, found = list(alphas or []), list(betas or []), []
    for name in names:
        alpha, beta = PARAMETERS.get(name.lower(), (None, None))
        alpha = left_alphas.pop(0) if alpha is not None and left_alphas else alpha
        beta = left_betas.pop(0) if beta is not None and left_betas else beta
        found.append((name, alpha or 0.0, beta or 0.0))
    return tuple(found)


Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


def _by_torch(cell: Cell, data: Tensor, weights: Weights, state: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    matrices, recurrence, bias, _ = weights
    flat: list[Tensor] = []
    for direction in range(cell.directions):
        flat += [_in_torch_order(cell, matrices[direction]), _in_torch_order(cell, recurrence[direction])]
        if bias is not None:
            flat += [_in_torch_order(cell, half) for half in bias[direction].chunk(2)]
    hidden, memory = state
    given = data.flip(0) if cell.backwards else data
    common = (flat, cell.biased, 1, 0.0, False, cell.directions == 2, False)
    if cell.kind == "LSTM":
        states, last, last_memory = torch.lstm(given, (hidden, memory), *common)
        rest: tuple[Tensor, ...] = (last, last_memory)
    else:
        states, last = (torch.gru if cell.kind == "GRU" else torch.rnn_tanh)(given, hidden, *common)
        rest = (last,)
    states = states.flip(0) if cell.backwards else states
    steps, batch, _ = states.shape
    return states.reshape(steps, batch, cell.directions, cell.hidden).transpose(1, 2), *rest


def _in_torch_order(cell: Cell, rows: Tensor) -> Tensor:
    parts = rows.chunk(GATES[cell.kind])
    return torch.cat([parts[gate] for gate in TORCH_ORDER[cell.kind]]) if len(parts) > 1 else rows


# --- unrolled

ACTIVATIONS: dict[str, Callable[[float, float], Activation]] = {
    "affine": lambda alpha, beta: lambda x: alpha * x + beta,
    "elu": lambda alpha, beta: lambda x: torch.nn.functional.elu(x, alpha),
    "hardsigmoid": lambda alpha, beta: lambda x: torch.clamp(alpha * x + beta, 0.0, 1.0),
    "leakyrelu": lambda alpha, beta: lambda x: torch.nn.functional.leaky_relu(x, alpha),
    "relu": lambda alpha, beta: torch.relu,
    "scaledtanh": lambda alpha, beta: lambda x: alpha * torch.tanh(beta * x),
    "sigmoid": lambda alpha, beta: torch.sigmoid,
    "softplus": lambda alpha, beta: torch.nn.functional.softplus,
    "softsign": lambda alpha, beta: torch.nn.functional.softsign,
    "tanh": lambda alpha, beta: torch.tanh,
    "thresholdedrelu": lambda alpha, beta: lambda x: torch.where(x > alpha, x, torch.zeros_like(x)),
}
PARAMETERS: dict[str, tuple[float | None, float | None]] = {
    "affine": (1.0, 0.0),
    "elu": (1.0, None),
    "hardsigmoid": (0.2, 0.5),
    "leakyrelu": (0.01, None),
    "scaledtanh": (1.0, 1.0),
    "thresholdedrelu": (1.0, None),
}
"""Defaults of alpha and beta, where an activation has them."""


def _unrolled(cell: Cell, data: Tensor, weights: Weights, state: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    matrices, recurrence, bias, peepholes = weights
    found = []
    for direction in range(cell.directions):
        both = None if bias is None else bias[direction].chunk(2)
        one = (
            matrices[direction],
            recurrence[direction],
            both,
            None if peepholes is None else peepholes[direction].chunk(3),
        )
        backwards = cell.backwards or direction == 1
        steps = list(data.flip(0) if backwards else data)
        count = len(DEFAULTS[cell.kind])
        chosen = cell.activations[direction * count : (direction + 1) * count]
        functions = [ACTIVATIONS[name.lower()](alpha, beta) for name, alpha, beta in chosen]
        hidden, memory = state[0][direction], state[1][direction]
        states = []
        for step in steps:
            hidden, memory = STEPS[cell.kind](cell, functions, step, hidden, memory, one)
            states.append(hidden)
        found.append((torch.stack(states[::-1] if backwards else states), hidden, memory))
    stacked = [torch.stack(parts, axis) for parts, axis in zip(zip(*found, strict=True), (1, 0, 0), strict=True)]
    return tuple(stacked if cell.kind == "LSTM" else stacked[:2])


Halves = Sequence[Tensor] | None
OneDirection = tuple[Tensor, Tensor, Halves, Halves]


def _clipped(cell: Cell, data: Tensor) -> Tensor:
    return torch.clamp(data, -cell.clip, cell.clip) if cell.clip else data


def _sums(step: Tensor, hidden: Tensor, weights: OneDirection) -> tuple[Tensor, Tensor]:
    """What the input and the hidden state add to the gates."""
    matrix, recurrence, biases, _ = weights
    before, after = biases or (None, None)
    return torch.nn.functional.linear(step, matrix, before), torch.nn.functional.linear(hidden, recurrence, after)


def _rnn_step(
    cell: Cell, functions: list[Activation], step: Tensor, hidden: Tensor, memory: Tensor, weights: OneDirection
) -> tuple[Tensor, Tensor]:
    given, kept = _sums(step, hidden, weights)
    return functions[0](_clipped(cell, given + kept)), memory


def _gru_step(
    cell: Cell, functions: list[Activation], step: Tensor, hidden: Tensor, memory: Tensor, weights: OneDirection
) -> tuple[Tensor, Tensor]:
    given, kept = (total.chunk(3, -1) for total in _sums(step, hidden, weights))
    update = functions[0](_clipped(cell, given[0] + kept[0]))
    reset = functions[0](_clipped(cell, given[1] + kept[1]))
    if cell.linear_before_reset:
        past = reset * kept[2]
    else:
        rows = weights[1].chunk(3)[2]
        bias = weights[2][1].chunk(3)[2] if weights[2] else None
        past = torch.nn.functional.linear(reset * hidden, rows, bias)
    new = functions[1](_clipped(cell, given[2] + past))
    return (1 - update) * new + update * hidden, memory


def _lstm_step(
    cell: Cell, functions: list[Activation], step: Tensor, hidden: Tensor, memory: Tensor, weights: OneDirection
) -> tuple[Tensor, Tensor]:
    given, kept = _sums(step, hidden, weights)
    enter, leave, forget, new = (given + kept).chunk(4, -1)
    looks = weights[3]
    if looks:
        enter, forget = enter + looks[0] * memory, forget + looks[2] * memory
    enter = functions[0](_clipped(cell, enter))
    forget = 1 - enter if cell.input_forget else functions[0](_clipped(cell, forget))
    memory = forget * memory + enter * functions[1](_clipped(cell, new))
    leave = leave + looks[1] * memory if looks else leave
    return functions[0](_clipped(cell, leave)) * functions[2](memory), memory


STEPS = {"LSTM": _lstm_step, "GRU": _gru_step, "RNN": _rnn_step}
