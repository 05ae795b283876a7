"""Small model files of every format, made by the formats' own libraries and by none of our converters."""

import json
from pathlib import Path
from typing import Any

import numpy as np


def tflite(
    path: Path,
    *,
    metadata: dict[str, bytes] | None = None,
    factors: tuple[float, float] = (1.0, 1.0),
    activation: str = "NONE",
) -> Path:
    """Two 1x1 convolutions and an addition, with a signature, and a second subgraph with a custom operator.

    The weights of the convolutions are multiplied by `factors`, and `activation` is fused into the first.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    random = np.random.default_rng(0)
    model = schema.ModelT()
    model.version, model.description = 3, "made by hand"
    model.buffers = [_buffer(b"")]

    def constant(values: Any) -> int:
        model.buffers.append(_buffer(np.asarray(values, np.float32).tobytes()))
        return len(model.buffers) - 1

    def code(builtin: int, version: int, custom: str | None = None) -> Any:
        made = schema.OperatorCodeT()
        made.deprecatedBuiltinCode, made.builtinCode, made.version = min(builtin, 127), builtin, version
        made.customCode = custom
        return made

    kinds = schema.BuiltinOperator
    model.operatorCodes = [code(kinds.CONV_2D, 3), code(kinds.ADD, 1), code(kinds.CUSTOM, 2, "Spectrum")]
    pixels, weights = [1, 4, 4, 2], [2, 1, 1, 2]
    main = schema.SubGraphT()
    main.tensors = [
        _tensor("image", pixels),
        _tensor("w1", weights, constant(random.normal(size=4) * factors[0])),
        _tensor("b1", [2], constant([0.1, -0.2])),
        _tensor("blocks.0.conv", pixels),
        _tensor("w2", weights, constant(random.normal(size=4) * factors[1])),
        _tensor("blocks.0.conv", pixels),
        _tensor("blocks.1", pixels),
    ]
    main.inputs, main.outputs, main.name = [0], [6], "main"
    main.operators = [
        _operator(0, [0, 1, 2], [3], schema.BuiltinOptions.Conv2DOptions, _conv(activation)),
        _operator(0, [3, 4, 2], [5], schema.BuiltinOptions.Conv2DOptions, _conv()),
        _operator(1, [3, 5], [6], schema.BuiltinOptions.AddOptions, schema.AddOptionsT()),
    ]
    body = schema.SubGraphT()
    body.tensors = [_tensor("image", pixels), _tensor("out", pixels)]
    body.inputs, body.outputs, body.name = [0], [1], "body"
    body.operators = [_operator(2, [0], [1], 0, None)]
    model.subgraphs = [main, body]
    model.signatureDefs = [_signature("serving_default", {"image": 0}, {"sum": 6})]
    model.metadata = []
    for name, value in (metadata or {}).items():
        entry = schema.MetadataT()
        model.buffers.append(_buffer(value))
        entry.name, entry.buffer = name, len(model.buffers) - 1
        model.metadata.append(entry)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def torch_twin(activation: str = "NONE") -> Any:
    """The torch module that `tflite` is a file of."""
    import torch
    from torch import nn

    class Twin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            random = np.random.default_rng(0)
            self.first, self.second = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
            self.norm = nn.BatchNorm2d(2, eps=0.0)  # which does nothing
            for conv in (self.first, self.second):
                conv.weight.data = torch.tensor(random.normal(size=4).reshape(2, 2, 1, 1), dtype=torch.float32)
                conv.bias.data = torch.tensor([0.1, -0.2])

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            found = self.norm(self.first(image))
            found = torch.relu(found) if activation == "RELU" else found
            return found + self.second(found)

    return Twin().eval()


def _buffer(data: bytes) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    made = schema.BufferT()
    made.data = np.frombuffer(data, np.uint8) if data else None
    return made


def _tensor(name: str, shape: list[int], buffer: int = 0) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    made = schema.TensorT()
    made.name, made.shape, made.buffer, made.type = name, shape, buffer, schema.TensorType.FLOAT32
    return made


def _operator(code: int, inputs: list[int], outputs: list[int], kind: int, options: Any) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    made = schema.OperatorT()
    made.opcodeIndex, made.inputs, made.outputs = code, inputs, outputs
    made.builtinOptionsType, made.builtinOptions = kind, options
    return made


def _conv(activation: str = "NONE") -> Any:
    from ai_edge_litert import schema_py_generated as schema

    made = schema.Conv2DOptionsT()
    made.fusedActivationFunction = getattr(schema.ActivationFunctionType, activation)
    made.strideH = made.strideW = made.dilationHFactor = made.dilationWFactor = 1
    return made


def _signature(key: str, inputs: dict[str, int], outputs: dict[str, int]) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    def maps(tensors: dict[str, int]) -> list[Any]:
        made = []
        for name, index in tensors.items():
            one = schema.TensorMapT()
            one.name, one.tensorIndex = name, index
            made.append(one)
        return made

    made = schema.SignatureDefT()
    made.signatureKey, made.inputs, made.outputs, made.subgraphIndex = key, maps(inputs), maps(outputs), 0
    return made


def onnx(path: Path, *, external: bool = False, properties: dict[str, str] | None = None) -> Path:
    """Two convolutions, an addition, and an If with a graph in each branch."""
    import onnx as library
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)

    def branch(name: str, kind: str) -> Any:
        node = helper.make_node(kind, ["blocks.0.conv_out"], [f"{name}_out"], name=name)
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        return helper.make_graph([node], name, [], [out])

    weights = [random.normal(size=(2, 2, 1, 1)).astype(np.float32) for _ in range(2)]
    yes = numpy_helper.from_array(np.array(True))
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["blocks.0.conv_out"], name="blocks.0.conv"),
        helper.make_node("Conv", ["blocks.0.conv_out", "w2"], ["again"], name="blocks.0.conv:1"),
        helper.make_node("Constant", [], ["yes"], value=yes),
        helper.make_node(
            "If", ["yes"], ["chosen"], then_branch=branch("then", "Neg"), else_branch=branch("else", "Abs")
        ),
        helper.make_node("Add", ["again", "chosen"], ["sum"], name="blocks.1"),
    ]
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 2, 4, 4])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1, 2, 4, 4])],
        [numpy_helper.from_array(value, f"w{number}") for number, value in enumerate(weights, 1)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="a test")
    library.helper.set_model_props(model, properties or {})
    if external:
        library.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)
    else:
        path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def openvino(path: Path, *, properties: dict[str, str] | None = None) -> Path:
    """Two convolutions and an addition; the weights are in a .bin beside it."""
    import openvino as library
    from openvino import opset13 as ops

    random = np.random.default_rng(0)
    image = ops.parameter([1, 2, 4, 4], np.float32, name="image")
    image.output(0).set_names({"image"})
    none = [0, 0]
    weights = [ops.constant(random.normal(size=(2, 2, 1, 1)).astype(np.float32)) for _ in range(2)]
    first = ops.convolution(image, weights[0], [1, 1], none, none, [1, 1], name="blocks.0.conv")
    second = ops.convolution(first, weights[1], [1, 1], none, none, [1, 1], name="blocks.0.conv:1")
    total = ops.add(first, second, name="blocks.1")
    total.output(0).set_names({"sum"})
    model = library.Model([total], [image], "small")
    for key, value in (properties or {}).items():
        model.set_rt_info(value, key.split("."))
    library.serialize(model, path, path.with_suffix(".bin"))
    return path


def coreml(path: Path, *, properties: dict[str, str] | None = None) -> Path:
    """Two convolutions and an addition, encoded by hand as MIL.proto and Model.proto have it."""
    from edgekd.formats._protobuf import encode, encode_number

    random = np.random.default_rng(0)

    def type_of(shape: list[int]) -> bytes:
        sizes = b"".join(encode(3, encode(1, encode_number(1, size))) for size in shape)
        return encode(1, encode_number(1, 11) + encode_number(2, len(shape)) + sizes)

    def named(name: str, shape: list[int]) -> bytes:
        return encode(1, name.encode()) + encode(2, type_of(shape))

    def entry(field: int, key: str, value: bytes) -> bytes:
        return encode(field, encode(1, key.encode()) + encode(2, value))

    def operation(kind: str, name: str, inputs: dict[str, bytes], shape: list[int]) -> bytes:
        arguments = b"".join(entry(2, key, encode(1, value)) for key, value in inputs.items())
        return encode(3, encode(1, kind.encode()) + arguments + encode(3, named(name, shape)))

    def value_of(name: str) -> bytes:
        return encode(1, name.encode())

    def weights() -> bytes:
        numbers = random.normal(size=4).astype("<f4").tobytes()
        return encode(2, encode(2, type_of([2, 2, 1, 1])) + encode(3, encode(1, encode(1, encode(1, numbers)))))

    pixels = [1, 2, 4, 4]
    block = operation("conv", "first", {"x": value_of("image"), "weight": weights()}, pixels)
    block += operation("conv", "second", {"x": value_of("first"), "weight": weights()}, pixels)
    block += operation("add", "sum", {"x": value_of("first"), "y": value_of("second")}, pixels)
    block += encode(2, b"sum")
    function = encode(1, named("image", pixels)) + encode(2, b"CoreML5") + entry(3, "CoreML5", block)

    def feature(name: str) -> bytes:
        array = b"".join(encode_number(1, size) for size in pixels) + encode_number(2, 65568)
        return encode(1, name.encode()) + encode(3, encode(5, array))

    told = dict(properties or {})
    if told:
        paths = {"first": "blocks.0.conv", "second": "blocks.0.conv", "sum": "blocks.1"}
        told["edgekd.layers"] = json.dumps(paths)
    metadata = encode(100, b"".join(entry(100, key, value.encode()) for key, value in told.items()))
    description = encode(1, feature("image")) + encode(10, feature("sum")) + metadata
    model = encode_number(1, 6) + encode(2, description) + encode(502, encode_number(1, 1) + entry(2, "main", function))
    item = {
        "author": "com.apple.CoreML",
        "description": "",
        "name": "model.mlmodel",
        "path": "com.apple.CoreML/model.mlmodel",
    }
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": {"a": item}, "rootModelIdentifier": "a"}
    (path / "Data" / "com.apple.CoreML").mkdir(parents=True)
    (path / "Manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (path / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(model)
    return path


MAKERS = {"tflite": tflite, "onnx": onnx, "openvino": openvino, "coreml": coreml}
SUFFIXES = {"tflite": ".tflite", "onnx": ".onnx", "openvino": ".xml", "coreml": ".mlpackage"}
"""Format -> a function that makes a small file, and its ending."""


def tflite_metadata() -> bytes:
    """TFLite's own metadata: name, description, licence, and a file of labels of the output."""
    import flatbuffers

    builder = flatbuffers.Builder(256)

    def text(value: str) -> int:
        return int(builder.CreateString(value))

    def vector(place: int) -> int:
        builder.StartVector(4, 1, 4)
        builder.PrependUOffsetTRelative(place)
        return int(builder.EndVector())

    def table(fields: dict[int, int]) -> int:
        builder.StartObject(8)
        for field, place in fields.items():
            builder.PrependUOffsetTRelativeSlot(field, place, 0)
        return int(builder.EndObject())

    labels = text("labels.txt")
    builder.StartObject(5)
    builder.PrependUOffsetTRelativeSlot(0, labels, 0)
    builder.PrependInt8Slot(2, 2, 0)
    file = int(builder.EndObject())
    output = vector(table({6: vector(file)}))
    subgraphs = vector(table({3: output}))
    words = {0: text("pets"), 1: text("tells pets apart"), 5: text("Apache-2.0")}
    builder.Finish(table({**words, 3: subgraphs}), b"M001")
    return bytes(builder.Output())


def int8_dense(path: Path, custom: str = "") -> Path:
    """One fully connected layer in int8, 16 numbers to 4; `custom` names an operator that takes its place."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    random = np.random.default_rng(0)
    model, main, code = schema.ModelT(), schema.SubGraphT(), schema.OperatorCodeT()
    weights, bias = random.integers(-127, 128, (4, 16)).astype(np.int8), np.arange(4, dtype=np.int32)
    model.version = 3
    model.buffers = [_buffer(b""), _buffer(weights.tobytes()), _buffer(bias.tobytes())]
    kind = schema.BuiltinOperator.CUSTOM if custom else schema.BuiltinOperator.FULLY_CONNECTED
    code.deprecatedBuiltinCode, code.builtinCode, code.version = kind, kind, 4
    code.customCode = custom or None
    model.operatorCodes = [code]
    options = schema.FullyConnectedOptionsT()
    main.tensors = [
        _quantized("numbers", [1, 16], schema.TensorType.INT8, 0.5, -3),
        _quantized("weights", [4, 16], schema.TensorType.INT8, 0.01, 0, 1),
        _quantized("bias", [4], schema.TensorType.INT32, 0.005, 0, 2),
        _quantized("scores", [1, 4], schema.TensorType.INT8, 0.25, 7),
    ]
    main.inputs, main.outputs = [0], [3]
    given = (0, None) if custom else (schema.BuiltinOptions.FullyConnectedOptions, options)
    main.operators = [_operator(0, [0, 1, 2], [3], *given)]
    model.subgraphs = [main]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def _quantized(name: str, shape: list[int], kind: int, scale: float, zero_point: int, buffer: int = 0) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    made = _tensor(name, shape, buffer)
    made.type, made.quantization = kind, schema.QuantizationParametersT()
    made.quantization.scale = np.array([scale], np.float32)
    made.quantization.zeroPoint = np.array([zero_point], np.int64)
    return made


def transposed_mean(order: list[int], axes: list[int], keep: bool) -> bytes:
    """A .tflite that averages a transposed (1, 3, 4, 5) over some axes."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model, main, codes = schema.ModelT(), schema.SubGraphT(), []
    for kind in (schema.BuiltinOperator.TRANSPOSE, schema.BuiltinOperator.MEAN):
        code = schema.OperatorCodeT()
        code.deprecatedBuiltinCode, code.builtinCode, code.version = kind, kind, 1
        codes.append(code)
    model.version, model.operatorCodes = 3, codes
    model.buffers = [_buffer(b""), *(_buffer(np.array(one, np.int32).tobytes()) for one in (order, axes))]
    shape = [[1, 3, 4, 5][axis] for axis in order]
    left = [1 if axis in axes else size for axis, size in enumerate(shape) if keep or axis not in axes]
    main.tensors = [
        _tensor("image", [1, 3, 4, 5]),
        _tensor("order", [4], 1),
        _tensor("turned", shape),
        _tensor("axes", [len(axes)], 2),
        _tensor("mean", left),
    ]
    for index in (1, 3):
        main.tensors[index].type = schema.TensorType.INT32
    options = schema.ReducerOptionsT()
    options.keepDims = keep
    main.inputs, main.outputs = [0], [4]
    main.operators = [
        _operator(0, [0, 1], [2], schema.BuiltinOptions.TransposeOptions, schema.TransposeOptionsT()),
        _operator(1, [2, 3], [4], schema.BuiltinOptions.ReducerOptions, options),
    ]
    model.subgraphs = [main]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
