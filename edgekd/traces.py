"""A net as the graph of operators that converters see: what one kernel does, and which tensors it writes.

torch.export keeps for each weight the module that it belongs to, and shows what forward() does between modules, which
hooks on modules cannot: where a batch norm folds away, what an activation fuses with, what is read twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, fx, nn

from edgekd.errors import ConvertError
from edgekd.nets import evaluating

CONVOLUTIONS: Final = frozenset({"conv1d", "conv2d", "conv3d", "convolution"})
WEIGHTED: Final = CONVOLUTIONS | {"linear"}
NORMS: Final = frozenset({"batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"})
CLAMPS: Final = frozenset({"relu", "relu_", "relu6", "relu6_", "hardtanh", "hardtanh_", "clamp", "clamp_"})
ELEMENTWISE: Final = frozenset({"add", "add_", "mul", "mul_", "sub", "sub_"})
"""What computes in integers with a constant beside a tensor."""
FUSING: Final = WEIGHTED | NORMS | ELEMENTWISE
"""Kernels that clamp what they write, at no cost."""
VIEWS: Final = frozenset(
    {
        *("_assert_tensor_metadata", "alias", "clone", "contiguous", "detach", "detach_", "lift_fresh_copy", "to"),
        *("dropout", "dropout_", "feature_dropout"),
        *("_reshape_alias", "_unsafe_view", "flatten", "movedim", "permute", "reshape", "squeeze", "squeeze_", "t"),
        *("transpose", "unflatten", "unsqueeze", "unsqueeze_", "view", "expand", "repeat"),
        *("chunk", "getitem", "index_select", "narrow", "select", "slice", "split", "split_with_sizes", "tensor_split"),
        *("max_pool1d", "max_pool2d", "unbind"),
    }
)
"""What gives values on as they are, or picks some: what they write has the quantization of what they read."""

FAILURES: Final = (
    RuntimeError,
    TypeError,
    ValueError,
    LookupError,
    AssertionError,
    AttributeError,
)
"""What torch.export raises on a net that it cannot follow."""


@dataclass(frozen=True)
class Trace:
    """A net's graph, with parameters and buffers of its own under the module's names; in evaluation mode."""

    graph: fx.GraphModule
    layers: dict[str, str]
    """Name of each convolution's and linear map's node -> path of the module that its weight belongs to."""

    def nodes(self) -> Iterator[fx.Node]:
        """In the order of execution."""
        return iter(self.graph.graph.nodes)

    def node(self, name: str) -> fx.Node:
        """By its name."""
        return next(node for node in self.nodes() if node.name == name)


def trace(module: nn.Module, examples: Sequence[Tensor]) -> Trace:
    """Follow a module on inputs of the shapes and types of `examples`, whose first axis is the batch and stays open.

    Raises:
        ConvertError: what the module does depends on its input's values, so no format could hold it.
    """
    given = tuple(torch.zeros(2, *one.shape[1:], dtype=one.dtype) for one in examples)
    open_batch = tuple({0: torch.export.Dim.AUTO} for _ in given)
    try:
        with evaluating(module):
            program = torch.export.export(module, given, dynamic_shapes=open_batch, strict=False)
        graph = program.module(check_guards=False)
    except FAILURES as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConvertError(f"the net cannot be followed: {line}", hint="see what torch.export says of it") from error
    assert isinstance(graph, fx.GraphModule)
    own = _copied(graph)
    return Trace(own, {node.name: path for node in own.graph.nodes if (path := _owner(node)) is not None})


def _copied(graph: fx.GraphModule) -> fx.GraphModule:
    """With tensors of its own: the exported program's are the caller's. One that has two names stays one."""
    copies: dict[int, Tensor] = {}
    for parent, name, tensor in list(_tensors(graph)):
        if id(tensor) not in copies:
            copy = tensor.detach().clone()
            trained = isinstance(tensor, nn.Parameter)
            copies[id(tensor)] = nn.Parameter(copy, tensor.requires_grad) if trained else copy
        setattr(parent, name, copies[id(tensor)])
    return graph


def _tensors(graph: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for part in graph.modules():
        for name, tensor in [*part._parameters.items(), *part._buffers.items()]:
            if tensor is not None:
                yield part, name, tensor


def kind(node: fx.Node) -> str:
    """ "conv2d" of aten.conv2d.default; "" of what computes nothing."""
    if node.op != "call_function":
        return ""
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet.__name__ if packet is not None else getattr(node.target, "__name__", ""))


def attribute(node: Any) -> str | None:
    """Dotted name of the parameter or buffer that a node reads; None for any other node."""
    return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else None


def _owner(node: fx.Node) -> str | None:
    if kind(node) not in WEIGHTED:
        return None
    weight = attribute(node.args[1])
    return None if weight is None else weight.rpartition(".")[0]


def activations(trace: Trace) -> list[fx.Node]:
    """Nodes that depend on the inputs and are tensors of floats."""
    found: dict[fx.Node, None] = {}
    for node in trace.nodes():
        if node.op == "placeholder" or (
            node.op == "call_function" and any(given in found for given in node.all_input_nodes)
        ):
            found[node] = None
    return [node for node in found if _is_float(node)]


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype.is_floating_point


def written(trace: Trace) -> list[fx.Node]:
    """Nodes whose tensors a static int8 model writes, each with a range of its own, in the order of execution."""
    return [node for node in activations(trace) if kind(node) not in VIEWS and not _is_inside_a_kernel(node)]


def _is_inside_a_kernel(node: fx.Node) -> bool:
    if len(node.users) != 1:
        return False
    (after,) = node.users
    if kind(after) in NORMS:
        return kind(node) in WEIGHTED
    return kind(after) in CLAMPS and kind(node) in FUSING


def kernel_of(node: fx.Node) -> fx.Node:
    """The operator that a tensor's kernel is named after: the convolution before a batch norm and a clamp."""
    while kind(node) in NORMS | CLAMPS and (before := node.all_input_nodes[0]).op == "call_function":
        if not _is_inside_a_kernel(before):
            break
        node = before
    return node


def constants(trace: Trace, kernel: fx.Node) -> list[fx.Node]:
    """What a kernel computes with besides tensors: a layer's weight, a constant that is added or multiplied with."""
    if kernel.name in trace.layers:
        return [kernel.all_input_nodes[1]]
    given = kernel.all_input_nodes if kind(kernel) in ELEMENTWISE else []
    return [one for one in given if attribute(one) is not None and _is_float(one)]


def readers(node: fx.Node) -> Iterator[fx.Node]:
    """The operators that compute with a tensor, or with a view of it."""
    for user in node.users:
        if kind(user) in VIEWS:
            yield from readers(user)
        elif user.op == "call_function":
            yield user


def module_of(node: fx.Node) -> str:
    """Path of the innermost torch module that called an operator; "" for the outermost."""
    stack = node.meta.get("nn_module_stack") or {}
    return next((path for path, _ in reversed(stack.values())), "")
