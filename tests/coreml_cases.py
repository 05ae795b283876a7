"""One case for each operator of MIL and each way to use it: how to build it, what goes in, what numpy or torch say.

`build` takes coremltools' builder and a variable for each array; no case needs coremltools to be read. Expected values
are never made by the code that is tested.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """An operator at work."""

    name: str
    build: Callable[..., Any]
    expected: Callable[..., Any]
    arrays: tuple[Array, ...]
    opset: int = 5
    """5 for iOS 15, 6 for iOS 16 and so on."""
    tolerance: float = 2e-6


CASES: list[Case] = []


def case(name: str, build: Any, expected: Any, *arrays: Array, opset: int = 5, tolerance: float = 2e-6) -> None:
    """Note a case; `expected` may be an array."""
    wanted = expected if callable(expected) else lambda *_: expected
    CASES.append(Case(name, build, wanted, arrays, opset, tolerance))


def normal(*shape: int, seed: int = 0) -> Array:
    """Numbers around 0."""
    return np.random.default_rng(seed + sum(shape)).normal(size=shape).astype(np.float32)


def whole(*shape: int, low: int = -9, high: int = 9, seed: int = 0) -> Array:
    """Integers."""
    return np.random.default_rng(seed + sum(shape)).integers(low, high, shape).astype(np.int32)


def by_torch(compute: Callable[..., Any]) -> Callable[..., Any]:
    """A reference in torch, taking and giving arrays."""

    def reference(*arrays: Array) -> Any:
        result = compute(*map(torch.from_numpy, arrays))
        return tuple(one.numpy() for one in result) if isinstance(result, tuple) else result.numpy()

    return reference


X = normal(2, 3, 4, 5)
V = np.array([-3.0, -1.0, -0.5, 0.0, 0.25, 1.0, 2.5, 7.0], np.float32)

# --- activations

case(
    "clamped_relu",
    lambda mb, x: mb.clamped_relu(x=x, alpha=0.5, beta=1.5),
    np.array([-1.5, -0.5, -0.25, 0, 0.25, 1, 1.5, 1.5], np.float32),
    V,
)
case("elu", lambda mb, x: mb.elu(x=x, alpha=0.7), by_torch(lambda x: functional.elu(x, 0.7)), V)
for mode, approximate in (("EXACT", "none"), ("TANH_APPROXIMATION", "tanh")):
    case(
        f"gelu {mode}",
        lambda mb, x, mode=mode: mb.gelu(x=x, mode=mode),
        by_torch(lambda x, approximate=approximate: functional.gelu(x, approximate=approximate)),
        V,
    )
case("gelu", lambda mb, x: mb.gelu(x=x), by_torch(functional.gelu), V)
case(
    "gelu SIGMOID_APPROXIMATION",
    lambda mb, x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"),
    lambda x: x / (1 + np.exp(-1.702 * x)),
    V,
)
case("leaky_relu", lambda mb, x: mb.leaky_relu(x=x, alpha=0.1), lambda x: np.where(x >= 0, x, 0.1 * x), V)
case("linear_activation", lambda mb, x: mb.linear_activation(x=x, alpha=2.0, beta=-1.0), lambda x: 2 * x - 1, V)
case(
    "prelu",
    lambda mb, x: mb.prelu(x=x, alpha=np.array([0.1, 0.2, 0.3], np.float32)),
    by_torch(lambda x: functional.prelu(x, torch.tensor([0.1, 0.2, 0.3]))),
    X,
)
case("relu", lambda mb, x: mb.relu(x=x), lambda x: np.maximum(x, 0), V)
case("relu6", lambda mb, x: mb.relu6(x=x), lambda x: np.clip(x, 0, 6), V)
case("scaled_tanh", lambda mb, x: mb.scaled_tanh(x=x, alpha=1.7, beta=0.6), lambda x: 1.7 * np.tanh(0.6 * x), V)
case("sigmoid", lambda mb, x: mb.sigmoid(x=x), lambda x: 1 / (1 + np.exp(-x)), V)
case("sigmoid_hard", lambda mb, x: mb.sigmoid_hard(x=x, alpha=0.2, beta=0.5), lambda x: np.clip(0.2 * x + 0.5, 0, 1), V)
case("silu", lambda mb, x: mb.silu(x=x), lambda x: x / (1 + np.exp(-x)), V)
case("softplus", lambda mb, x: mb.softplus(x=x), lambda x: np.log1p(np.exp(x)), V)
case(
    "softplus of large",
    lambda mb, x: mb.softplus(x=x),
    np.array([0, 100], np.float32),
    np.array([-200, 100], np.float32),
)
case(
    "softplus_parametric",
    lambda mb, x: mb.softplus_parametric(x=x, alpha=np.float32([1, 2, 3]), beta=np.float32([0.5, 1, 2])),
    lambda x: np.float32([1, 2, 3])[:, None, None] * np.log1p(np.exp(np.float32([0.5, 1, 2])[:, None, None] * x)),
    X,
)
case("softsign", lambda mb, x: mb.softsign(x=x), lambda x: x / (1 + np.abs(x)), V)
case("softmax", lambda mb, x: mb.softmax(x=x), by_torch(lambda x: x.softmax(-1)), X)
case("softmax axis 1", lambda mb, x: mb.softmax(x=x, axis=1), by_torch(lambda x: x.softmax(1)), X)
case("thresholded_relu", lambda mb, x: mb.thresholded_relu(x=x, alpha=0.25), lambda x: np.where(x >= 0.25, x, 0), V)

# --- element by element

for name, reference in {
    "abs": np.abs, "atan": np.arctan, "ceil": np.ceil, "cos": np.cos, "cosh": np.cosh, "exp": np.exp, "exp2": np.exp2,
    "floor": np.floor, "sign": np.sign, "sin": np.sin, "sinh": np.sinh, "square": np.square, "tan": np.tan,
    "tanh": np.tanh, "round": np.round, "erf": np.vectorize(math.erf),
}.items():  # fmt: skip
    case(
        name,
        lambda mb, x, name=name: getattr(mb, name)(x=x),
        lambda x, reference=reference: reference(x),
        V,
        tolerance=1e-5,
    )
UNIT = np.array([-0.9, -0.2, 0.0, 0.4, 0.99], np.float32)
for name, reference in {"acos": np.arccos, "asin": np.arcsin, "atanh": np.arctanh}.items():
    case(name, lambda mb, x, name=name: getattr(mb, name)(x=x), lambda x, reference=reference: reference(x), UNIT)
POSITIVE = np.array([1e-6, 0.5, 1.0, 3.0, 400.0], np.float32)
case("sqrt", lambda mb, x: mb.sqrt(x=x), np.sqrt, POSITIVE)
case("rsqrt", lambda mb, x: mb.rsqrt(x=x), lambda x: 1 / np.sqrt(x + 1e-12), POSITIVE)
case("rsqrt epsilon", lambda mb, x: mb.rsqrt(x=x, epsilon=0.5), lambda x: 1 / np.sqrt(x + 0.5), POSITIVE)
case("inverse", lambda mb, x: mb.inverse(x=x), lambda x: 1 / (x + np.float32(1e-4)), POSITIVE)
case("inverse epsilon", lambda mb, x: mb.inverse(x=x, epsilon=0.5), lambda x: 1 / (x + 0.5), POSITIVE)
case("log", lambda mb, x: mb.log(x=x), np.log, POSITIVE)
case(
    "log of 0",
    lambda mb, x: mb.log(x=x),
    np.array([math.log(1.4e-45)], np.float32),
    np.zeros(1, np.float32),
    tolerance=2e-5,
)
case("log epsilon", lambda mb, x: mb.log(x=x, epsilon=1.0), np.log1p, POSITIVE)
case(
    "round half to even",
    lambda mb, x: mb.round(x=x),
    np.array([-2, 0, 0, 2, 2], np.float32),
    np.array([-1.5, -0.5, 0.5, 1.5, 2.5], np.float32),
)
for name, reference in {"abs": np.abs, "sign": np.sign, "square": np.square}.items():
    case(f"{name} of integers", lambda mb, x, name=name: getattr(mb, name)(x=x), lambda x, r=reference: r(x), whole(7))
case("clip", lambda mb, x: mb.clip(x=x, alpha=-1.0, beta=2.0), lambda x: np.clip(x, -1, 2), V)
case("threshold", lambda mb, x: mb.threshold(x=x, alpha=0.3), lambda x: np.maximum(x, 0.3), V)
case("threshold of integers", lambda mb, x: mb.threshold(x=x, alpha=2), lambda x: np.maximum(x, 2), whole(9))
case(
    "logical_not",
    lambda mb, x: mb.cast(x=mb.logical_not(x=mb.cast(x=x, dtype="bool")), dtype="int32"),
    lambda x: (x == 0).astype(np.int32),
    whole(9, low=0, high=2),
)
case("cast to int32", lambda mb, x: mb.cast(x=x, dtype="int32"), lambda x: np.trunc(x).astype(np.int32), V)
case("cast to bool", lambda mb, x: mb.cast(x=mb.cast(x=x, dtype="bool"), dtype="fp32"), lambda x: (x != 0) * 1.0, V)
case(
    "cast to fp16",
    lambda mb, x: mb.cast(x=mb.cast(x=x, dtype="fp16"), dtype="fp32"),
    lambda x: x.astype(np.float16).astype(np.float32),
    normal(40),
    tolerance=0,
)
for dtype in ("int8", "uint8", "int16", "uint16"):
    case(
        f"cast to {dtype}",
        lambda mb, x, d=dtype: mb.cast(x=mb.cast(x=x, dtype=d), dtype="int32"),
        lambda x: x,
        whole(9, low=0, high=100),
        opset=7,
    )

# --- two by two

Y = normal(3, 1, 5)
for name, reference in {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "real_div": np.divide, "maximum": np.maximum,
    "minimum": np.minimum, "mod": np.mod, "floor_div": np.floor_divide,
}.items():  # fmt: skip
    case(
        name,
        lambda mb, x, y, name=name: getattr(mb, name)(x=x, y=y),
        lambda x, y, r=reference: r(x, y),
        X,
        Y,
        tolerance=1e-5,
    )
    if name != "real_div":
        case(
            f"{name} of integers",
            lambda mb, x, y, name=name: getattr(mb, name)(x=x, y=y),
            lambda x, y, r=reference: r(x, y),
            whole(2, 6),
            whole(6, low=1, seed=1) * np.int32([1, -1] * 3),
        )
case("pow", lambda mb, x, y: mb.pow(x=x, y=y), np.power, np.abs(X), Y, tolerance=1e-5)
case("pow of integers", lambda mb, x, y: mb.pow(x=x, y=y), np.power, whole(5), whole(5, low=0, high=4))
case(
    "real_div of integers",
    lambda mb, x, y: mb.real_div(x=x, y=y),
    np.array([2, -2, 0], np.int32),
    np.array([7, -7, 2], np.int32),
    np.array([3, 3, 3], np.int32),
)
for name, reference in {
    "equal": np.equal, "not_equal": np.not_equal, "less": np.less, "less_equal": np.less_equal,
    "greater": np.greater, "greater_equal": np.greater_equal,
}.items():  # fmt: skip
    case(
        name,
        lambda mb, x, y, n=name: mb.cast(x=getattr(mb, n)(x=x, y=y), dtype="int32"),
        lambda x, y, r=reference: r(x, y).astype(np.int32),
        whole(4, 6, high=0),
        whole(6, high=0),
    )
for name, reference in {
    "logical_and": np.logical_and, "logical_or": np.logical_or, "logical_xor": np.logical_xor,
}.items():  # fmt: skip
    case(
        name,
        lambda mb, x, y, n=name: mb.cast(
            x=getattr(mb, n)(x=mb.cast(x=x, dtype="bool"), y=mb.cast(x=y, dtype="bool")), dtype="int32"
        ),
        lambda x, y, r=reference: r(x, y).astype(np.int32),
        np.int32([0, 0, 1, 1]),
        np.int32([0, 1, 0, 1]),
    )
case(
    "select",
    lambda mb, c, a, b: mb.select(cond=mb.cast(x=c, dtype="bool"), a=a, b=b),
    np.where,
    np.int32([[1], [0]]),
    normal(2, 3),
    normal(1, 3),
)

# --- convolutions

IMAGE, KERNEL, BIAS = normal(2, 4, 9, 8), normal(6, 4, 3, 3), normal(6)
case(
    "conv",
    lambda mb, x: mb.conv(x=x, weight=KERNEL),
    by_torch(lambda x: functional.conv2d(x, torch.tensor(KERNEL))),
    IMAGE,
    tolerance=1e-5,
)
case(
    "conv custom",
    lambda mb, x: mb.conv(
        x=x, weight=KERNEL, bias=BIAS, strides=[2, 1], dilations=[1, 2], pad=[1, 1, 2, 2], pad_type="custom"
    ),
    by_torch(lambda x: functional.conv2d(x, torch.tensor(KERNEL), torch.tensor(BIAS), (2, 1), (1, 2), (1, 2))),
    IMAGE,
    tolerance=1e-5,
)
case(
    "conv uneven padding",
    lambda mb, x: mb.conv(x=x, weight=KERNEL, bias=BIAS, strides=[2, 2], pad=[0, 1, 2, 0], pad_type="custom"),
    by_torch(lambda x: functional.conv2d(functional.pad(x, (2, 0, 0, 1)), torch.tensor(KERNEL), torch.tensor(BIAS), 2)),
    IMAGE,
    tolerance=1e-5,
)
case(
    "conv same",
    lambda mb, x: mb.conv(x=x, weight=KERNEL, strides=[2, 2], pad_type="same"),
    by_torch(lambda x: functional.conv2d(functional.pad(x, (0, 1, 1, 1)), torch.tensor(KERNEL), None, 2)),
    IMAGE,
    tolerance=1e-5,
)
case(
    "conv same_lower",
    lambda mb, x: mb.conv(x=x, weight=KERNEL, strides=[2, 2], pad_type="same_lower"),
    by_torch(lambda x: functional.conv2d(functional.pad(x, (1, 0, 1, 1)), torch.tensor(KERNEL), None, 2)),
    IMAGE,
    opset=6,
    tolerance=1e-5,
)
DEPTHWISE = normal(4, 1, 3, 3)
case(
    "conv depthwise",
    lambda mb, x: mb.conv(x=x, weight=DEPTHWISE, groups=4, pad_type="valid"),
    by_torch(lambda x: functional.conv2d(x, torch.tensor(DEPTHWISE), groups=4)),
    IMAGE,
    tolerance=1e-5,
)
case(
    "conv 1d",
    lambda mb, x: mb.conv(x=x, weight=normal(5, 3, 4), strides=[3]),
    by_torch(lambda x: functional.conv1d(x, torch.tensor(normal(5, 3, 4)), None, 3)),
    normal(2, 3, 17),
    tolerance=1e-5,
)
case(
    "conv 3d",
    lambda mb, x: mb.conv(x=x, weight=normal(2, 2, 2, 2, 2), pad_type="custom", pad=[1, 1, 0, 0, 1, 1]),
    by_torch(lambda x: functional.conv3d(x, torch.tensor(normal(2, 2, 2, 2, 2)), None, 1, (1, 0, 1))),
    normal(1, 2, 3, 4, 5),
    tolerance=1e-5,
)
case(
    "conv of a weight that is computed",
    lambda mb, x, w: mb.conv(x=x, weight=w),
    by_torch(functional.conv2d),
    IMAGE,
    KERNEL,
    tolerance=1e-5,
)
BACK = normal(4, 3, 3, 2)
case(
    "conv_transpose",
    lambda mb, x: mb.conv_transpose(x=x, weight=BACK, strides=[2, 3]),
    by_torch(lambda x: functional.conv_transpose2d(x, torch.tensor(BACK), None, (2, 3))),
    IMAGE,
    tolerance=1e-5,
)
case(
    "conv_transpose custom",
    lambda mb, x: mb.conv_transpose(
        x=x, weight=BACK, bias=normal(3), strides=[2, 2], pad=[1, 1, 1, 1], pad_type="custom"
    ),
    by_torch(lambda x: functional.conv_transpose2d(x, torch.tensor(BACK), torch.tensor(normal(3)), 2, 1)),
    IMAGE,
    tolerance=1e-5,
)
case(
    "conv_transpose same",
    lambda mb, x: mb.conv_transpose(x=x, weight=BACK, strides=[2, 2], pad_type="same"),
    by_torch(lambda x: functional.conv_transpose2d(x, torch.tensor(BACK), None, 2)[..., :-1, :]),
    IMAGE,
    tolerance=1e-5,
)
case(
    "conv_transpose output_shape",
    lambda mb, x: mb.conv_transpose(
        x=x, weight=BACK, strides=[2, 2], pad_type="custom", pad=[1, 0, 0, 0], output_shape=[2, 3, 18, 16]
    ),
    by_torch(lambda x: functional.conv_transpose2d(x, torch.tensor(BACK), None, 2)[..., 1:, :]),
    IMAGE,
    tolerance=1e-5,
)
case(
    "conv_transpose groups 1d",
    lambda mb, x: mb.conv_transpose(x=x, weight=normal(4, 2, 3), groups=2, dilations=[2]),
    by_torch(lambda x: functional.conv_transpose1d(x, torch.tensor(normal(4, 2, 3)), None, groups=2, dilation=2)),
    normal(1, 4, 6),
    tolerance=1e-5,
)

# --- pools

P = normal(2, 3, 7, 8)
case(
    "avg_pool",
    lambda mb, x: mb.avg_pool(x=x, kernel_sizes=[2, 3], strides=[2, 1], pad_type="valid"),
    by_torch(lambda x: functional.avg_pool2d(x, (2, 3), (2, 1))),
    P,
)
for excluding in (False, True):
    case(
        f"avg_pool custom, excluding {excluding}",
        lambda mb, x, e=excluding: mb.avg_pool(
            x=x,
            kernel_sizes=[3, 3],
            strides=[2, 2],
            pad_type="custom",
            pad=[1, 1, 1, 1],
            exclude_padding_from_average=e,
        ),
        by_torch(lambda x, e=excluding: functional.avg_pool2d(x, 3, 2, 1, count_include_pad=not e)),
        P,
    )
    case(
        f"avg_pool ceil, excluding {excluding}",
        lambda mb, x, e=excluding: mb.avg_pool(
            x=x,
            kernel_sizes=[3, 3],
            strides=[2, 2],
            pad_type="custom",
            ceil_mode=True,
            pad=[1, 1, 1, 1],
            exclude_padding_from_average=e,
        ),
        by_torch(lambda x, e=excluding: functional.avg_pool2d(x, 3, 2, 1, True, not e)),
        P,
    )
case(
    "avg_pool same",
    lambda mb, x: mb.avg_pool(x=x, kernel_sizes=[3], strides=[3], pad_type="same", exclude_padding_from_average=True),
    np.float32([[[1.5, 4, 6.5]]]),
    np.arange(1, 8, dtype=np.float32).reshape(1, 1, 7),
)
case(
    "avg_pool 3d",
    lambda mb, x: mb.avg_pool(x=x, kernel_sizes=[2, 2, 2], pad_type="valid"),
    by_torch(lambda x: functional.avg_pool3d(x, 2, 1)),
    normal(1, 2, 3, 4, 5),
)
case(
    "max_pool",
    lambda mb, x: mb.max_pool(x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]),
    by_torch(lambda x: functional.max_pool2d(x, 3, 2, 1)),
    P,
)
case(
    "max_pool ceil",
    lambda mb, x: mb.max_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid", ceil_mode=True),
    by_torch(lambda x: functional.max_pool2d(x, 2, 2, ceil_mode=True)),
    P,
)
case(
    "max_pool same",
    lambda mb, x: mb.max_pool(x=x, kernel_sizes=[3], strides=[3], pad_type="same"),
    np.float32([[[2, 5, 7]]]),
    np.arange(1, 8, dtype=np.float32).reshape(1, 1, 7),
)
case(
    "max_pool same_lower",
    lambda mb, x: mb.max_pool(x=x, kernel_sizes=[2], strides=[2], pad_type="same_lower"),
    np.float32([[[1, 3, 5, 7]]]),
    np.arange(1, 8, dtype=np.float32).reshape(1, 1, 7),
    opset=6,
)
case(
    "l2_pool",
    lambda mb, x: mb.l2_pool(x=x, kernel_sizes=[3], strides=[3], pad_type="same"),
    np.sqrt(np.float32([[[1 + 4, 9 + 16 + 25, 36 + 49]]])),
    np.arange(1, 8, dtype=np.float32).reshape(1, 1, 7),
)

# --- normalizations

C = 3
GAMMA, BETA, MEAN, VARIANCE = normal(C), normal(C, seed=1), normal(C, seed=2), np.abs(normal(C, seed=3)) + 0.1
case(
    "batch_norm",
    lambda mb, x: mb.batch_norm(x=x, mean=MEAN, variance=VARIANCE, gamma=GAMMA, beta=BETA, epsilon=1e-3),
    by_torch(lambda x: functional.batch_norm(x, *map(torch.tensor, (MEAN, VARIANCE, GAMMA, BETA)), eps=1e-3)),
    X,
    tolerance=1e-5,
)
case(
    "batch_norm plain",
    lambda mb, x: mb.batch_norm(x=x, mean=MEAN, variance=VARIANCE),
    by_torch(lambda x: functional.batch_norm(x, torch.tensor(MEAN), torch.tensor(VARIANCE))),
    X,
    tolerance=1e-5,
)
case(
    "instance_norm",
    lambda mb, x: mb.instance_norm(x=x, gamma=GAMMA, beta=BETA),
    by_torch(lambda x: functional.instance_norm(x, weight=torch.tensor(GAMMA), bias=torch.tensor(BETA))),
    X,
    tolerance=1e-5,
)
case(
    "layer_norm",
    lambda mb, x: mb.layer_norm(x=x, axes=[2, 3], gamma=normal(4, 5), beta=normal(4, 5, seed=1), epsilon=1e-4),
    by_torch(
        lambda x: functional.layer_norm(x, (4, 5), torch.tensor(normal(4, 5)), torch.tensor(normal(4, 5, seed=1)), 1e-4)
    ),
    X,
    tolerance=1e-5,
)
case(
    "layer_norm of the second axis",
    lambda mb, x: mb.layer_norm(x=x, axes=[1], gamma=GAMMA, beta=BETA),
    by_torch(
        lambda x: functional.layer_norm(x.movedim(1, -1), (3,), torch.tensor(GAMMA), torch.tensor(BETA)).movedim(-1, 1)
    ),
    X,
    tolerance=1e-5,
)
case(
    "l2_norm",
    lambda mb, x: mb.l2_norm(x=x, epsilon=0.5),
    lambda x: x / np.sqrt((x**2).sum((1, 2, 3), keepdims=True) + 0.5),
    X,
)
case(
    "local_response_norm",
    lambda mb, x: mb.local_response_norm(x=x, size=3, alpha=0.2, beta=0.6, k=1.5),
    by_torch(lambda x: functional.local_response_norm(x, 3, 0.2, 0.6, 1.5)),
    normal(2, 6, 3, 3),
)
case(
    "local_response_norm even",
    lambda mb, x: mb.local_response_norm(x=x, size=4),
    by_torch(lambda x: functional.local_response_norm(x, 4)),
    normal(2, 6, 3, 3),
)

# --- matrices

W = normal(4, 5)
case(
    "linear",
    lambda mb, x: mb.linear(x=x, weight=W, bias=normal(4)),
    lambda x: x @ W.T + normal(4),
    normal(3, 5),
    tolerance=1e-5,
)
case("linear without bias", lambda mb, x: mb.linear(x=x, weight=W), lambda x: x @ W.T, normal(2, 3, 5), tolerance=1e-5)
case("matmul", lambda mb, x, y: mb.matmul(x=x, y=y), np.matmul, normal(2, 1, 3, 4), normal(5, 4, 6), tolerance=1e-5)
case(
    "matmul transposed",
    lambda mb, x, y: mb.matmul(x=x, y=y, transpose_x=True, transpose_y=True),
    lambda x, y: x.T @ y.T,
    normal(4, 3),
    normal(6, 4),
    tolerance=1e-5,
)
case("matmul of a vector", lambda mb, x, y: mb.matmul(x=x, y=y), np.matmul, normal(4), normal(4, 3), tolerance=1e-5)
case("matmul of integers", lambda mb, x, y: mb.matmul(x=x, y=y), np.matmul, whole(3, 4), whole(4, 2))
case(
    "einsum",
    lambda mb, x, y: mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"),
    lambda x, y: np.einsum("nchw,nwhu->nchu", x, y),
    normal(2, 3, 4, 5),
    normal(2, 5, 4, 6),
    tolerance=1e-5,
)
case(
    "einsum that broadcasts",
    lambda mb, x, y: mb.einsum(values=(x, y), equation="chw,whr->chr"),
    lambda x, y: np.einsum("chw,wr->chr", x, y[:, 0]),
    normal(3, 4, 5),
    normal(5, 1, 6),
    tolerance=1e-5,
)

# --- reductions

for name, reference in {
    "reduce_sum": np.sum, "reduce_mean": np.mean, "reduce_max": np.max, "reduce_min": np.min, "reduce_prod": np.prod,
    "reduce_l1_norm": lambda x, **o: np.abs(x).sum(**o), "reduce_l2_norm": lambda x, **o: np.sqrt((x**2).sum(**o)),
    "reduce_log_sum": lambda x, **o: np.log(x.sum(**o)), "reduce_sum_square": lambda x, **o: (x**2).sum(**o),
    "reduce_log_sum_exp": lambda x, **o: np.log(np.exp(x).sum(**o)),
}.items():  # fmt: skip
    case(
        name,
        lambda mb, x, n=name: getattr(mb, n)(x=x, axes=[1, -1], keep_dims=True),
        lambda x, r=reference: r(x, axis=(1, 3), keepdims=True),
        np.abs(X),
        tolerance=1e-5,
    )
    case(
        f"{name} of all",
        lambda mb, x, n=name: getattr(mb, n)(x=x),
        lambda x, r=reference: np.asarray(r(x)),
        np.abs(normal(2, 3)),
        tolerance=1e-5,
    )
case(
    "reduce_sum of integers",
    lambda mb, x: mb.reduce_sum(x=x, axes=[0]),
    lambda x: x.sum(0).astype(np.int32),
    whole(3, 4),
)
case(
    "reduce_mean of integers",
    lambda mb, x: mb.reduce_mean(x=x, axes=[1]),
    np.int32([1, -1]),
    np.int32([[1, 2], [-1, -2]]),
)
for name, reference in {"reduce_argmax": np.argmax, "reduce_argmin": np.argmin}.items():
    case(name, lambda mb, x, n=name: getattr(mb, n)(x=x), lambda x, r=reference: r(x, -1).astype(np.int32), X)
    case(
        f"{name} kept",
        lambda mb, x, n=name: getattr(mb, n)(x=x, axis=1, keep_dims=True),
        lambda x, r=reference: r(x, 1, keepdims=True).astype(np.int32),
        X,
    )
case(
    "reduce_argmax uint16",
    lambda mb, x: mb.cast(x=mb.reduce_argmax(x=x, axis=0, output_dtype="uint16"), dtype="int32"),
    lambda x: np.argmax(x, 0).astype(np.int32),
    X,
    opset=7,
)

# --- gather and scatter

case(
    "gather",
    lambda mb, x: mb.gather(x=x, indices=[[0, -1], [2, 1]], axis=1),
    lambda x: np.take(x, [[0, 2], [2, 1]], 1),
    X,
)
case("gather by a scalar", lambda mb, x: mb.gather(x=x, indices=1), lambda x: x[1], X)
case(
    "gather of integers",
    lambda mb, x, i: mb.gather(x=x, indices=i, axis=-1),
    lambda x, i: x[:, i],
    whole(3, 6),
    np.int32([5, 0]),
)
case(
    "gather batch_dims",
    lambda mb, x, i: mb.gather(x=x, indices=i, axis=2, batch_dims=1),
    lambda x, i: np.stack([np.take(a, b, 1) for a, b in zip(x, i, strict=True)]),
    X,
    np.int32([[0, 3], [2, 2]]),
    opset=6,
)
case(
    "gather iOS 17",
    lambda mb, x, i: mb.gather(x=x, indices=i, axis=0, validate_indices=True),
    lambda x, i: x[i],
    X,
    np.int32([[1, 0]]),
    opset=7,
)
case(
    "gather_along_axis",
    lambda mb, x, i: mb.gather_along_axis(x=x, indices=i, axis=1),
    lambda x, i: np.take_along_axis(x, i, 1),
    normal(2, 4),
    np.int32([[0, -1, 1], [3, 2, 2]]),
)
case(
    "gather_nd",
    lambda mb, x, i: mb.gather_nd(x=x, indices=i),
    lambda x, i: x[i[..., 0], i[..., 1]],
    X,
    np.int32([[[1, -1], [0, 2]]]),
)
case(
    "gather_nd batch_dims",
    lambda mb, x, i: mb.gather_nd(x=x, indices=i, batch_dims=1),
    lambda x, i: np.stack([a[b[:, 0], b[:, 1]] for a, b in zip(x, i, strict=True)]),
    X,
    np.int32([[[1, 3]], [[2, 0]]]),
    opset=6,
)
MODES = {
    "update": lambda old, new: new,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}
for mode, combine in MODES.items():

    def scattered(x: Array, i: Array, u: Array, combine: Any = combine) -> Array:
        result = x.copy()
        for at, index in enumerate(i):
            result[:, index] = combine(result[:, index], u[:, at])
        return result

    case(
        f"scatter {mode}",
        lambda mb, x, i, u, m=mode: mb.scatter(data=x, indices=i, updates=u, axis=1, mode=m),
        scattered,
        normal(2, 4, 3),
        np.int32([3, 0]),
        normal(2, 2, 3),
        tolerance=1e-5,
    )

    def along(x: Array, i: Array, u: Array, combine: Any = combine) -> Array:
        result = x.copy()
        for row, column in np.ndindex(*i.shape):
            result[row, i[row, column]] = combine(result[row, i[row, column]], u[row, column])
        return result

    case(
        f"scatter_along_axis {mode}",
        lambda mb, x, i, u, m=mode: mb.scatter_along_axis(data=x, indices=i, updates=u, axis=1, mode=m),
        along,
        normal(2, 4),
        np.int32([[3, 0], [1, 2]]),
        normal(2, 2),
        tolerance=1e-5,
    )

    def nd(x: Array, i: Array, u: Array, combine: Any = combine) -> Array:
        result = x.copy()
        for at, (row, column) in enumerate(i):
            result[row, column] = combine(result[row, column], u[at])
        return result

    case(
        f"scatter_nd {mode}",
        lambda mb, x, i, u, m=mode: mb.scatter_nd(data=x, indices=i, updates=u, mode=m),
        nd,
        normal(2, 4, 3),
        np.int32([[1, 3], [0, 2]]),
        normal(2, 3),
        tolerance=1e-5,
    )
case(
    "scatter that adds twice",
    lambda mb, x, i, u: mb.scatter(data=x, indices=i, updates=u),
    np.float32([0, 3, 0]),
    np.zeros(3, np.float32),
    np.int32([1, -2]),
    np.float32([1, 2]),
)
case(
    "scatter iOS 17",
    lambda mb, x, i, u: mb.scatter(data=x, indices=i, updates=u, mode="update", validate_indices=True),
    np.float32([0, 1, 2]),
    np.zeros(3, np.float32),
    np.int32([1, 2]),
    np.float32([1, 2]),
    opset=7,
)

# --- tensors made, joined, split, sorted

M = normal(2, 4, 5)
case("band_part", lambda mb, x: mb.band_part(x=x, lower=1, upper=0), lambda x: np.tril(x) - np.tril(x, -2), M)
case("band_part upper", lambda mb, x: mb.band_part(x=x, lower=0), np.triu, M)
case("cumsum", lambda mb, x: mb.cumsum(x=x, axis=1), lambda x: np.cumsum(x, 1), M, tolerance=1e-5)
case("cumsum exclusive", lambda mb, x: mb.cumsum(x=x, exclusive=True), np.float32([0, 1, 3]), np.float32([1, 2, 4]))
case("cumsum reverse", lambda mb, x: mb.cumsum(x=x, reverse=True), np.int32([7, 6, 4]), np.int32([1, 2, 4]))
case(
    "cumsum both",
    lambda mb, x: mb.cumsum(x=x, reverse=True, exclusive=True),
    np.float32([6, 4, 0]),
    np.float32([1, 2, 4]),
)
case("fill", lambda mb, s: mb.fill(shape=s, value=2.5), np.full((2, 3), 2.5, np.float32), np.int32([2, 3]))
case("fill of integers", lambda mb, s: mb.fill(shape=s, value=7), np.full((2,), 7, np.int32), np.int32([2]))
case("fill_like", lambda mb, x: mb.fill_like(ref_tensor=x, value=3), np.full((2, 4, 5), 3, np.int32), M, opset=6)
case("non_zero", lambda mb, x: mb.non_zero(x=x), np.int32([[0, 1], [1, 0]]), np.float32([[0, 2], [-1, 0]]))
case(
    "one_hot",
    lambda mb, i: mb.one_hot(indices=i, one_hot_vector_size=4),
    np.eye(4, dtype=np.int32)[[2, 0, 3]],
    np.int32([2, 0, 3]),
)
case(
    "one_hot axis 0",
    lambda mb, i: mb.one_hot(indices=i, one_hot_vector_size=3, axis=0, on_value=2.0, off_value=-1.0),
    np.float32([[-1, 2], [2, -1], [-1, -1]]),
    np.int32([1, 0]),
)
case(
    "pad",
    lambda mb, x: mb.pad(x=x, pad=[1, 0, 2, 3], constant_val=1.5),
    lambda x: np.pad(x, ((0, 0), (1, 0), (2, 3)), constant_values=1.5),
    M,
)
case(
    "pad reflect",
    lambda mb, x: mb.pad(x=x, pad=[3, 2, 1, 4], mode="reflect"),
    lambda x: np.pad(x, ((0, 0), (3, 2), (1, 4)), "reflect"),
    M,
)
case(
    "pad replicate",
    lambda mb, x: mb.pad(x=x, pad=[0, 0, 5, 1, 0, 6], mode="replicate"),
    lambda x: np.pad(x, ((0, 0), (5, 1), (0, 6)), "edge"),
    M,
)
case(
    "pad by what is computed",
    lambda mb, x, p: mb.pad(x=x, pad=p),
    lambda x, p: np.pad(x, p.reshape(-1, 2)),
    M,
    np.int32([1, 0, 0, 0, 2, 1]),
)
case("range_1d", lambda mb, e: mb.range_1d(start=1, end=mb.squeeze(x=e), step=3), np.int32([1, 4, 7]), np.int32([10]))
case(
    "range_1d of floats",
    lambda mb, e: mb.range_1d(start=0.5, end=mb.squeeze(x=e), step=0.5),
    np.float32([0.5, 1, 1.5]),
    np.float32([2]),
)
case(
    "range_1d backwards",
    lambda mb, e: mb.range_1d(start=5, end=mb.squeeze(x=e), step=-2),
    np.int32([5, 3]),
    np.int32([1]),
)
case("tile", lambda mb, x: mb.tile(x=x, reps=[2, 1, 3]), lambda x: np.tile(x, (2, 1, 3)), M)
case("argsort", lambda mb, x: mb.argsort(x=x), lambda x: np.argsort(-x, -1).astype(np.int32), M)
case(
    "argsort ascending",
    lambda mb, x: mb.argsort(x=x, axis=1, ascending=True),
    lambda x: np.argsort(x, 1).astype(np.int32),
    M,
)
case(
    "topk",
    lambda mb, x: mb.topk(x=x, k=2),
    by_torch(lambda x: tuple(one.int() if i else one for i, one in enumerate(x.topk(2)))),
    M,
)
case("topk ascending", lambda mb, x: mb.topk(x=x, k=3, axis=1, ascending=True)[0], lambda x: np.sort(x, 1)[:, :3], M)
case(
    "topk without indices",
    lambda mb, x: mb.topk(x=x, k=1, sort=False, return_indices=False),
    lambda x: x.max(-1, keepdims=True),
    M,
    opset=6,
)
case(
    "topk of all",
    lambda mb, x: mb.cast(x=mb.topk(x=x, k=5, output_indices_dtype="uint16")[1], dtype="int32"),
    lambda x: np.argsort(-x, -1).astype(np.int32),
    M,
    opset=7,
)
case("flatten2d", lambda mb, x: mb.flatten2d(x=x), lambda x: x.reshape(2, -1), M)
case("flatten2d axis -1", lambda mb, x: mb.flatten2d(x=x, axis=-1), lambda x: x.reshape(-1, 5), M)
case("shape", lambda mb, x: mb.shape(x=x), np.int32([2, 4, 5]), M)
case(
    "concat",
    lambda mb, x, y: mb.concat(values=(x, y), axis=-1),
    lambda x, y: np.concatenate([x, y], -1),
    M,
    normal(2, 4, 3),
)
case(
    "concat interleaved",
    lambda mb, x, y: mb.concat(values=(x, y), axis=1, interleave=True),
    lambda x, y: np.stack([x, y], 2).reshape(2, 8, 5),
    M,
    normal(2, 4, 5, seed=1),
)
case(
    "concat of scalars",
    lambda mb, x: mb.concat(values=(mb.squeeze(x=x), mb.squeeze(x=x)), axis=0),
    np.int32([3, 3]),
    np.int32([3]),
)
case("split", lambda mb, x: tuple(mb.split(x=x, num_splits=2, axis=1)), lambda x: (x[:, :2], x[:, 2:]), M)
case(
    "split uneven",
    lambda mb, x: tuple(mb.split(x=x, split_sizes=[1, 4], axis=-1)),
    lambda x: (x[..., :1], x[..., 1:]),
    M,
)
case(
    "stack",
    lambda mb, x, y: mb.stack(values=(x, y), axis=1),
    lambda x, y: np.stack([x, y], 1),
    M,
    normal(2, 4, 5, seed=1),
)
case(
    "stack last",
    lambda mb, x, y: mb.stack(values=(x, y), axis=-1),
    lambda x, y: np.stack([x, y], -1),
    M,
    normal(2, 4, 5, seed=1),
)
case("identity", lambda mb, x: mb.identity(x=x), lambda x: x, M)
BOXES = np.float32([[[0, 0, 2, 2], [0.1, 0, 2, 2], [5, 5, 2, 2], [9, 9, 1, 1]]])
SCORES = np.float32([[[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.05, 0.01]]])
for per_class, kept in ((False, [0, 2]), (True, [0, 1, 2])):
    number = len(kept)
    case(
        f"non_maximum_suppression, per class {per_class}",
        lambda mb, b, s, p=per_class: mb.non_maximum_suppression(
            boxes=b, scores=s, iou_threshold=0.5, score_threshold=0.1, max_boxes=4, per_class_suppression=p
        ),
        (
            np.pad(BOXES[:, kept], ((0, 0), (0, 4 - number), (0, 0))),
            np.pad(SCORES[:, kept], ((0, 0), (0, 4 - number), (0, 0))),
            np.int32([kept + [-1] * (4 - number)]),
            np.int32([number]),
        ),
        BOXES,
        SCORES,
    )
case(
    "non_maximum_suppression iOS 17",
    lambda mb, b, s: mb.non_maximum_suppression(boxes=b, scores=s, iou_threshold=0.5, max_boxes=2),
    (BOXES[:, [0, 2]].transpose(0, 2, 1), SCORES[:, [0, 2]].transpose(0, 2, 1), np.int32([[0, 2]])),
    BOXES.transpose(0, 2, 1).copy(),
    SCORES.transpose(0, 2, 1).copy(),
    opset=7,
)

# --- the same elements in another order

DEEP = normal(2, 12, 4, 6)
case(
    "depth_to_space",
    lambda mb, x: mb.depth_to_space(x=x, block_size=2),
    lambda x: x.reshape(2, 2, 2, 3, 4, 6).transpose(0, 3, 4, 1, 5, 2).reshape(2, 3, 8, 12),
    DEEP,
)
case(
    "space_to_depth",
    lambda mb, x: mb.space_to_depth(x=x, block_size=2),
    lambda x: x.reshape(2, 12, 2, 2, 3, 2).transpose(0, 3, 5, 1, 2, 4).reshape(2, 48, 2, 3),
    DEEP,
)
case(
    "pixel_shuffle",
    lambda mb, x: mb.pixel_shuffle(x=x, upscale_factor=2),
    by_torch(lambda x: functional.pixel_shuffle(x, 2)),
    DEEP,
)
case(
    "pixel_unshuffle",
    lambda mb, x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(2)),
    by_torch(lambda x: functional.pixel_unshuffle(x, 2)),
    DEEP,
    opset=6,
)
SPACE = np.arange(1, 17, dtype=np.float32).reshape(2, 1, 2, 4)
BATCH = np.float32([0, 1, 3, 0, 9, 11, 0, 2, 4, 0, 10, 12, 0, 5, 7, 0, 13, 15, 0, 6, 8, 0, 14, 16]).reshape(8, 1, 1, 3)
case(
    "space_to_batch", lambda mb, x: mb.space_to_batch(x=x, block_shape=[2, 2], paddings=[[0, 0], [2, 0]]), BATCH, SPACE
)
case("batch_to_space", lambda mb, x: mb.batch_to_space(x=x, block_shape=[2, 2], crops=[[0, 0], [2, 0]]), SPACE, BATCH)
case("expand_dims", lambda mb, x: mb.expand_dims(x=x, axes=[0, -2]), lambda x: x.reshape(1, 2, 4, 1, 5), M)
case("squeeze", lambda mb, x: mb.squeeze(x=x), lambda x: x.reshape(2, 3), normal(1, 2, 1, 3))
case("squeeze axes", lambda mb, x: mb.squeeze(x=x, axes=[0]), lambda x: x[0], normal(1, 2, 1, 3))
case(
    "reshape",
    lambda mb, x: mb.reshape(x=x, shape=[4, -1]),
    lambda x: x.reshape(4, 10),
    M,
)
case("reshape 0", lambda mb, x: mb.reshape(x=x, shape=[0, -1, 2]), lambda x: x.reshape(2, 10, 2), M)
case(
    "reshape 0 iOS 17",
    lambda mb, x: mb.reshape(x=x, shape=[1, 0, -1, 0]),
    lambda x: x.reshape(1, 1, 2, 50),
    normal(2, 50),
    opset=7,
)
case(
    "reshape_like",
    lambda mb, x, r: mb.reshape_like(x=x, ref_tensors=(r, r), begins=(1, 0), ends=(2, 0), end_masks=(False, True)),
    lambda x, r: x.reshape(4, 2, 4),
    normal(32),
    normal(2, 4),
    opset=6,
)
case("reverse", lambda mb, x: mb.reverse(x=x, axes=[0, -1]), lambda x: x[::-1, :, ::-1], M)
case("reverse of all", lambda mb, x: mb.reverse(x=x), lambda x: x[::-1, ::-1, ::-1], M)
case(
    "reverse_sequence",
    lambda mb, x: mb.reverse_sequence(x=x, lengths=[3, 0], seq_axis=1, batch_axis=0),
    lambda x: np.stack([np.concatenate([x[0, 2::-1], x[0, 3:]]), x[1]]),
    M,
)
case(
    "reverse_sequence along the first axis",
    lambda mb, x: mb.reverse_sequence(x=x, lengths=[1, 2, 0, 2], seq_axis=0, batch_axis=1),
    lambda x: np.stack([x[[0, 1], 0], x[[1, 0], 1], x[[0, 1], 2], x[[1, 0], 3]], 1),
    M,
)
case(
    "slice_by_index",
    lambda mb, x: mb.slice_by_index(x=x, begin=[0, 1, -3], end=[1, 4, -1], stride=[1, 2, 1]),
    lambda x: x[0:1, 1:4:2, -3:-1],
    M,
)
case(
    "slice_by_index masks",
    lambda mb, x: mb.slice_by_index(
        x=x,
        begin=[1, 9, 4],
        end=[9, 2, 9],
        stride=[1, 1, -2],
        begin_mask=[False, True, False],
        end_mask=[True, False, True],
        squeeze_mask=[True, False, False],
    ),
    lambda x: x[1, :2, 4::-2],
    M,
)
case(
    "slice_by_index of a scalar",
    lambda mb, x: mb.slice_by_index(x=x, begin=[-1], end=[0], squeeze_mask=[True]),
    lambda x: np.asarray(x[-1]),
    normal(5),
)
case(
    "slice_by_index that is computed",
    lambda mb, x, b: mb.slice_by_index(x=x, begin=b, end=[2, 4, 5]),
    lambda x, b: x[0:, 2:, 1:],
    M,
    np.int32([0, 2, 1]),
)
case(
    "slice_by_size",
    lambda mb, x: mb.slice_by_size(x=x, begin=[0, 1, -2], size=[2, -1, 1]),
    lambda x: x[:, 1:, -2:-1],
    M,
)
case(
    "slice_update",
    lambda mb, x, u: mb.slice_update(
        x=x,
        update=u,
        begin=[0, 1, 0],
        end=[2, 4, 5],
        stride=[1, 2, 1],
        end_mask=[False, False, True],
        squeeze_mask=[True, False, False],
    ),
    lambda x, u: np.stack([np.stack([x[0, 0], u[0], x[0, 2], u[1]]), x[1]]),
    M,
    normal(2, 5),
    opset=8,
)
case(
    "sliding_windows",
    lambda mb, x: mb.sliding_windows(x=x, axis=1, size=3, stride=1),
    lambda x: np.stack([x[:, :3], x[:, 1:]], 1),
    M,
)
case("transpose", lambda mb, x: mb.transpose(x=x, perm=[-1, 0, 1]), lambda x: x.transpose(2, 0, 1), M)

# --- images

case(
    "upsample_nearest_neighbor",
    lambda mb, x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
    lambda x: x.repeat(2, 2).repeat(3, 3),
    X,
)
case(
    "upsample_nearest_neighbor by fractions",
    lambda mb, x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=3.17, scale_factor_width=0.67),
    np.float32([[[[1.5, -2.5]] * 3]]),
    np.float32([[[[1.5, -2.5, 3.5]]]]),
)
case(
    "upsample_nearest_neighbor as torch",
    lambda mb, x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=1.6, scale_factor_width=2.3),
    by_torch(lambda x: functional.interpolate(x, scale_factor=(1.6, 2.3))),
    X,
)
for aligned in (False, True):
    case(
        f"upsample_bilinear, aligned {aligned}",
        lambda mb, x, a=aligned: mb.upsample_bilinear(
            x=x, scale_factor_height=2.5, scale_factor_width=3.0, align_corners=a
        ),
        by_torch(
            lambda x, a=aligned: functional.interpolate(
                x, scale_factor=(2.5, 3), mode="bilinear", align_corners=a, recompute_scale_factor=True
            )
        ),
        X,
        tolerance=1e-5,
    )
case(
    "upsample_bilinear neither",
    lambda mb, x: mb.upsample_bilinear(
        x=x, scale_factor_height=1, scale_factor_width=2, align_corners=False, half_pixel_centers=False
    ),
    np.float32([[[0, 0.5, 1, 1]]]),
    np.float32([[[0, 1]]]),
    opset=6,
)
case(
    "resize_nearest_neighbor",
    lambda mb, x: mb.resize_nearest_neighbor(x=x, target_size_height=3, target_size_width=1),
    np.float32([[[[1], [2], [2]]]]),
    np.float32([[[[1], [2]]]]),
)
for mode, line in {
    "STRICT_ALIGN_CORNERS": [0, 0.2, 0.4, 0.6, 0.8, 1], "ALIGN_CORNERS": [0, 0.2, 0.4, 0.6, 0.8, 1],
    "DEFAULT": [0, 1 / 3, 2 / 3, 1, 1, 1], "OFFSET_CORNERS": [1 / 12, 3 / 12, 5 / 12, 7 / 12, 9 / 12, 11 / 12],
    "UNALIGN_CORNERS": [0, 0, 1 / 3, 2 / 3, 1, 1],
}.items():  # fmt: skip
    case(
        f"resize_bilinear {mode}",
        lambda mb, x, m=mode: mb.resize_bilinear(x=x, target_size_height=1, target_size_width=6, sampling_mode=m),
        np.float32([[line]]),
        np.float32([[[0, 1]]]),
    )
case(
    "resize_bilinear to one pixel",
    lambda mb, x: mb.resize_bilinear(x=x, target_size_height=1, target_size_width=1, sampling_mode="ALIGN_CORNERS"),
    lambda x: x.mean((2, 3), keepdims=True),
    normal(1, 2, 2, 2),
)
case(
    "resize",
    lambda mb, x: mb.resize(x=x, shape=[9, 7, 0], resized_dims=np.uint32(2), sampling_mode="UNALIGN_CORNERS"),
    by_torch(lambda x: functional.interpolate(x, (7, 5), mode="bilinear")),
    X,
    opset=7,
    tolerance=1e-5,
)
case(
    "resize nearest",
    lambda mb, x, s: mb.resize(x=x, shape=s, resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR"),
    np.float32([[[[-6, -6], [9, 9], [9, 9]]]]),
    np.float32([[[[-6], [9]]]]),
    np.int32([3, 2]),
    opset=7,
)
case("crop", lambda mb, x: mb.crop(x=x, crop_height=[1, 0], crop_width=[2, 1]), lambda x: x[..., 1:, 2:4], X)
PIXELS = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
REGION = np.float32([1, 1, 2, 2]).reshape(1, 1, 4, 1, 1)
case(
    "crop_resize",
    lambda mb, x: mb.crop_resize(x=x, roi=REGION, target_height=2, target_width=4, sampling_mode="ALIGN_CORNERS"),
    np.float32([[6, 6 + 1 / 3, 6 + 2 / 3, 7], [10, 10 + 1 / 3, 10 + 2 / 3, 11]]).reshape(1, 1, 1, 2, 4),
    PIXELS,
)
case(
    "crop_resize of an indexed image",
    lambda mb, x: mb.crop_resize(
        x=x,
        roi=np.float32([0, 0, 0, 1 / 3, 1 / 3]).reshape(1, 1, 5, 1, 1),
        target_height=2,
        target_width=2,
        normalized_coordinates=True,
        sampling_mode="STRICT_ALIGN_CORNERS",
    ),
    np.float32([1, 2, 5, 6]).reshape(1, 1, 1, 2, 2),
    PIXELS,
)
case(
    "crop_resize OFFSET_CORNERS by centres",
    lambda mb, x: mb.crop_resize(
        x=x,
        roi=np.float32([1, 2, 2, 2]).reshape(1, 1, 4, 1, 1),
        target_height=2,
        target_width=2,
        box_coordinate_mode="CENTER_SIZE_WIDTH_FIRST",
        sampling_mode="OFFSET_CORNERS",
    ),
    np.float32([7.5, 8.5, 11.5, 12.5]).reshape(1, 1, 1, 2, 2),
    PIXELS,
)
case(
    "crop_resize iOS 17",
    lambda mb, x: mb.crop_resize(
        x=x,
        boxes=np.float32([[0.1, 0.3, 1.3, 1.0], [0.5, 1.8, 1.0, 0.3]]),
        box_indices=np.int32([0, 0]),
        target_height=2,
        target_width=2,
        normalized_coordinates=True,
        sampling_mode="ALIGN_CORNERS",
        pad_value=10.0,
    ),
    np.float32([3.1, 5.2, 10, 10, 10, 7.9, 10, 13.9]).reshape(2, 1, 2, 2),
    PIXELS,
    opset=7,
    tolerance=1e-5,
)
case(
    "affine",
    lambda mb, x, m: mb.affine(
        x=x,
        transform_matrix=m,
        output_height=2,
        output_width=5,
        sampling_mode="bilinear",
        padding_mode="constant",
        padding_value=0.0,
        coordinates_mode="normalized_minus_one_to_one",
        align_corners=True,
    ),
    np.float32([10.7525, 5.94, 2.5025, 0.44, 0, 0, 0, 0, 0, 0]).reshape(1, 1, 2, 5),
    np.float32([[[[11, 22], [33, 44]]]]),
    np.float32([[-1, -2, -3.7, -1, 3.5, 1.2]]),
    tolerance=1e-5,
)
PLACES = np.random.default_rng(5).uniform(-1.6, 1.6, (2, 3, 7, 2)).astype(np.float32)
for padding, theirs, aligned in (
    ("constant", "zeros", True),
    ("constant", "zeros", False),
    ("border", "border", False),
    ("reflection", "reflection", True),
    ("symmetric", "reflection", False),
):
    for sampling in ("bilinear", "nearest"):
        case(
            f"resample {padding} {sampling}, aligned {aligned}",
            lambda mb, x, c, p=padding, s=sampling, a=aligned: mb.resample(
                x=x,
                coordinates=c,
                sampling_mode=s,
                padding_mode=p,
                padding_value=0.0,
                coordinates_mode="normalized_minus_one_to_one",
                align_corners=a,
            ),
            by_torch(lambda x, c, t=theirs, s=sampling, a=aligned: functional.grid_sample(x, c, s, t, a)),
            X,
            PLACES,
            tolerance=1e-5,
        )
case(
    "resample with a value around",
    lambda mb, x, c: mb.resample(
        x=x,
        coordinates=c,
        sampling_mode="bilinear",
        padding_mode="constant",
        padding_value=6.17,
        coordinates_mode="normalized_minus_one_to_one",
        align_corners=True,
    ),
    np.float32([8.585, 6.17, 27.5, 6.17]).reshape(1, 1, 2, 2),
    np.float32([[[[11, 22], [33, 44]]]]),
    np.float32([-1, -2, -3.7, -1, 0, 0, 3.5, 1.2]).reshape(1, 2, 2, 2),
)
case(
    "resample of pixels",
    lambda mb, x, c: mb.resample(
        x=x,
        coordinates=c,
        sampling_mode="nearest",
        padding_mode="border",
        padding_value=0.0,
        coordinates_mode="unnormalized",
        align_corners=False,
    ),
    np.float32([[[[33, 44]]]]),
    np.float32([[[[11, 22], [33, 44]]]]),
    np.float32([[[[-4, 0.7], [9, 1]]]]),
)

# --- recurrent layers

STEPS, FEATURES, HIDDEN = 5, 3, 4
SEQUENCE, H0, C0 = normal(STEPS, 2, FEATURES), normal(2, HIDDEN), normal(2, HIDDEN, seed=1)


def torch_layer(kind: type[torch.nn.RNNBase], **options: Any) -> torch.nn.RNNBase:
    """A layer of torch with the same weights each time."""
    torch.manual_seed(3)
    return kind(FEATURES, HIDDEN, **options)


def stacked(layer: torch.nn.RNNBase, name: str, order: list[int], back: str = "") -> Array:
    """A layer's weights, gates in another order."""
    weights: torch.Tensor = getattr(layer, f"{name}_l0{back}").detach()
    return torch.cat([weights.chunk(len(order))[at] for at in order]).numpy()


def weights_of(layer: torch.nn.RNNBase, order: list[int], back: str = "", ours: str = "") -> dict[str, Array]:
    """Parameters for MIL, which knows one bias."""
    return {
        f"weight_ih{ours}": stacked(layer, "weight_ih", order, back),
        f"weight_hh{ours}": stacked(layer, "weight_hh", order, back),
        f"bias{ours}": stacked(layer, "bias_ih", order, back) + stacked(layer, "bias_hh", order, back),
    }


IFOZ = [0, 1, 3, 2]


def lstm_by_torch(x: Array, h: Array, c: Array, layer: torch.nn.RNNBase) -> tuple[Array, Array, Array]:
    """Outputs, state and cell, directions side by side."""
    ways = 2 if layer.bidirectional else 1
    states = [torch.from_numpy(one).reshape(2, ways, HIDDEN).transpose(0, 1).contiguous() for one in (h, c)]
    with torch.no_grad():
        out, (hidden, cell) = layer(torch.from_numpy(x), tuple(states))
    return out.numpy(), *(one.transpose(0, 1).reshape(2, -1).numpy() for one in (hidden, cell))


LSTM, BOTH = torch_layer(torch.nn.LSTM), torch_layer(torch.nn.LSTM, bidirectional=True)
case(
    "lstm",
    lambda mb, x, h, c: mb.lstm(x=x, initial_h=h, initial_c=c, output_sequence=True, **weights_of(LSTM, IFOZ)),
    lambda x, h, c: lstm_by_torch(x, h, c, LSTM),
    SEQUENCE,
    H0,
    C0,
    tolerance=1e-5,
)
case(
    "lstm, the last",
    lambda mb, x, h, c: mb.lstm(x=x, initial_h=h, initial_c=c, **weights_of(LSTM, IFOZ))[0],
    lambda x, h, c: lstm_by_torch(x, h, c, LSTM)[0][-1:],
    SEQUENCE,
    H0,
    C0,
    tolerance=1e-5,
)
case(
    "lstm reverse",
    lambda mb, x, h, c: mb.lstm(
        x=x, initial_h=h, initial_c=c, direction="reverse", output_sequence=True, **weights_of(LSTM, IFOZ)
    ),
    lambda x, h, c: lstm_by_torch(x[::-1].copy(), h, c, LSTM),
    SEQUENCE,
    H0,
    C0,
    tolerance=1e-5,
)
case(
    "lstm bidirectional",
    lambda mb, x, h, c: mb.lstm(
        x=x,
        initial_h=h,
        initial_c=c,
        direction="bidirectional",
        output_sequence=True,
        **weights_of(BOTH, IFOZ),
        **weights_of(BOTH, IFOZ, "_reverse", "_back"),
    ),
    lambda x, h, c: lstm_by_torch(x, h, c, BOTH),
    SEQUENCE,
    normal(2, 2 * HIDDEN),
    normal(2, 2 * HIDDEN, seed=1),
    tolerance=1e-5,
)
PEEPHOLE = normal(3 * HIDDEN)


def lstm_by_hand(x: Array, h: Array, c: Array) -> Array:
    """With peepholes, a clipped cell and other activations."""
    weights = weights_of(LSTM, IFOZ)
    look_i, look_f, look_o = np.split(PEEPHOLE, 3)
    for step in x:
        i, f, o, z = np.split(step @ weights["weight_ih"].T + h @ weights["weight_hh"].T + weights["bias"], 4, 1)
        i, f = (np.clip(0.2 * one + 0.5, 0, 1) for one in (i + look_i * c, f + look_f * c))
        c = np.clip(f * c + i * np.maximum(z, 0), -0.3, 0.3)
        h = np.clip(0.2 * (o + look_o * c) + 0.5, 0, 1) * c
    return h


case(
    "lstm with all it has",
    lambda mb, x, h, c: mb.lstm(
        x=x,
        initial_h=h,
        initial_c=c,
        peephole=PEEPHOLE,
        clip=0.3,
        recurrent_activation="hard_sigmoid",
        cell_activation="relu",
        activation="linear",
        **weights_of(LSTM, IFOZ),
    )[1],
    lstm_by_hand,
    SEQUENCE,
    H0,
    C0,
    tolerance=1e-5,
)
RNN, GRU = torch_layer(torch.nn.RNN), torch_layer(torch.nn.GRU)


def one_state(layer: torch.nn.RNNBase) -> Callable[..., tuple[Array, Array]]:
    """Outputs and state of a layer that has no cell."""

    def reference(x: Array, h: Array) -> tuple[Array, Array]:
        with torch.no_grad():
            out, hidden = layer(torch.from_numpy(x), torch.from_numpy(h)[None])
        return out.numpy(), hidden[0].numpy()

    return reference


case(
    "rnn",
    lambda mb, x, h: mb.rnn(x=x, initial_h=h, output_sequence=True, **weights_of(RNN, [0])),
    one_state(RNN),
    SEQUENCE,
    H0,
    tolerance=1e-5,
)
ROZ = [0, 2, 1]


def gru_by_hand(x: Array, h: Array) -> Array:
    """Core ML's, whose reset gate acts on the state itself."""
    weights = weights_of(GRU, ROZ)
    (w_r, w_o, w_z), (u_r, u_o, u_z), (b_r, b_o, b_z) = (np.split(one, 3) for one in weights.values())
    for step in x:
        r, z = (1 / (1 + np.exp(-(step @ w.T + h @ u.T + b))) for w, u, b in ((w_r, u_r, b_r), (w_z, u_z, b_z)))
        h = (1 - z) * np.tanh(step @ w_o.T + (r * h) @ u_o.T + b_o) + z * h
    return h


case(
    "gru",
    lambda mb, x, h: mb.gru(x=x, initial_h=h, **weights_of(GRU, ROZ))[1],
    gru_by_hand,
    SEQUENCE,
    H0,
    tolerance=1e-5,
)
case(
    "gru reset_after",
    lambda mb, x, h: mb.gru(
        x=x,
        initial_h=h,
        output_sequence=True,
        reset_after=True,
        weight_ih=stacked(GRU, "weight_ih", ROZ),
        weight_hh=stacked(GRU, "weight_hh", ROZ),
        bias=stacked(GRU, "bias_hh", ROZ),
        input_bias=stacked(GRU, "bias_ih", ROZ),
    ),
    one_state(GRU),
    SEQUENCE,
    H0,
    opset=8,
    tolerance=1e-5,
)

# --- control

case(
    "cond",
    lambda mb, x: mb.cond(
        pred=mb.squeeze(x=mb.cast(x=mb.greater(x=mb.reduce_sum(x=x, keep_dims=True), y=0.0), dtype="bool")),
        _true_fn=lambda: mb.add(x=x, y=1.0),
        _false_fn=lambda: mb.mul(x=x, y=2.0),
    ),
    lambda x: x + 1 if x.sum() > 0 else x * 2,
    np.float32([-3, 1]),
)


def doubling(mb: Any, x: Any, n: Any) -> Any:
    """Doubled n times."""
    return mb.while_loop(
        _cond=lambda i, value: mb.greater(x=i, y=0),
        _body=lambda i, value: (mb.sub(x=i, y=1), mb.add(x=value, y=value)),
        loop_vars=(mb.squeeze(x=n), x),
    )[1]


case("while_loop", doubling, lambda x, n: x * 2 ** n[0], normal(3), np.int32([5]))


def listed(mb: Any, x: Any) -> Any:
    """Through a list and back."""
    ls = mb.make_list(init_length=1, dynamic_length=True, elem_shape=(3,), dtype="fp32")
    ls = mb.list_write(
        ls=ls, index=0, value=mb.slice_by_index(x=x, begin=[1, 0], end=[2, 3], squeeze_mask=[True, False])
    )
    ls = mb.list_scatter(ls=ls, indices=[2, 1], value=x)
    return mb.list_gather(ls=ls, indices=[0, 1, 2]), mb.list_read(ls=ls, index=2), mb.list_length(ls=ls)


case("lists", listed, lambda x: (np.stack([x[1], x[1], x[0]]), x[0], np.asarray(3, np.int32)), normal(2, 3))

# --- weights that are stored smaller

Q = whole(4, 3, 2, low=-128, high=128).astype(np.int8)
ZERO, SCALE = np.int8([1, -2, 3]), np.float32([0.1, 0.2, 0.3])
case(
    "constexpr_affine_dequantize",
    lambda mb, x: mb.add(x=x, y=mb.constexpr_affine_dequantize(quantized_data=Q, zero_point=ZERO, scale=SCALE, axis=1)),
    lambda x: x + (Q.astype(np.float32) - ZERO[:, None]) * SCALE[:, None],
    np.zeros(1, np.float32),
    opset=6,
)
case(
    "constexpr_affine_dequantize by one scale",
    lambda mb, x: mb.add(
        x=x,
        y=mb.constexpr_affine_dequantize(
            quantized_data=Q.view(np.uint8), zero_point=np.uint8(7), scale=np.float32(0.5), axis=0
        ),
    ),
    lambda x: x + (Q.view(np.uint8).astype(np.float32) - 7) * 0.5,
    np.zeros(1, np.float32),
    opset=6,
)


def packed(indices: Array, bits: int) -> Array:
    """Indices as bits, each byte's lowest first."""
    return np.packbits(
        np.unpackbits(indices.astype(np.uint8)[:, None], axis=1, bitorder="little")[:, :bits].reshape(-1),
        bitorder="little",
    )


for bits in (1, 2, 4, 6, 8):
    table, places = normal(2**bits), whole(15, low=0, high=2**bits)
    case(
        f"constexpr_lut_to_dense of {bits} bits",
        lambda mb, x, t=table, p=places, b=bits: mb.add(
            x=x, y=mb.constexpr_lut_to_dense(indices=packed(p, b), lut=t, shape=np.uint32([5, 3]))
        ),
        lambda x, t=table, p=places: x + t[p].reshape(5, 3),
        np.zeros(1, np.float32),
        opset=6,
    )
MASK = whole(6, 3, low=0, high=2).astype(np.uint8)
KEPT = normal(int(MASK.sum()))


def dense(values: Array, mask: Array) -> Array:
    """Zeros where the mask has zeros."""
    result = np.zeros(mask.shape, values.dtype)
    result[mask != 0] = values
    return result


case(
    "constexpr_sparse_to_dense",
    lambda mb, x: mb.add(
        x=x,
        y=mb.constexpr_sparse_to_dense(nonzero_data=KEPT, mask=packed(MASK.reshape(-1), 1), shape=np.uint32([6, 3])),
    ),
    lambda x: x + dense(KEPT, MASK),
    np.zeros(1, np.float32),
    opset=6,
)
case(
    "constexpr_cast",
    lambda mb, x: mb.add(x=x, y=mb.constexpr_cast(source_val=normal(12).astype(np.float16), output_dtype="fp32")),
    lambda x: x + normal(12).astype(np.float16),
    np.zeros(1, np.float32),
    opset=6,
    tolerance=0,
)


def typed(array: Array, name: str) -> Array:
    """An array of less than eight bits, as coremltools wants it."""
    from coremltools.converters.mil.mil import types

    return array.astype(types.nptype_from_builtin(types.string_to_builtin(name)))


for dtype, low, high in (("int4", -8, 8), ("uint4", 0, 16), ("int8", -128, 128)):
    data, scale = whole(4, 6, low=low, high=high), np.abs(normal(2, 3)) + 0.1
    offset = whole(2, 3, low=max(low, 0), high=min(high, 7))
    case(
        f"constexpr_blockwise_shift_scale of {dtype}",
        lambda mb, x, d=data, s=scale, o=offset, t=dtype: mb.add(
            x=x, y=mb.constexpr_blockwise_shift_scale(data=typed(d, t), scale=s, offset=typed(o, t))
        ),
        lambda x, d=data, s=scale, o=offset: x + (d - o.repeat(2, 0).repeat(2, 1)) * s.repeat(2, 0).repeat(2, 1),
        np.zeros(1, np.float32),
        opset=8,
    )
for bits in (1, 2, 3, 4, 6, 8):
    tables, places = normal(2, 1, 2**bits, 1), whole(6, 4, low=0, high=2**bits)
    case(
        f"constexpr_lut_to_dense of two tables of {bits} bits",
        lambda mb, x, t=tables, p=places, b=bits: mb.add(
            x=x, y=mb.constexpr_lut_to_dense(indices=typed(p, f"uint{b}"), lut=t)
        ),
        lambda x, t=tables, p=places: x + np.concatenate([t[0, 0, p[:3], 0], t[1, 0, p[3:], 0]]),
        np.zeros(1, np.float32),
        opset=8,
    )
VECTORS, SPOTS = normal(1, 1, 4, 3), whole(2, 5, low=0, high=4)
for axis in (0, 1):
    case(
        f"constexpr_lut_to_dense of vectors along axis {axis}",
        lambda mb, x, a=axis: mb.add(
            x=x, y=mb.constexpr_lut_to_dense(indices=typed(SPOTS, "uint2"), lut=VECTORS, vector_axis=np.int32(a))
        ),
        lambda x, a=axis: (
            x
            + (
                np.moveaxis(VECTORS[0, 0][SPOTS], -1, 1).reshape(6, 5)
                if a == 0
                else VECTORS[0, 0][SPOTS].reshape(2, 15)
            )
        ),
        np.zeros(1, np.float32),
        opset=8,
    )
case(
    "constexpr_sparse_to_dense of a mask",
    lambda mb, x: mb.add(x=x, y=mb.constexpr_sparse_to_dense(nonzero_data=KEPT, mask=typed(MASK, "uint1"))),
    lambda x: x + dense(KEPT, MASK),
    np.zeros(1, np.float32),
    opset=8,
)
FEW = whole(int(MASK.sum()), low=0, high=4)
PALETTE = normal(1, 1, 4, 1)


def palettized_sparse(mb: Any, x: Any) -> Any:
    """Sparse indices into a table."""
    mask, data = mb.constexpr_lut_to_sparse(
        indices_mask=typed(MASK, "uint1"), indices_nonzero_data=typed(FEW, "uint2"), lut=PALETTE
    )
    return mb.add(x=x, y=mb.constexpr_sparse_to_dense(nonzero_data=data, mask=mask))


case(
    "constexpr_lut_to_sparse",
    palettized_sparse,
    lambda x: x + dense(PALETTE.reshape(-1)[FEW], MASK),
    np.zeros(1, np.float32),
    opset=8,
)
PAIRS = normal(1, 1, 4, 2)


def palettized_sparse_vectors(mb: Any, x: Any) -> Any:
    """Sparse indices into a table of pairs."""
    mask, data = mb.constexpr_lut_to_sparse(
        indices_mask=typed(MASK, "uint1"), indices_nonzero_data=typed(FEW, "uint2"), lut=PAIRS, vector_axis=np.int32(0)
    )
    return mb.add(x=x, y=mb.constexpr_sparse_to_dense(nonzero_data=data, mask=mask))


def pairs_by_hand(x: Array) -> Array:
    """Each index becomes two rows."""
    first, second = (dense(PAIRS[0, 0, FEW, at], MASK) for at in (0, 1))
    return x + np.stack([first, second], 1).reshape(12, 3)


case("constexpr_lut_to_sparse of vectors", palettized_sparse_vectors, pairs_by_hand, np.zeros(1, np.float32), opset=8)
BYTES = whole(int(MASK.sum()), low=-100, high=100).astype(np.int8)
COLUMNS, SHIFTS = np.float32([[0.1, 0.2, 0.3]]), np.int8([[1, 2, 3]])


def quantized_sparse(mb: Any, x: Any) -> Any:
    """Sparse bytes, a scale for each column."""
    mask, data = mb.constexpr_sparse_blockwise_shift_scale(
        data_mask=typed(MASK, "uint1"), nonzero_data=BYTES, scale=COLUMNS, offset=SHIFTS
    )
    return mb.add(x=x, y=mb.constexpr_sparse_to_dense(nonzero_data=data, mask=mask))


case(
    "constexpr_sparse_blockwise_shift_scale",
    quantized_sparse,
    lambda x: x + np.where(MASK != 0, (dense(BYTES.astype(np.float32), MASK) - SHIFTS) * COLUMNS, 0),
    np.zeros(1, np.float32),
    opset=8,
)

# --- activations in eight bits

case(
    "quantize",
    lambda mb, x: mb.cast(
        x=mb.quantize(input=x, scale=np.float32(0.5), zero_point=np.uint8(3), output_dtype="uint8"), dtype="int32"
    ),
    np.int32([0, 1, 2, 3, 3, 5, 8, 17]),
    V,
    opset=7,
)
case(
    "quantize by channel",
    lambda mb, x: mb.cast(x=mb.quantize(input=x, scale=SCALE, axis=1, output_dtype="int8"), dtype="int32"),
    lambda x: np.clip(np.round(x / SCALE[:, None, None]), -128, 127).astype(np.int32),
    X,
    opset=7,
)
case(
    "dequantize",
    lambda mb, x: mb.dequantize(input=mb.cast(x=x, dtype="int8"), scale=SCALE, zero_point=ZERO, axis=-1),
    lambda x: (x - ZERO) * SCALE,
    whole(2, 3),
    opset=7,
)
case(
    "dequantize by one scale",
    lambda mb, x: mb.dequantize(input=mb.cast(x=x, dtype="uint8"), scale=np.float32(0.2)),
    lambda x: x * np.float32(0.2),
    whole(2, 3, low=0),
    opset=7,
)

# --- attention

for label, mask in (("", None), (" with a mask", normal(4, 6)), (" with truths", np.tri(4, 6, 2, dtype=bool))):
    case(
        f"scaled_dot_product_attention{label}",
        lambda mb, q, k, v, m=mask: mb.scaled_dot_product_attention(
            query=q, key=k, value=v, **({} if m is None else {"attn_mask": m})
        ),
        by_torch(
            lambda q, k, v, m=mask: functional.scaled_dot_product_attention(
                q, k, v, None if m is None else torch.tensor(m)
            )
        ),
        normal(2, 3, 4, 8),
        normal(2, 3, 6, 8),
        normal(2, 3, 6, 5),
        opset=8,
        tolerance=1e-5,
    )
