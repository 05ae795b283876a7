"""What a runtime executes of a net: a row for each kernel, with columns as arrays, and the features of its time.

Batch norms and constants are folded and clamping activations fused by then, so every row is something that is called.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

CLASSES: Final = (
    "conv", "pointwise", "depthwise", "grouped", "linear", "matmul", "pool", "elementwise", "activation", "move",
    "embedding", "other",
)  # fmt: skip
"""conv: a window larger than 1. pointwise: a 1x1 convolution, or a matrix of weights that many rows meet. linear: one
that a single row meets. matmul: of two activations. activation: what is more than a clamp. move: data copied, nothing
computed. other: an operator that edgekd does not know."""

_NUMBERS: Final = (
    "macs", "reads", "writes", "weights", "inside", "outside", "window", "stride", "positions",
)  # fmt: skip


@dataclass(frozen=True)
class Kernel:
    """One call. Sizes are of one example, in elements."""

    kind: str
    """One of CLASSES."""
    op: str
    """As the format calls it: "CONV_2D"."""
    macs: float = 0
    reads: float = 0
    """Without the weights."""
    writes: float = 0
    weights: float = 0
    inside: float = 0
    """Channels that go in, of one group."""
    outside: float = 0
    """Channels that come out, of all groups."""
    window: float = 1
    """Places of the input that an output sees: 9 of a 3x3."""
    stride: float = 1
    positions: float = 1
    """Places of the output."""
    name: str = ""


@dataclass(frozen=True)
class Kernels:
    """Kernels as columns: each an array of their number."""

    kinds: NDArray[np.int64]
    """Index into CLASSES."""
    ops: tuple[str, ...]
    names: tuple[str, ...]
    numbers: NDArray[np.float64]
    """(kernels, columns): see `column`."""

    @staticmethod
    def of(rows: Iterable[Kernel]) -> "Kernels":
        """The columns of these rows."""
        found = list(rows)
        numbers = [[float(getattr(one, name)) for name in _NUMBERS] for one in found]
        return Kernels(
            np.array([CLASSES.index(one.kind) for one in found], dtype=np.int64),
            tuple(one.op for one in found),
            tuple(one.name for one in found),
            np.array(numbers, dtype=np.float64).reshape(len(found), len(_NUMBERS)),
        )

    def column(self, name: str) -> NDArray[np.float64]:
        """One of macs, reads, writes, weights, inside, outside, window, stride, positions."""
        return self.numbers[:, _NUMBERS.index(name)]

    def are(self, kind: str) -> NDArray[np.bool_]:
        """Which are of a class."""
        return np.equal(self.kinds, CLASSES.index(kind))

    def __len__(self) -> int:
        return len(self.kinds)


# --- features

FEATURES: Final = (
    "dense", "winograd", "stem", "depthwise", "depthwise_traffic", "grouped", "linear", "matmul", "gathered", "narrow",
    "traffic", "weights", "elementwise", "activation", "pool", "move", "other", "calls", "calls_single",
    "calls_depthwise", "serial",
)  # fmt: skip
"""What time is a sum of, with a coefficient each, in millions:

dense, winograd, stem, depthwise, matmul: multiply-accumulates of matrix products as tiles compute them, of 3x3
convolutions by Winograd's way (whole tiles of outputs), of the first convolution, of depthwise ones, of products of
activations. grouped: those of grouped convolutions, the more the fewer channels a group has; they are in dense, too.
linear, weights: weights read once, by a single row or by many. gathered: inputs that a window copies together. narrow:
products with few output channels. traffic, depthwise_traffic, elementwise, pool, move, activation, other: activations
read and written. calls: kernels; calls_single those of one position. serial: the longest sum, which a GPU cannot
spread."""

_TILE: Final = {"cpu": 8, "gpu": 4}
_WINOGRAD_TILE: Final = 4
"""Outputs that Winograd's F(4x4, 3x3) computes together, in each direction: 1x1 costs what 4x4 does."""
FEW: Final = 4
"""Channels of a picture; a convolution of it fills no vector."""


def features(kernels: Kernels, unit: str, winograd: bool) -> NDArray[np.float64]:
    """(kernels, len(FEATURES)) of each kernel, for a "cpu" or a "gpu" (or any accelerator), in millions.

    A GPU's runtime fuses element-wise operators and padding into the kernels that they follow.
    """
    macs, reads, writes, weights, inside, outside, window, stride, positions = kernels.numbers.T
    pointwise, grouped, depthwise = kernels.are("pointwise"), kernels.are("grouped"), kernels.are("depthwise")
    linear, gpu = kernels.are("linear"), unit == "gpu"
    stem = kernels.are("conv") & (inside <= FEW) & (not gpu)
    conv = kernels.are("conv") & ~stem
    tiled = pointwise | conv | grouped
    # Winograd's tiles are worth their transforms from some size on; GPUs want more channels and tiles (TFLite's
    # SuitableForWinograd4x4To6x6, ncnn's prefer_winograd).
    channels, places = (64, 784) if gpu else (8, 1)
    by_winograd = (
        conv & (window == 9) & (stride == 1) & (inside >= channels) & (outside >= channels) & (positions >= places)
    ) & winograd
    tile = _TILE[unit]
    padded = macs * _up(outside, tile) / np.maximum(outside, 1)
    side = np.sqrt(np.maximum(positions, 1))
    edges = (_up(side, _WINOGRAD_TILE) / side) ** 2
    traffic = reads + writes
    pads = np.array([op in PADS for op in kernels.ops], dtype=bool)
    fused = (kernels.are("elementwise") | kernels.are("activation") | pads) & gpu
    if gpu:
        padded = padded * _up(inside, tile) / np.maximum(inside, 1)
        of_groups = macs * _up(inside, tile) / np.maximum(inside, 1) * grouped
    else:
        of_groups = macs * 8 / np.maximum(inside, 1) * grouped
    one = np.where(fused, 0.0, 1e6)
    single = positions <= 1
    columns = {
        "dense": padded * (tiled & ~by_winograd & ~(grouped & gpu)),
        "winograd": padded * edges * by_winograd,
        "stem": padded * stem,
        "depthwise": macs * depthwise,
        "depthwise_traffic": traffic * depthwise,
        "grouped": of_groups,
        "linear": weights * linear,
        "matmul": macs * kernels.are("matmul"),
        "gathered": window * inside * positions * (conv | stem | grouped) * (not gpu),
        "narrow": macs * 16 / np.maximum(outside, 16) * tiled * (not gpu),
        "traffic": traffic * (tiled | stem),
        "weights": weights * (tiled | depthwise),
        "elementwise": np.where(
            gpu, reads * (kernels.are("elementwise") | kernels.are("activation")), traffic * kernels.are("elementwise")
        ),
        "activation": writes * kernels.are("activation") * (not gpu),
        "pool": traffic * kernels.are("pool"),
        "move": traffic * kernels.are("move") * ~fused,
        "other": traffic * (kernels.are("other") | kernels.are("embedding")),
        "calls": one * ~((single & (not gpu)) | (depthwise & gpu)),
        "calls_single": one * (single & (not gpu)),
        "calls_depthwise": one * (depthwise & gpu),
        "serial": inside * window * (tiled | linear) * 1e3 * gpu,
    }
    return np.stack([columns[name] for name in FEATURES], axis=1) / 1e6


def totals(nets: Sequence[Kernels], unit: str, winograd: bool) -> NDArray[np.float64]:
    """(nets, len(FEATURES)) of whole nets, all at once."""
    joined = Kernels(
        np.concatenate([net.kinds for net in nets]),
        tuple(op for net in nets for op in net.ops),
        (),
        np.concatenate([net.numbers for net in nets]),
    )
    ends = np.cumsum([len(net) for net in nets])
    return sums(joined, [np.arange(end - len(net), end) for net, end in zip(nets, ends, strict=True)], unit, winograd)


def sums(
    kernels: Kernels, nets: Sequence[NDArray[np.int64] | list[int]], unit: str, winograd: bool
) -> NDArray[np.float64]:
    """(nets, len(FEATURES)) of nets that have these kernels in common; each is given by the indices of its own."""
    found = np.zeros((len(nets), len(FEATURES)))
    owners = np.repeat(np.arange(len(nets)), [len(net) for net in nets])
    np.add.at(found, owners, features(kernels, unit, winograd)[np.concatenate(nets).astype(np.int64)])
    return found


PADS: Final = frozenset({"PAD", "PADV2", "MIRROR_PAD", "Pad", "pad", "Padding"})


def _up(values: NDArray[np.float64], tile: int) -> NDArray[np.float64]:
    return np.ceil(values / tile) * tile
