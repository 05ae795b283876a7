"""What static int8 does to a net, simulated in PyTorch and differentiable.

Weights are rounded symmetrically for each output channel, to -127..127, activations and constants that are added to
them or multiplied with them asymmetrically for each tensor, to 256 steps: as every one of our formats does it (Jacob
et al. 2018, arXiv:1712.05877; Krishnamoorthi 2018, arXiv:1806.08342). A batch norm behind a convolution need not be
folded for this: it multiplies each output channel, and with it that channel's step, by the same number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, fx, nn

from edgekd.nets import answers_of
from edgekd.traces import Trace, constants, kernel_of, module_of, readers, written

WEIGHT_LIMIT: Final = 127
STEPS: Final = 255
SMALLEST_STEP: Final = 1e-12


def round_weight(weight: Tensor, axis: int = 0) -> Tensor:
    """A weight as int8 holds it, with a step for each index of `axis`; gradients pass through unchanged."""
    others = [one for one in range(weight.dim()) if one != axis]
    step = (weight.detach().abs().amax(others) / WEIGHT_LIMIT).clamp_min(SMALLEST_STEP)
    zero = torch.zeros_like(step, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, step, zero, axis, -WEIGHT_LIMIT, WEIGHT_LIMIT)


def round_activation(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Values as uint8 holds a range that has zero in it; gradients pass where values are within."""
    step = ((high - low) / STEPS).clamp_min(SMALLEST_STEP)
    zero = (-low / step).round().clamp(0, STEPS).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(values, step, zero, 0, STEPS)


def _round_constant(values: Tensor) -> Tensor:
    return round_activation(values, values.detach().min().clamp_max(0), values.detach().max().clamp_min(0))


@dataclass(frozen=True)
class Rounding:
    """One thing that int8 rounds."""

    node: str
    """Of the graph: a weight that is read, or the operator that writes a tensor."""
    modules: tuple[str, ...]
    """What must be in float, all of it, for this not to be rounded; () where nothing that has a name would do."""


def roundings(trace: Trace) -> list[Rounding]:
    """Everything that int8 rounds of a net: tensors in the order in which they are written, after their constants."""
    found = []
    for node in written(trace):
        kernel = kernel_of(node)
        touching = [*readers(node)] if node.op == "placeholder" else [kernel, *readers(node)]
        found += [Rounding(one.name, _named([module_of(kernel)])) for one in constants(trace, kernel)]
        found.append(Rounding(node.name, _named([module_of(one) for one in touching])))
    return found


def _named(paths: list[str]) -> tuple[str, ...]:
    """The modules without those that lie in others of them; () where an operator belongs to no module but the whole."""
    if "" in paths:
        return ()
    return tuple(sorted({path for path in paths if not is_below(path, [one for one in paths if one != path])}))


def is_below(path: str, paths: Sequence[str]) -> bool:
    """Whether a module is one of those named, or inside of one."""
    return any(path == one or path.startswith(f"{one}.") for one in paths)


def rounded_beside(trace: Trace, in_float: Sequence[str]) -> frozenset[str]:
    """Nodes that int8 rounds when some modules stay in float."""
    return frozenset(
        one.node
        for one in roundings(trace)
        if not one.modules or not all(is_below(path, in_float) for path in one.modules)
    )


class FakeQuantized(nn.Module):
    """A traced net with the rounding of int8; takes and gives what the net does.

    It rounds the nodes in `rounded`, by default all that int8 rounds, by the ranges in `low` and `high` of shape
    (tensors written,), which `observe` sets and each forward pass in training mode moves on by `momentum`.
    """

    def __init__(self, trace: Trace, rounded: frozenset[str] | None = None, momentum: float = 0.0) -> None:
        super().__init__()
        self.net = trace.graph
        self.momentum = momentum
        self.observing = False
        self.rounded = rounded_beside(trace, ()) if rounded is None else rounded
        self._weights = {trace.node(name).all_input_nodes[1].name for name in trace.layers}
        self._points = {node.name: index for index, node in enumerate(written(trace))}
        self.low: Tensor
        self.high: Tensor
        self.register_buffer("low", torch.zeros(len(self._points)))
        self.register_buffer("high", torch.zeros(len(self._points)))

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        answers = answers_of(_Rounding(self).run(*inputs))
        return answers if len(answers) > 1 else answers[0]

    def observe(self, batches: Sequence[Tensor]) -> None:
        """Take the full ranges of what the float net computes on batches."""
        self.low.zero_()
        self.high.zero_()
        self.observing = True
        with torch.no_grad():
            for batch in batches:
                self(batch)
        self.observing = False

    def train(self, mode: bool = True) -> "FakeQuantized":
        """Ranges move in training mode only; the net has its batch norms in evaluation mode built in."""
        self.training = mode
        return self

    def value(self, node: fx.Node, value: Any) -> Any:
        """What a node gives, as its readers get it."""
        index = self._points.get(node.name)
        if self.observing:
            if index is not None:
                self._widen(index, value)
            return value
        if node.name not in self.rounded:
            return value
        if index is None:
            return round_weight(value) if node.name in self._weights else _round_constant(value)
        if self.training and self.momentum:
            self._move(index, value.detach())
        return round_activation(value, self.low[index], self.high[index])

    def _widen(self, index: int, value: Tensor) -> None:
        self.low[index] = torch.minimum(self.low[index], value.min())
        self.high[index] = torch.maximum(self.high[index], value.max())

    def _move(self, index: int, value: Tensor) -> None:
        self.low[index] += self.momentum * (value.min().clamp_max(0) - self.low[index])
        self.high[index] += self.momentum * (value.max().clamp_min(0) - self.high[index])


class _Rounding(fx.Interpreter):
    def __init__(self, quantized: FakeQuantized) -> None:
        super().__init__(quantized.net)
        self._quantized = quantized

    def run_node(self, n: fx.Node) -> Any:
        return self._quantized.value(n, super().run_node(n))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        # Traced on tensors in the usual order of axes; training has the channels last.
        chosen = torch.ops.aten.reshape.default if target is torch.ops.aten.view.default else target
        return super().call_function(chosen, args, kwargs)
