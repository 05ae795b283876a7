"""The kernels of a torch module, by its anatomy."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from edgekd.kernels import Kernel, Kernels

if TYPE_CHECKING:
    from edgekd.nets import Anatomy, Layer

_ACTIVATIONS: Final = frozenset(
    {
        "sigmoid", "sigmoid_", "tanh", "tanh_", "_softmax", "_log_softmax", "_safe_softmax", "softmax", "exp", "log",
        "sqrt", "rsqrt", "pow", "sin", "cos", "gelu", "elu", "silu", "silu_", "erf", "softplus", "mish",
    }
)  # fmt: skip
_MOVES: Final = frozenset(
    {
        "cat", "constant_pad_nd", "pad", "stack", "index", "index_select", "gather", "roll", "repeat", "split",
        "split_with_sizes", "chunk", "unbind", "tensor_split", "upsample_nearest2d", "upsample_bilinear2d", "copy_",
        "_to_copy", "contiguous", "pixel_shuffle", "pixel_unshuffle", "flip", "reflection_pad2d", "select",
    }
)  # fmt: skip


def kernels_of(anatomy: "Anatomy") -> Kernels:
    """The kernels of a net that was examined."""
    return Kernels.of(_kernel(layer) for layer in anatomy.layers)


def kernels_in_common(anatomies: Sequence["Anatomy"]) -> tuple[Kernels, list[list[int]]]:
    """The distinct kernels of nets, and for each net the indices of its own."""
    known: dict[Layer, int] = {}
    rows = [[known.setdefault(layer, len(known)) for layer in anatomy.layers] for anatomy in anatomies]
    return Kernels.of(_kernel(layer) for layer in known), rows


def _kernel(layer: "Layer") -> Kernel:
    return Kernel(
        _class(layer), layer.op or layer.kind, layer.macs, layer.inputs, layer.outputs, layer.weights, layer.inside,
        layer.channels if layer.op == "convolution" else max(1, layer.outputs // max(1, layer.positions)),
        layer.window, layer.stride, layer.positions,
    )  # fmt: skip


def _class(layer: "Layer") -> str:
    single = layer.positions == 1
    if layer.kind == "conv":
        return "grouped" if layer.groups > 1 else "conv" if layer.window > 1 else "linear" if single else "pointwise"
    if layer.kind == "linear":
        return "matmul" if not layer.weights else "linear" if single else "pointwise"
    if layer.kind == "elementwise":
        return "activation" if layer.op in _ACTIVATIONS else "move" if layer.op in _MOVES else "elementwise"
    return layer.kind
