"""Recurrent layers over sequences of shape (steps, batch, features)."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.coreml.given import Given
from edgekd.coreml.operators import Table

_ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "hard_sigmoid": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "linear": lambda x: x,
    "relu": torch.relu,
    "scaled_tanh": torch.tanh,  # with the default scales, which are 1
    "sigmoid": torch.sigmoid,
    "sigmoid_hard": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "tanh": torch.tanh,
}
_ONE_WAY: Final = ("forward", "reverse")
_STEP: Final = 2**21
"""Multiply-accumulates that are done in the time that a step takes of itself."""


def _activation(given: Given, name: str, default: str) -> Callable[[Tensor], Tensor]:
    return _ACTIVATIONS[given.text(name, default, among=_ACTIVATIONS)]


class _Layer:
    """Weights of one direction; gates are stacked in them."""

    def __init__(self, given: Given, gates: int, hidden: Tensor, back: str = "") -> None:
        self.weight_ih, self.weight_hh = given.tensor(f"weight_ih{back}"), given.tensor(f"weight_hh{back}")
        self.bias, self.gates = given.maybe(f"bias{back}"), gates
        x, size = given.tensor("x"), hidden.shape[-1]
        fits = x.dim() == 3 and hidden.dim() == 2 and x.shape[1] == hidden.shape[0] and min(x.shape) > 0
        if not fits or self.weight_ih.shape != (gates * size, x.shape[-1]):
            raise ValueError(f"weights of shape {tuple(self.weight_ih.shape)} on {tuple(x.shape)}")
        if self.weight_hh.shape != (gates * size, size) or self.bias is not None and self.bias.shape != (gates * size,):
            raise ValueError(f"weights of shape {tuple(self.weight_hh.shape)} on {tuple(hidden.shape)}")
        given.room(x.shape[0] * x.shape[1] * gates * size)
        given.spend(x.shape[0] * (x.shape[1] * (self.weight_ih.numel() + self.weight_hh.numel()) + _STEP))
        self.of_inputs = functional.linear(x, self.weight_ih, self.bias)

    def sums(self, step: Tensor, hidden: Tensor) -> tuple[Tensor, ...]:
        """What goes into each gate."""
        return functional.linear(hidden, self.weight_hh).add(step).chunk(self.gates, -1)


def _steps(x: Tensor, direction: str) -> Tensor:
    """Steps in the order of their execution, which is also that of a one-way layer's outputs."""
    return x.flip(0) if direction == "reverse" else x


def _sequence(given: Given, outputs: list[Tensor]) -> Tensor:
    return torch.stack(outputs if given.flag("output_sequence") else outputs[-1:])


def _rnn(given: Given) -> tuple[Tensor, Tensor]:
    hidden, activation = given.tensor("initial_h"), _activation(given, "activation", "tanh")
    layer, direction = _Layer(given, 1, hidden), given.text("direction", "forward", among=_ONE_WAY)
    outputs = []
    for step in _steps(layer.of_inputs, direction):
        hidden = activation(layer.sums(step, hidden)[0])
        outputs.append(hidden)
    return _sequence(given, outputs), hidden


def _gru(given: Given) -> tuple[Tensor, Tensor]:
    """Gates are reset, output, update. Before iOS 18 the reset gate acts on the state, with `reset_after` behind its
    weights; `input_bias` is then the bias of the inputs and `bias` that of the state.
    """
    hidden, after = given.tensor("initial_h"), given.flag("reset_after")
    gate, activation = _activation(given, "recurrent_activation", "sigmoid"), _activation(given, "activation", "tanh")
    layer, direction = _Layer(given, 3, hidden), given.text("direction", "forward", among=_ONE_WAY)
    input_bias = given.maybe("input_bias")
    of_inputs = functional.linear(given.tensor("x"), layer.weight_ih, input_bias)
    of_state = layer.bias if layer.bias is not None else torch.zeros(layer.weight_hh.shape[0])
    _, to_output, _ = layer.weight_hh.chunk(3)
    _, output_bias, _ = of_state.chunk(3)
    outputs = []
    for step in _steps(of_inputs, direction):
        reset, recurrent, update = functional.linear(hidden, layer.weight_hh, of_state).chunk(3, -1)
        from_reset, from_output, from_update = step.chunk(3, -1)
        reset, update = gate(reset + from_reset), gate(update + from_update)
        recurrent = reset * recurrent if after else functional.linear(reset * hidden, to_output, output_bias)
        hidden = (1 - update) * activation(from_output + recurrent) + update * hidden
        outputs.append(hidden)
    return _sequence(given, outputs), hidden


def _lstm(given: Given) -> tuple[Tensor, Tensor, Tensor]:
    direction = given.text("direction", "forward", among=(*_ONE_WAY, "bidirectional"))
    hidden, cell = given.tensor("initial_h"), given.tensor("initial_c")
    if direction != "bidirectional":
        given.ignore("weight_ih_back", "weight_hh_back", "bias_back", "peephole_back")
        outputs, hidden, cell = _lstm_one_way(given, "", direction, hidden, cell)
        return _sequence(given, outputs), hidden, cell
    ways = [
        _lstm_one_way(given, back, way, *states)
        for back, way, *states in zip(
            ("", "_back"), _ONE_WAY, hidden.chunk(2, -1), cell.chunk(2, -1), strict=True
        )
    ]  # fmt: skip
    if given.flag("output_sequence"):
        ways[1][0].reverse()  # back into the order of time
    sequences = [_sequence(given, outputs) for outputs, _, _ in ways]
    return (
        torch.cat(sequences, -1),
        torch.cat([hidden for _, hidden, _ in ways], -1),
        torch.cat([cell for _, _, cell in ways], -1),
    )


def _lstm_one_way(
    given: Given, back: str, direction: str, hidden: Tensor, cell: Tensor
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Gates are input, forget, output, cell; peepholes look at the cell, that of the output gate at the new one."""
    layer, clip = _Layer(given, 4, hidden, back), given.maybe("clip")
    gate = _activation(given, "recurrent_activation", "sigmoid")
    of_cell, activation = _activation(given, "cell_activation", "tanh"), _activation(given, "activation", "tanh")
    peephole = given.maybe(f"peephole{back}")
    looks = torch.zeros(3, hidden.shape[-1]) if peephole is None else peephole.reshape(3, hidden.shape[-1])
    outputs = []
    for step in _steps(layer.of_inputs, direction):
        enter, forget, leave, new = layer.sums(step, hidden)
        enter, forget = gate(enter + looks[0] * cell), gate(forget + looks[1] * cell)
        cell = forget * cell + enter * of_cell(new)
        cell = cell if clip is None else cell.clamp(-clip, clip)
        hidden = gate(leave + looks[2] * cell) * activation(cell)
        outputs.append(hidden)
    return outputs, hidden, cell


OPERATORS: Final[Table] = {"gru": _gru, "lstm": _lstm, "rnn": _rnn}
