"""Single operators of ONNX, written by hand, in forms that exporters do not emit: each a model and what it is fed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """An operator with its inputs: arrays are fed, and those in `constants` stored in the file."""

    operator: str
    opset: int
    inputs: tuple[Array | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    constants: tuple[int, ...] = ()
    outputs: int = 1
    domain: str = ""

    def __str__(self) -> str:
        told = "-".join(f"{key}={value}" for key, value in self.attributes.items() if key != "body")
        return f"{self.operator}-{self.opset}-{told}"[:90]

    def model(self) -> Any:
        """The file, as onnx has it."""
        import onnx
        from onnx import helper, numpy_helper

        names = ["" if one is None else f"x{at}" for at, one in enumerate(self.inputs)]
        outputs = [f"y{at}" for at in range(self.outputs)]
        node = helper.make_node(self.operator, names, outputs, name="node", domain=self.domain, **self.attributes)
        stored, fed = [], []
        for at, (name, array) in enumerate(zip(names, self.inputs, strict=True)):
            if array is not None and at in self.constants:
                stored.append(numpy_helper.from_array(array, name))
            elif array is not None:
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                fed.append(helper.make_tensor_value_info(name, kind, array.shape))
        infos = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph([node], "g", fed, infos, stored)
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(self.domain, 1)] if self.domain else []
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def feeds(self) -> dict[str, Array]:
        """Input -> array."""
        return {
            f"x{at}": array for at, array in enumerate(self.inputs) if array is not None and at not in self.constants
        }


def floats(*shape: int, seed: int = 0) -> Array:
    """Seeded normal numbers."""
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def ints(*numbers: int) -> Array:
    """A list of 64-bit integers."""
    return np.array(numbers, np.int64)


def cases() -> list[Case]:
    """All of them."""
    return [
        *_convolutions(), *_pools(), *_resizes(), *_normalizations(), *_shapes(), *_indices(), *_reductions(),
        *_arithmetic(), *_recurrent(), *_quantized(),
    ]  # fmt: skip


def _convolutions() -> Iterator[Case]:
    image, weight, bias = floats(2, 4, 9, 10), floats(6, 4, 3, 3), floats(6)
    for attributes in (
        {}, {"pads": [1, 1, 1, 1]}, {"pads": [0, 1, 2, 1], "strides": [2, 1]}, {"dilations": [2, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {"auto_pad": "SAME_LOWER", "strides": [2, 3]},
        {"auto_pad": "VALID"},
    ):  # fmt: skip
        yield Case("Conv", 11, (image, weight, bias), attributes, (1, 2))
    yield Case("Conv", 11, (image, floats(8, 2, 3, 1)), {"group": 2, "pads": [1, 0, 1, 0]}, (1,))
    yield Case("Conv", 11, (floats(1, 3, 11), floats(5, 3, 4)), {"pads": [2, 1]}, (1,))
    yield Case("Conv", 11, (floats(1, 2, 5, 6, 7), floats(3, 2, 2, 3, 3)), {"strides": [1, 2, 2]}, (1,))
    back = floats(4, 3, 3, 3)
    for attributes in (
        {}, {"strides": [2, 2]}, {"strides": [2, 3], "pads": [1, 1, 1, 1], "output_padding": [1, 2]},
        {"strides": [2, 2], "pads": [0, 1, 1, 0]}, {"strides": [2, 2], "output_shape": [18, 20]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, {"strides": [3, 3], "auto_pad": "SAME_LOWER"},
        {"dilations": [2, 2]},
    ):  # fmt: skip
        yield Case("ConvTranspose", 11, (image, back, floats(3)), attributes, (1, 2))
    yield Case("ConvTranspose", 11, (image, floats(4, 3, 2, 2)), {"group": 2, "strides": [2, 2]}, (1,))
    yield Case("ConvTranspose", 11, (floats(1, 4, 7), floats(4, 2, 5)), {"strides": [4], "pads": [1, 2]}, (1,))


def _pools() -> Iterator[Case]:
    image = floats(2, 3, 10, 11)
    for ceil in (0, 1):
        for extra in (
            {}, {"strides": [2, 2]}, {"strides": [3, 2], "pads": [1, 1, 1, 1]},
            {"strides": [2, 2], "pads": [0, 1, 2, 0]},
        ):  # fmt: skip
            window = {"kernel_shape": [3, 3], "ceil_mode": ceil, **extra}
            yield Case("MaxPool", 12, (image,), window)
            for count in (0, 1):
                yield Case("AveragePool", 11, (image,), window | {"count_include_pad": count})
    for count in (0, 1):
        window = {"kernel_shape": [3, 2], "dilations": [2, 3], "pads": [1, 1, 1, 1], "count_include_pad": count}
        yield Case("AveragePool", 19, (image,), window)
    yield Case("MaxPool", 12, (image,), {"kernel_shape": [2, 3], "dilations": [3, 2], "strides": [2, 1]})
    yield Case("MaxPool", 12, (image,), {"kernel_shape": [2, 2], "strides": [2, 2]}, outputs=2)
    yield Case("MaxPool", 12, (image,), {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]})
    yield Case("AveragePool", 11, (image,), {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"})
    yield Case("AveragePool", 11, (floats(1, 2, 9),), {"kernel_shape": [4], "strides": [2]})
    yield Case("LpPool", 11, (image,), {"kernel_shape": [2, 2], "p": 3, "strides": [2, 2]})
    for operator in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
        yield Case(operator, 7, (image,))


def _resizes() -> Iterator[Case]:
    image = floats(1, 2, 6, 7)
    grown, shrunk = ints(1, 2, 9, 14), ints(1, 2, 4, 3)
    for sizes in (grown, shrunk):
        given = (image, None, None, sizes)
        for coordinates in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"):
            common = {"coordinate_transformation_mode": coordinates}
            yield Case("Resize", 13, given, common | {"mode": "linear"}, (3,))
            yield Case("Resize", 13, given, common | {"mode": "cubic"}, (3,))
            for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
                yield Case("Resize", 13, given, common | {"mode": "nearest", "nearest_mode": rounding}, (3,))
    scales = np.array([1, 1, 2.5, 0.6], np.float32)
    for attributes in (
        {"mode": "nearest"}, {"mode": "linear"}, {"mode": "cubic", "cubic_coeff_a": -0.5},
        {"mode": "cubic", "exclude_outside": 1},
    ):  # fmt: skip
        yield Case("Resize", 13, (image, None, scales), attributes, (2,))
    for mode in ("linear", "cubic"):
        yield Case("Resize", 18, (image, None, None, shrunk), {"mode": mode, "antialias": 1}, (3,))
    yield Case("Resize", 18, (image, None, None, ints(9, 3)), {"mode": "linear", "axes": [2, 3]}, (3,))
    yield Case("Resize", 10, (image, scales), {"mode": "linear"}, (1,))
    asymmetric = {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}
    yield Case("Resize", 13, (floats(1, 2, 3000), None, None, ints(1, 2, 4000)), asymmetric, (3,))
    for mode in ("nearest", "linear"):
        yield Case("Upsample", 7, (image,), {"mode": mode, "scales": [1.0, 1.0, 2.0, 3.0]})
        yield Case("Upsample", 9, (image, np.array([1, 1, 2, 2], np.float32)), {"mode": mode}, (1,))


def _normalizations() -> Iterator[Case]:
    image, each = floats(2, 6, 5, 4), floats(6)
    variance = np.abs(floats(6, seed=1)) + 0.5
    for opset in (7, 9, 15):
        yield Case("BatchNormalization", opset, (image, each, each, each, variance), {"epsilon": 1e-3}, (1, 2, 3, 4))
    yield Case("InstanceNormalization", 7, (image, each, each), {}, (1, 2))
    yield Case("LayerNormalization", 17, (image, floats(4), floats(4, seed=2)), {}, (1, 2))
    yield Case("LayerNormalization", 17, (image, floats(5, 4)), {"axis": 2}, (1,), outputs=3)
    yield Case("GroupNormalization", 21, (image, each, each), {"num_groups": 3}, (1, 2))
    yield Case("LpNormalization", 7, (image,), {"axis": 1, "p": 1})
    yield Case("LpNormalization", 7, (image,), {"axis": -1, "p": 2})
    yield Case("MeanVarianceNormalization", 13, (image,))
    for size in (3, 5):
        yield Case("LRN", 7, (image,), {"size": size, "alpha": 0.5, "beta": 0.6, "bias": 1.5})
    yield Case("Dropout", 7, (image,))
    yield Case("Dropout", 13, (image, np.float32(0.4), np.array(False)), {}, (1, 2))
    yield Case("SkipLayerNormalization", 17, (floats(2, 3, 8), floats(2, 3, 8, seed=1), floats(8), floats(8, seed=1),
               floats(8, seed=2)), {"epsilon": 1e-5}, (2, 3, 4), domain="com.microsoft")  # fmt: skip


def _shapes() -> Iterator[Case]:
    data = floats(3, 4, 5)
    yield Case("Reshape", 7, (data, ints(0, -1)), {}, (1,))
    yield Case("Flatten", 7, (data,), {"axis": 2})
    yield Case("Flatten", 13, (data,), {"axis": -1})
    yield Case("Squeeze", 7, (floats(1, 3, 1),), {"axes": [0]})
    yield Case("Squeeze", 13, (floats(1, 3, 1), ints(-1)), {}, (1,))
    yield Case("Unsqueeze", 7, (data,), {"axes": [0, 4]})
    yield Case("Unsqueeze", 13, (data, ints(-1, 1)), {}, (1,))
    yield Case("Transpose", 7, (data,))
    yield Case("Transpose", 7, (data,), {"perm": [1, 0, 2]})
    yield Case("Expand", 8, (floats(3, 1), ints(2, 1, 6)), {}, (1,))
    yield Case("Tile", 7, (data, ints(1, 2, 3)), {}, (1,))
    yield Case("Concat", 7, (data, floats(3, 2, 5)), {"axis": -2})
    yield Case("Split", 7, (data,), {"axis": 1, "split": [1, 3]}, outputs=2)
    yield Case("Split", 13, (data, ints(2, 2)), {"axis": 1}, (1,), outputs=2)
    yield Case("Split", 18, (data,), {"axis": 2, "num_outputs": 3}, outputs=3)
    yield Case("Slice", 7, (data,), {"axes": [1, 2], "starts": [1, -3], "ends": [1000, -1]})
    yield Case("Slice", 13, (data, ints(3, -1), ints(0, -6), ints(1, 2), ints(-1, -2)), {}, (1, 2, 3, 4))
    yield Case("Slice", 13, (data, ints(0), ints(10), ints(-2), ints(3)), {}, (1, 2, 3, 4))
    yield Case("Pad", 7, (data,), {"pads": [0, 1, 2, 1, 0, -1], "value": 0.5})
    pads = ints(0, 0, 1, 2, 0, 0, 2, 1)
    for mode in ("constant", "reflect", "edge"):
        yield Case("Pad", 13, (floats(1, 2, 5, 6), pads), {"mode": mode}, (1,))
        yield Case("Pad", 13, (data, ints(1, 2, 0, 2, 1, 3)), {"mode": mode}, (1,))
    yield Case("Pad", 19, (data, ints(2, 1), None, ints(2)), {"mode": "wrap"}, (1, 3))
    for mode in ("DCR", "CRD"):
        yield Case("DepthToSpace", 11, (floats(1, 8, 2, 3),), {"blocksize": 2, "mode": mode})
    yield Case("SpaceToDepth", 7, (floats(1, 3, 4, 6),), {"blocksize": 2})
    yield Case("ReverseSequence", 10, (data, ints(1, 3, 2)), {"batch_axis": 0, "time_axis": 1}, (1,))
    yield Case("Shape", 15, (data,), {"start": 1})
    yield Case("Size", 7, (data,))


def _indices() -> Iterator[Case]:
    data = floats(5, 4, 3)
    yield Case("Gather", 7, (data, ints(0, 4, 2)), {"axis": 0}, (1,))
    yield Case("Gather", 13, (data, ints(-1, 1).reshape(1, 2)), {"axis": 1}, (1,))
    yield Case("Gather", 13, (data, ints(-1, 1).reshape(1, 2)), {"axis": 1})
    yield Case("Gather", 13, (data, np.int64(2)), {"axis": 2}, (1,))
    yield Case("Gather", 13, (floats(9, 4), ints(3, 0, 8).reshape(1, 3)), {}, (0,))
    yield Case("GatherElements", 13, (data, np.full((5, 2, 3), -1, np.int64)), {"axis": 1})
    yield Case("GatherND", 13, (data, ints(0, 1, 4, -1).reshape(2, 2)))
    yield Case("GatherND", 13, (data, ints(1, 0, 3, 2, 1).reshape(5, 1)), {"batch_dims": 1})
    places, updates = ints(0, 2, 1, 1).reshape(2, 2), floats(2, 2)
    for reduction in ("none", "add", "mul", "max", "min"):
        yield Case("ScatterElements", 18, (floats(4, 3), places, updates), {"axis": 1, "reduction": reduction})
        yield Case("ScatterND", 18, (floats(4, 3), ints(1, 3).reshape(2, 1), floats(2, 3)), {"reduction": reduction})
    yield Case("OneHot", 11, (ints(1, -1, 7), ints(4), np.array([2, 5], np.float32)), {"axis": 0}, (1, 2))
    yield Case("TopK", 9, (data,), {"k": 2, "axis": 1}, outputs=2)
    yield Case("TopK", 11, (data, ints(2)), {"largest": 0, "axis": 0}, (1,), outputs=2)
    for exclusive, backwards in ((0, 0), (1, 0), (0, 1), (1, 1)):
        yield Case("CumSum", 14, (data, np.int64(1)), {"exclusive": exclusive, "reverse": backwards}, (1,))
    for upper in (0, 1):
        yield Case("Trilu", 14, (floats(4, 5), np.int64(-1)), {"upper": upper}, (1,))
    yield Case("Compress", 11, (data, np.array([True, False, True])), {"axis": 0}, (1,))
    yield Case("NonZero", 13, (np.array([[1, 0], [0, 2]], np.int64),), {}, (0,))
    yield Case("Where", 9, (data > 0, data, floats(1, 3)))


def _reductions() -> Iterator[Case]:
    data = floats(2, 3, 4) + 3
    for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"):
        yield Case(f"Reduce{name}", 11, (data,), {"axes": [0, -1], "keepdims": 0})
        yield Case(f"Reduce{name}", 18, (data, ints(1)), {}, (1,))
        yield Case(f"Reduce{name}", 18, (data,), {"noop_with_empty_axes": 0})
    yield Case("ReduceSum", 13, (data,), {"noop_with_empty_axes": 1})
    rounded = np.round(floats(3, 6))
    for name in ("ArgMax", "ArgMin"):
        for last in (0, 1):
            yield Case(name, 13, (rounded,), {"axis": 1, "select_last_index": last, "keepdims": last})
    for opset in (7, 11, 13):
        for name in ("Softmax", "LogSoftmax", "Hardmax"):
            yield Case(name, opset, (data,), {"axis": 1})
            yield Case(name, opset, (data,))


def _arithmetic() -> Iterator[Case]:
    data, other = floats(2, 3, 4), floats(3, 1, seed=1)
    for name in ("Add", "Sub", "Mul", "Div", "PRelu", "Max", "Min", "Mean", "Sum"):
        yield Case(name, 13, (data, other))
    whole = np.array([[7, -7, 9]], np.int64)
    yield Case("Div", 13, (whole, np.array([2, 2, -4], np.int64)))
    yield Case("Mod", 13, (whole, np.array([3, 3, -4], np.int64)))
    yield Case("Mod", 13, (data, other), {"fmod": 1})
    yield Case("Pow", 13, (np.abs(data), other))
    yield Case("Pow", 13, (whole, np.float32(2)), {}, (1,))
    for name in (
        "Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Mish",
        "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tanh", "Celu",
        "ThresholdedRelu", "Shrink", "IsNaN",
    ):  # fmt: skip
        yield Case(name, 18, (data,))
    yield Case("PRelu", 13, (floats(1, 3, 4, 4), floats(3, 1, 1)), {}, (1,))
    yield Case("HardSigmoid", 13, (data,), {"alpha": 1 / 6, "beta": 0.5})
    for approximate in ("none", "tanh"):
        yield Case("Gelu", 20, (data,), {"approximate": approximate})
    yield Case("Clip", 7, (data,), {"min": -0.5})
    yield Case("Clip", 13, (data, None, np.float32(0.4)), {}, (2,))
    yield Case("Clip", 13, (data, np.array(-0.1, np.float32), np.array(0.4, np.float32)))
    yield Case("IsInf", 13, (np.array([1, np.inf, -np.inf], np.float32),), {"detect_negative": 0})
    yield Case("Cast", 13, (data * 5,), {"to": 7})
    yield Case("Einsum", 12, (floats(2, 3, 4), floats(2, 4, 5)), {"equation": "bij, bjk -> bik"})
    yield Case("MatMul", 13, (floats(2, 3, 4), floats(4, 5)), {}, (1,))
    yield Case("MatMul", 13, (floats(4), floats(2, 4, 5)))
    yield Case("Gemm", 13, (floats(4, 2), floats(5, 4), floats(2, 1)), {"transA": 1, "transB": 1, "alpha": 0.5})
    yield Case("Gemm", 13, (floats(2, 4), floats(4, 5), floats(5)), {"beta": 2.0}, (1, 2))
    yield Case("Gemm", 13, (floats(2, 4), floats(4, 5), floats(5)), {}, (1, 2))
    yield Case(
        "FusedMatMul", 13, (floats(2, 4, 3), floats(2, 4, 5)), {"transA": 1, "alpha": 0.3}, domain="com.microsoft"
    )


def _recurrent() -> Iterator[Case]:
    data = floats(6, 2, 3)
    for kind, gates, outputs in (("LSTM", 4, 3), ("GRU", 3, 2), ("RNN", 1, 2)):
        for direction, count in (("forward", 1), ("reverse", 1), ("bidirectional", 2)):
            given = (data, floats(count, gates * 5, 3), floats(count, gates * 5, 5), floats(count, 2 * gates * 5))
            common = {"hidden_size": 5, "direction": direction}
            yield Case(kind, 14, given, common, (1, 2, 3), outputs=outputs)
            if kind == "GRU":
                yield Case(kind, 14, given, common | {"linear_before_reset": 1}, (1, 2, 3), outputs=outputs)
            yield Case(kind, 14, given, common | {"clip": 0.7}, (1, 2, 3), outputs=outputs)
        yield Case(kind, 14, (data, floats(1, gates * 5, 3), floats(1, gates * 5, 5)), {"hidden_size": 5}, (1, 2))
        state = floats(1, 2, 5)
        given = (data, floats(1, gates * 5, 3), floats(1, gates * 5, 5), None, None, state)
        yield Case(kind, 14, given, {"hidden_size": 5}, (1, 2), outputs=outputs)
    given = (data, floats(1, 20, 3), floats(1, 20, 5), floats(1, 40), None, None, None, floats(1, 15))
    yield Case("LSTM", 14, given, {"hidden_size": 5}, (1, 2, 3, 7), outputs=3)
    given = (data, floats(1, 5, 3), floats(1, 5, 5))
    yield Case("RNN", 14, given, {"hidden_size": 5, "activations": ["Relu"]}, (1, 2), outputs=2)


def _quantized() -> Iterator[Case]:
    random = np.random.default_rng(0)
    data, weight = random.integers(0, 255, (1, 3, 6, 6), np.uint8), random.integers(-60, 60, (4, 3, 3, 3), np.int8)
    scale, zero = np.float32(0.02), np.uint8(120)
    each, none = np.abs(floats(4)) * 0.01 + 0.001, np.zeros(4, np.int8)
    given = (data, scale, zero, weight, each, none, np.float32(0.1), np.uint8(128), np.arange(4, dtype=np.int32))
    yield Case("QLinearConv", 10, given, {"pads": [1, 1, 1, 1]}, tuple(range(1, 9)))
    yield Case("ConvInteger", 10, (data, weight.view(np.uint8), zero, np.uint8(3)), {}, (1, 2, 3))
    rows, columns = random.integers(0, 255, (4, 5), np.uint8), random.integers(0, 255, (5, 3), np.uint8)
    yield Case("MatMulInteger", 10, (rows, columns, np.uint8(7), np.uint8(11)), {}, (1, 2, 3))
    given = (rows, scale, zero, columns, scale, np.uint8(3), np.float32(0.05), np.uint8(90))
    yield Case("QLinearMatMul", 10, given, {}, (1, 2, 3, 4, 5, 6, 7))
    yield Case("QuantizeLinear", 13, (floats(3, 4), np.abs(floats(4)) + 0.01, none), {"axis": 1}, (1, 2))
    yield Case("QuantizeLinear", 10, (floats(3, 4), np.float32(0.03), np.uint8(100)), {}, (1, 2))
    yield Case("DequantizeLinear", 13, (weight, np.abs(floats(3)) + 0.01, none[:3]), {"axis": 1}, (1, 2))
    yield Case("DynamicQuantizeLinear", 11, (floats(3, 4),), outputs=3)
