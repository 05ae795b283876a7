"""Changes of a float net that leave what it computes as it is, and make integers follow it better.

Equalization moves the spread of channels out of activations, which have one step for a whole tensor, into the weights
behind them, which have a step for each output channel. Nagel et al. 2019 (arXiv:1906.04721), section 4.1, balance the
weights of two layers, with one step for a tensor each; with a step a channel what there is to balance is an activation
against the columns of the weight that reads it, as Xiao et al. 2023 (arXiv:2211.10438) do. Where that weight is
depthwise, its channels are its columns, and all of the spread can go there.

Bias correction takes the mean error that rounded weights make out of the biases: section 4.2 of the first paper, in its
empirical form. Batch norms need not be folded for it: see edgekd/fake_quant.py.
"""

import copy
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any, Final

import torch
from torch import Tensor, fx, nn

from edgekd.fake_quant import is_below, round_weight
from edgekd.nets import answers_of, evaluating
from edgekd.traces import NORMS, WEIGHTED, Trace, activations, attribute, kind, trace

LARGEST_SCALE: Final = 1e4
"""Of a channel against the middle of all."""
ELEMENTS_AT_ONCE: Final = 2**23
"""Of inputs that are computed together, for the sake of memory."""
_POOLS: Final = {"adaptive_avg_pool1d", "adaptive_avg_pool2d", "avg_pool1d", "avg_pool2d", "max_pool1d", "max_pool2d"}
HOMOGENEOUS: Final = _POOLS | {
    *("clone", "contiguous", "dropout", "dropout_", "flatten", "mean", "relu", "relu_", "reshape", "squeeze", "view")
}
"""What gives a channel on k times as large when it gets it k times as large, and mixes or moves no channels."""
LARGEST_CHANGE: Final = 1e-3
"""Of an output, as a share of its largest, that equalization may make: it is rounding of floats."""


def fewer(examples: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The first examples, as many as can be computed at once; each input is of shape (examples, *shape)."""
    elements = sum(one[0].numel() for one in examples)
    return tuple(one[: max(1, ELEMENTS_AT_ONCE // elements)] for one in examples)


# --- bias correction


def correct_biases(module: nn.Module, examples: Sequence[Tensor], in_float: Sequence[str] = ()) -> nn.Module:
    """A copy in evaluation mode that, with rounded weights, has each channel's mean where the float net has it.

    `examples` are of shape (examples, *shape), one for each input. Layers are corrected in the order in which they
    compute, each on what the rounded and corrected layers before it give; weights below `in_float` are not rounded. A
    layer that computes more than once has no single error, and stays as it is.
    """
    examples = fewer(examples)
    means = _means(module, examples)
    corrected = copy.deepcopy(module).eval()
    rounded = copy.deepcopy(corrected)
    for path, twin in _layers(rounded):
        if path in means:
            if not is_below(path, in_float):
                twin.weight.data.copy_(round_weight(twin.weight.data))
            twin.register_forward_hook(partial(_correct, corrected.get_submodule(path), means[path]))
    with torch.no_grad():
        rounded(*examples)
    return corrected


def _layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Convolutions and linear maps, with their paths."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return ((path, part) for path, part in module.named_modules() if isinstance(part, kinds))


def _means(module: nn.Module, examples: Sequence[Tensor]) -> dict[str, Tensor]:
    """Mean of each channel that a layer writes."""
    found: dict[str, list[Tensor]] = {}

    def keep(path: str, layer: nn.Module, _: Any, output: Tensor) -> None:
        found.setdefault(path, []).append(_mean(layer, output))

    hooks = [layer.register_forward_hook(partial(keep, path)) for path, layer in _layers(module)]
    try:
        with evaluating(module):
            module(*examples)
    finally:
        for hook in hooks:
            hook.remove()
    return {path: means[0] for path, means in found.items() if len(means) == 1}


def _mean(layer: nn.Module, output: Tensor) -> Tensor:
    channels_last = output if isinstance(layer, nn.Linear) else output.movedim(1, -1)
    return channels_last.reshape(-1, channels_last.shape[-1]).mean(0)


def _correct(corrected: Any, mean: Tensor, twin: nn.Module, _: Any, output: Tensor) -> Tensor:
    """Take the error out of a layer's bias, and out of what its rounded twin gives on."""
    error = _mean(twin, output) - mean
    if corrected.bias is None:
        corrected.bias = nn.Parameter(torch.zeros_like(error))
    corrected.bias.data -= error
    return output - (error if isinstance(twin, nn.Linear) else error.view(-1, *[1] * (output.dim() - 2)))


# --- equalization


@dataclass
class _Stream:
    """Tensors whose channels belong together: what scales one of them must scale all."""

    parameters: list[str] = field(default_factory=list)
    """That the channels are proportional to: of batch norms, and of layers without one."""
    readers: list[fx.Node] = field(default_factory=list)
    """Layers that read the channels."""
    channels: set[int] = field(default_factory=set)
    """How many, as each writer and reader has it."""
    axes: set[str] = field(default_factory=set)
    """Where the channels are, "second" or "last", where these are two places."""
    disturbed: bool = False
    """Whether something else writes or reads."""

    @property
    def sound(self) -> bool:
        """Whether its channels can be scaled."""
        both = bool(self.parameters and self.readers)
        return both and not self.disturbed and len(self.channels) == 1 and len(self.axes) <= 1


def equalize(module: nn.Module, examples: Sequence[Tensor]) -> nn.Module:
    """A copy in evaluation mode that computes the same, with channels of activations in ranges as equal as can be.

    `examples` are of shape (examples, *shape), one for each input. A tensor is scaled together with all that additions,
    ReLU and pooling connect it to, so residual streams are equalized too (which the papers leave alone); where anything
    else writes or reads one of them, they all stay as they are.

    Raises:
        ConvertError: the net cannot be followed.
    """
    examples = fewer(examples)
    followed = trace(module, examples)
    streams = _streams(followed)
    ranges = _ranges(followed, streams, examples)
    equalized = copy.deepcopy(module).eval()
    for stream in streams:
        _scale(equalized, stream, ranges)
    return equalized if _same(module, equalized, examples) else copy.deepcopy(module).eval()


def _streams(followed: Trace) -> list[_Stream]:
    nodes = activations(followed)
    first: dict[fx.Node, fx.Node] = {}  # the one that stands for all that a tensor is connected to
    for node in nodes:
        first[node] = node
        if kind(node) in HOMOGENEOUS or _is_sum(node, first):
            for given in filter(first.__contains__, node.all_input_nodes):
                old = first[given]
                first |= {one: node for one, representative in first.items() if representative is old}
    streams: dict[fx.Node, _Stream] = {}
    for node in nodes:
        stream = streams.setdefault(first[node], _Stream())
        if not any(first.get(given) is first[node] for given in node.all_input_nodes):
            _add_writer(stream, node)
        for user in node.users:
            if first.get(user) is not first[node]:
                _add_reader(stream, node, user)
    return [stream for stream in streams.values() if stream.sound]


def _is_sum(node: fx.Node, known: Container[fx.Node]) -> bool:
    """Whether a node adds two tensors of one shape."""
    given = [one for one in node.all_input_nodes if one in known]
    shapes = {str(one.meta["val"].shape) for one in [node, *given]}
    return kind(node) in {"add", "add_"} and len(given) == 2 and len(shapes) == 1


def _add_writer(stream: _Stream, node: fx.Node) -> None:
    parts = [_argument(node, "weight"), _argument(node, "bias")] if kind(node) in WEIGHTED | NORMS else []
    names = [attribute(one) for one in parts if one is not None]
    if not names or None in names or not all(_is_read_once(one) for one in parts if one is not None):
        stream.disturbed = True
        return
    stream.parameters += [name for name in names if name is not None]
    stream.channels.add(int(parts[0].meta["val"].shape[0]))
    _add_axis(stream, node, last=kind(node) == "linear")


def _add_reader(stream: _Stream, read: fx.Node, node: fx.Node) -> None:
    if kind(node) not in WEIGHTED or node.args[0] is not read or not _is_read_once(node.args[1]):
        stream.disturbed = True
        return
    stream.readers.append(node)
    stream.channels.add(int(node.all_input_nodes[1].meta["val"].shape[1]) * _groups(node))
    _add_axis(stream, read, last=kind(node) == "linear")


def _add_axis(stream: _Stream, tensor: fx.Node, last: bool) -> None:
    if tensor.meta["val"].dim() > 2:
        stream.axes.add("last" if last else "second")


def _is_read_once(node: Any) -> bool:
    return attribute(node) is not None and len(node.users) == 1


def _argument(node: fx.Node, name: str, default: Any = None) -> Any:
    """An argument of an operator by the name that its schema gives it."""
    schema = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]  # an aten operator
    if name in node.kwargs or name not in schema:
        return node.kwargs.get(name, default)
    position = schema.index(name)
    return node.args[position] if position < len(node.args) else default


def _groups(layer: fx.Node) -> int:
    return int(_argument(layer, "groups", 1))


def _ranges(followed: Trace, streams: Sequence[_Stream], examples: Sequence[Tensor]) -> dict[str, Tensor]:
    """Largest absolute value of each channel that a layer reads, by the layer's name."""
    wanted = {reader.name for stream in streams for reader in stream.readers}
    found: dict[str, Tensor] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            if n.name in wanted:
                read = self.env[n.all_input_nodes[0]]
                last = read if kind(n) == "linear" else read.movedim(1, -1)
                found[n.name] = last.reshape(-1, last.shape[-1]).abs().amax(0)
            return super().run_node(n)

    with torch.no_grad():
        Recorder(followed.graph).run(*examples)
    return found


def _scale(module: nn.Module, stream: _Stream, ranges: dict[str, Tensor]) -> None:
    readers = [(attrgetter(str(attribute(one.args[1])))(module), _groups(one)) for one in stream.readers]
    largest = torch.stack([ranges[one.name] for one in stream.readers]).amax(0)
    scales = _scales(largest, [_columns(weight.data, groups) for weight, groups in readers])
    for name in stream.parameters:
        parameter = attrgetter(name)(module)
        parameter.data /= scales.view(-1, *[1] * (parameter.dim() - 1))
    for weight, groups in readers:
        weight.data.copy_((_columns(weight.data, groups) * scales.view(groups, 1, -1, 1)).view_as(weight))


def _columns(weight: Tensor, groups: int) -> Tensor:
    """A weight as (groups, output channels of a group, input channels of a group, the rest)."""
    return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)


def _scales(ranges: Tensor, readers: Sequence[Tensor]) -> Tensor:
    """What to divide each channel by: its range against what its columns take of the steps of the readers' rows.

    A depthwise reader has one column a row, which takes all of it at any scale.
    """
    shares = [_shares(columns) for columns in readers if columns.shape[2] > 1]
    wanted = (ranges / torch.stack(shares).amax(0)).sqrt() if shares else ranges
    alive = wanted > 0
    if not alive.any():
        return torch.ones_like(wanted)
    relative = torch.where(alive, wanted / wanted[alive].log().mean().exp(), 1.0)
    return relative.clamp(1 / LARGEST_SCALE, LARGEST_SCALE)


def _shares(columns: Tensor) -> Tensor:
    rows = columns.abs().amax((2, 3), keepdim=True).clamp_min(torch.finfo(columns.dtype).tiny)
    return (columns.abs() / rows).amax((1, 3)).flatten().clamp_min(1 / LARGEST_SCALE)


def _same(module: nn.Module, equalized: nn.Module, examples: Sequence[Tensor]) -> bool:
    with evaluating(module), torch.no_grad():
        answers = zip(answers_of(module(*examples)), answers_of(equalized(*examples)), strict=True)
    return all(_change(expected, found) <= LARGEST_CHANGE for expected, found in answers)


def _change(expected: Tensor, found: Tensor) -> float:
    """Largest difference, as a share of the largest value."""
    largest = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return float((expected - found).abs().max() / largest)
