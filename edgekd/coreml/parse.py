"""Makes a Program of a decoded model, and checks that it holds together before anything of it is executed."""

import json
import math
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgekd.coreml.blobs import Weights, unpack
from edgekd.coreml.program import (
    DTYPE_BITS,
    OPSETS,
    Block,
    Constant,
    Feature,
    Kind,
    Named,
    Operation,
    Program,
    Type,
    describe,
    quote,
)
from edgekd.coreml.wire import Message
from edgekd.errors import ConvertError
from edgekd.specs import TensorSpec

_DTYPES: Final = {
    1: "bool", 2: "str", 10: "float16", 11: "float32", 12: "float64", 21: "int8", 22: "int16", 23: "int32", 24: "int64",
    25: "int4", 31: "uint8", 32: "uint16", 33: "uint32", 34: "uint64", 35: "uint4", 36: "uint2", 37: "uint1",
    38: "uint6", 39: "uint3",
}  # fmt: skip
_ARRAY_DTYPES: Final = {65568: "float32", 65600: "float64", 131104: "int32", 131080: "int8", 65552: "float16"}

_COLOURS: Final = {10: "GRAYSCALE", 20: "RGB", 30: "BGR", 40: "GRAYSCALE_FLOAT16"}

_FIELDS: Final = {
    "bool": "bools", "float32": "floats", "float64": "doubles", "str": "strings", "int16": "ints", "uint16": "ints",
    "int32": "ints", "int64": "longInts", "uint64": "longInts",
}  # fmt: skip
"""The field of a TensorValue that numbers of a type stand in; "bytes" for all others."""

HIGHEST_RANK = 16
LARGEST_SIZE = 2**53
"""Elements of a tensor, where numpy and torch still count without an overflow."""

Files = Callable[[str], Weights]
"""The weight file of a name such as "@model_path/weights/weight.bin"."""


def parse(model: Message, files: Files, where: str) -> Callable[[str, int], Program]:
    """What makes the program, once its SHA-256 and its size in bytes are known: files are read while it is parsed.

    Raises:
        ConvertError: not an ML program, or one that does not hold together.
    """
    return _Parser(files, where).model(model)


class _Parser:
    def __init__(self, files: Files, where: str) -> None:
        self._files, self._where = files, where
        self._types: dict[str, Type] = {}
        self._place = "the model"

    def fail(self, what: str, hint: str = "the file is damaged; write the package again") -> NoReturn:
        raise ConvertError(f"{self._where}: {self._place}: {what}", hint=hint)

    def one_of(self, message: Message, *names: str) -> str:
        """The one of these fields that is there."""
        found = [name for name in names if name in message]
        if len(found) != 1:
            self.fail(f"exactly one of {', '.join(names)} is needed, found {' and '.join(found) or 'none'}")
        return found[0]

    def text(self, message: Message, field: str) -> str:
        """A name that may not be empty."""
        found: str = message.get(field, "")
        if not found:
            self.fail(f"{field} is empty")
        return found

    # --- the model

    def model(self, model: Message) -> Callable[[str, int], Program]:
        kinds = [name for name in model if name not in ("specificationVersion", "description", "isUpdatable")]
        if kinds != ["mlProgram"]:
            found = kinds[0] if kinds else "empty model"
            self.fail(f"a {found}, not an ML program", hint="convert it with convert_to='mlprogram'")
        program, description = model["mlProgram"], model.get("description", {})
        if program.get("version") != 1:
            self.fail(f"ML program of version {program.get('version', 0)}, not 1", hint="upgrade edgekd")
        name, description = self.default_function(description)
        functions = program.get("functions", {})
        if name not in functions:
            self.fail(f"there is no function {quote(name)}")
        self._place = f"function {quote(name)}"
        opset, block = self.function(functions[name])
        features = self.features(description)
        inputs, states, outputs = self.interface(block, features)
        version = model.get("specificationVersion", 0)
        if version <= 0:
            self.fail("no specification version")
        metadata = self.metadata(description, block)

        def finish(sha256: str, size_bytes: int) -> Program:
            return Program(
                inputs=inputs,
                outputs=outputs,
                states=states,
                block=block,
                opset=opset,
                specification_version=version,
                metadata=metadata,
                features=features["input"],
                sha256=sha256,
                size_bytes=size_bytes,
            )

        return finish

    def default_function(self, description: Message) -> tuple[str, Message]:
        """Name of the function that is executed, and the description of its inputs and outputs."""
        several = description.get("functions", [])
        if not several:
            return "main", description
        name = description.get("defaultFunctionName") or "main"
        for one in several:
            if one.get("name") == name:
                return name, one | {"metadata": description.get("metadata", {})}
        return self.fail(f"the default function {quote(name)} is not described")

    def metadata(self, description: Message, block: Block) -> dict[str, str]:
        given = description.get("metadata", {})
        found: dict[str, str] = dict(given.get("userDefined", {}))
        names = {"author": "author", "license": "license", "versionString": "version"}
        for theirs, ours in (names | {"shortDescription": "short_description"}).items():
            if given.get(theirs):
                found[ours] = given[theirs]
        for operation in block.operations:
            for classes in operation.inputs.get("classes", ()) if operation.kind == "classify" else ():
                if isinstance(classes, Constant) and classes.type.kind == "list":
                    found["classes"] = json.dumps(list(map(self.scalar, classes.data)), ensure_ascii=False)
        return found

    def scalar(self, constant: Constant) -> Any:
        if constant.type.kind != "tensor" or constant.type.shape:
            self.fail("a class is neither a text nor a number")
        return constant.data.item()

    # --- what the description says

    def features(self, description: Message) -> dict[str, dict[str, Feature]]:
        """By "input", "output" and "state": name -> what is said of it."""
        found: dict[str, dict[str, Feature]] = {"input": {}, "output": {}, "state": {}}
        for role, features in found.items():
            for feature in description.get(role, []):
                name = self.text(feature, "name")
                self._place = f"{role} {quote(name)}"
                if name in features:
                    self.fail("described twice")
                features[name] = self.feature(feature.get("type", {}))
        return found

    def feature(self, kind: Message) -> Feature:
        optional = kind.pop("isOptional", False)
        if len(kind) != 1:
            self.fail("a type is missing or there are several")
        if "stateType" in kind:
            kind = {"multiArrayType": kind["stateType"].get("arrayType", {})}
        if "imageType" in kind:
            return self.image(kind["imageType"])
        return self.array(kind["multiArrayType"], optional) if "multiArrayType" in kind else Feature()

    def array(self, array: Message, optional: bool) -> Feature:
        dtype = _ARRAY_DTYPES.get(array.get("dataType", 0))
        if dtype is None:
            self.fail("an array of an unknown type")
        ranges = tuple(map(_range, array.get("shapeRange", {}).get("sizeRanges", [])))
        shapes = array.get("enumeratedShapes", {}).get("shapes", [])
        listed = tuple(_sizes(one.get("shape", ())) for one in shapes)
        default = next((array[name] for name in array if name.endswith("DefaultValue")), 0.0)
        return Feature(
            type=Type(dtype=dtype, shape=() if ranges or listed else _sizes(array.get("shape", ()))),
            default=float(default) if optional else None,
            ranges=ranges,
            listed=listed,
        )

    def image(self, image: Message) -> Feature:
        colours = _COLOURS.get(image.get("colorSpace", 0))
        if colours is None:
            self.fail("an image of unknown colours")
        sizes = image.get("imageSizeRange", {})
        ranges = [_range(sizes[name]) for name in ("heightRange", "widthRange") if name in sizes]
        listed = image.get("enumeratedSizes", {}).get("sizes", [])
        return Feature(
            colours=colours,
            ranges=tuple(ranges),
            listed=tuple((one.get("height", 0), one.get("width", 0)) for one in listed),
        )

    def interface(
        self, block: Block, features: Mapping[str, Mapping[str, Feature]]
    ) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs, states and outputs, in the order of the description, which has to agree with the function."""
        given = {one.name: one for one in block.inputs if one.type.kind != "state"}
        states = {one.name: one for one in block.inputs if one.type.kind == "state"}
        for one in block.inputs:
            inner = one.type.items[0] if one.type.kind == "state" else one.type
            if inner.kind != "tensor" or DTYPE_BITS.get(inner.dtype, 1) < 8:
                self.fail(f"the input {quote(one.name)} is a {inner.dtype or inner.kind}")
        outputs = {name: Named(name, self._types[name]) for name in block.outputs}
        for one in outputs.values():
            if one.type.kind not in ("tensor", "dictionary"):
                self.fail(f"the output {quote(one.name)} is a {one.type.kind}")
        for role, named in (("input", given), ("state", states), ("output", outputs)):
            if odd := set(named) ^ set(features[role]):
                self.fail(f"the function's {role}s and the described ones differ in {quote(min(odd))}")
            for name, feature in features[role].items():
                self._place = f"{role} {quote(name)}"
                self.agree(named[name].type, feature.type)
        return (  # type: ignore[return-value]  # three of them, as the loop has three
            *(
                tuple(describe(named[name]) for name in features[role])
                for role, named in (("input", given), ("state", states), ("output", outputs))
            ),
        )

    def agree(self, type_: Type, described: Type | None) -> None:
        inner = type_.items[0] if type_.kind == "state" else type_
        if described is None:
            return
        if inner.kind != "tensor" or inner.dtype != described.dtype:
            self.fail(f"the function has {inner.dtype or inner.kind}, the description {described.dtype}")
        pairs = zip(inner.shape, described.shape, strict=False)
        alike = len(inner.shape) == len(described.shape) and all(ours in (-1, theirs) for ours, theirs in pairs)
        if described.shape and inner.shape and not alike:
            self.fail(f"the function has shape {inner.shape}, the description {described.shape}")

    # --- the function

    def function(self, function: Message) -> tuple[str, Block]:
        opset = function.get("opset", "")
        if opset not in OPSETS:
            self.fail(f"op set {quote(opset)} is not known", hint=f"known: {', '.join(OPSETS)}")
        block = function.get("block_specializations", {}).get(opset)
        if block is None:
            self.fail(f"there is no block for op set {opset}")
        if block.get("inputs"):
            self.fail("the inputs of a function are the function's, not its block's")
        parsed = self.block(block, self.named(function.get("inputs", [])), ())
        made = (output for operation in parsed.operations for output in operation.outputs)
        self._types = {value.name: value.type for value in (*parsed.inputs, *made)}
        return opset, parsed

    def block(self, block: Message, inputs: tuple[Named, ...], outer: Container[str]) -> Block:
        """A block of which the operations may use `outer` names and its own."""
        own: set[str] = set()
        visible = _Either(outer, own)
        self.define(inputs, own)
        operations = []
        for message in block.get("operations", []):
            operations.append(self.operation(message, visible))
            self.define(operations[-1].outputs, own)
        outputs = tuple(block.get("outputs", []))
        for name in outputs:
            if name not in visible:
                self.fail(f"the output {quote(name)} is not defined")
        if len(set(outputs)) < len(outputs):
            self.fail("an output is there twice")
        return Block(inputs, tuple(operations), outputs)

    def define(self, values: Iterable[Named], own: set[str]) -> None:
        for value in values:
            if value.name in own:
                self.fail(f"{quote(value.name)} is defined twice")
            own.add(value.name)

    def operation(self, message: Message, visible: Container[str]) -> Operation:
        kind = self.text(message, "type")
        self._place = f"a {quote(kind)}"
        outputs = self.named(message.get("outputs", []))
        if outputs:
            self._place = f"{quote(kind)} of {quote(outputs[0].name)}"
        place = self._place
        attributes: dict[str, Message] = dict(message.get("attributes", {}))
        name = self.constant(attributes.pop("name")) if "name" in attributes else None
        inputs = {parameter: (self.constant(value),) for parameter, value in attributes.items()}
        bound: dict[str, tuple[str | Constant, ...]] = dict(inputs)
        for parameter, argument in message.get("inputs", {}).items():
            if parameter in bound:
                self.fail(f"{quote(parameter)} is an attribute and an input")
            bound[parameter] = tuple(self.binding(one, visible) for one in argument.get("arguments", []))
        inner = message.get("blocks", [])
        blocks = tuple(self.block(one, self.named(one.get("inputs", [])), visible) for one in inner)
        self._place = place
        if kind == "const":
            self.check_const(bound, outputs)
        if name is not None and name.type != Type(dtype="str"):
            self.fail("the name is not a text")
        title = str(name.data.item()) if name is not None else outputs[0].name if outputs else kind
        return Operation(kind, title, bound, outputs, blocks)

    def check_const(self, inputs: Mapping[str, tuple[str | Constant, ...]], outputs: tuple[Named, ...]) -> None:
        value = inputs.get("val", ("",))[0]
        if len(inputs) != 1 or not isinstance(value, Constant) or len(outputs) != 1:
            self.fail("not one value")
        if value.type != outputs[0].type:
            self.fail("the value's type is not the output's")

    def binding(self, binding: Message, visible: Container[str]) -> str | Constant:
        if self.one_of(binding, "name", "value") == "value":
            return self.constant(binding["value"])
        name: str = binding["name"]
        if name not in visible:
            self.fail(f"{quote(name)} is not defined before it is used")
        return name

    # --- types

    def named(self, messages: Iterable[Message]) -> tuple[Named, ...]:
        return tuple(Named(self.text(one, "name"), self.type(one.get("type", {}))) for one in messages)

    def type(self, message: Message) -> Type:
        field = self.one_of(message, "tensorType", "listType", "tupleType", "dictionaryType", "stateType")
        inner = message[field]
        if field == "tensorType":
            return self.tensor_type(inner)
        if field == "tupleType":
            return Type("tuple", items=tuple(self.type(one) for one in inner.get("types", [])))
        parts = {"listType": ("type",), "dictionaryType": ("keyType", "valueType"), "stateType": ("wrappedType",)}
        kind: dict[str, Kind] = {"listType": "list", "dictionaryType": "dictionary", "stateType": "state"}
        items = tuple(self.type(inner.get(part, {})) for part in parts[field])
        if field == "stateType" and (items[0].kind != "tensor" or -1 in items[0].shape):
            self.fail("a state is a tensor of a fixed shape")
        return Type(kind[field], items=items)

    def tensor_type(self, message: Message) -> Type:
        dtype = _DTYPES.get(message.get("dataType", 0))
        if dtype is None:
            self.fail(f"data type {message.get('dataType', 0)} is not known", hint="upgrade edgekd")
        dimensions = message.get("dimensions", [])
        if message.get("rank", 0) != len(dimensions):
            self.fail(f"rank {message.get('rank', 0)} with {len(dimensions)} dimensions")
        if message.get("attributes"):
            self.fail(f"a tensor type with the attribute {quote(min(message['attributes']))}")
        shape = tuple(map(self.dimension, dimensions))
        if len(shape) > HIGHEST_RANK or math.prod(abs(size) or 1 for size in shape) > LARGEST_SIZE:
            self.fail(f"a tensor of rank {len(shape)} and that size")
        return Type(dtype=dtype, shape=shape)

    def dimension(self, message: Message) -> int:
        if self.one_of(message, "constant", "unknown") == "unknown":
            if message["unknown"].get("variadic"):
                self.fail("a tensor of any rank")
            return -1
        size: int = message["constant"].get("size", 0)
        if not 0 <= size <= LARGEST_SIZE:
            self.fail(f"a dimension of {size % 2**64}")
        return size

    # --- constants

    def constant(self, message: Message) -> Constant:
        type_ = self.type(message.get("type", {}))
        if self.one_of(message, "immediateValue", "blobFileValue") == "blobFileValue":
            return Constant(type_, self.blob(type_, message["blobFileValue"]))
        immediate = message["immediateValue"]
        field = self.one_of(immediate, "tensor", "tuple", "list", "dictionary")
        if field != type_.kind or field == "dictionary":
            self.fail(f"a {field} where a {type_.kind} is said to be")
        if field == "tensor":
            return Constant(type_, self.immediate(type_, immediate["tensor"]))
        return Constant(type_, tuple(map(self.constant, immediate[field].get("values", []))))

    def blob(self, type_: Type, value: Message) -> NDArray[Any]:
        if type_.kind != "tensor" or type_.dtype not in DTYPE_BITS or -1 in type_.shape:
            self.fail("a weight that is not a tensor of numbers of a fixed shape")
        weights = self._files(value.get("fileName", ""))
        numbers = weights.read(value.get("offset", 0), type_.dtype, math.prod(type_.shape))
        return numbers.reshape(type_.shape)

    def immediate(self, type_: Type, value: Message) -> NDArray[Any]:
        field = _FIELDS.get(type_.dtype, "bytes")
        if self.one_of(value, *value) != field:
            self.fail(f"{type_.dtype} as {next(iter(value))}")
        count = math.prod(type_.shape)
        if -1 in type_.shape:
            self.fail("a constant of no fixed shape")
        content = value[field].get("values", b"" if field == "bytes" else [])
        if field == "bytes":
            return self.from_bytes(type_, content, count)
        if len(content) != count:
            self.fail(f"{len(content)} values for the shape {type_.shape}")
        if type_.dtype == "str":
            return np.array(content, object).reshape(type_.shape)
        numbers = np.asarray(content, np.float32 if not len(content) else None)
        if field in ("ints", "bools") and len(content) and not self.fits(numbers, type_.dtype):
            self.fail(f"a value beyond {type_.dtype}")
        return numbers.astype(type_.dtype).reshape(type_.shape)

    @staticmethod
    def fits(numbers: NDArray[Any], dtype: str) -> bool:
        low, high = (0, 1) if dtype == "bool" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
        return bool(low <= int(numbers.min()) and int(numbers.max()) <= high)

    def from_bytes(self, type_: Type, content: bytes, count: int) -> NDArray[Any]:
        bits = DTYPE_BITS[type_.dtype]
        if len(content) != -(-count * bits // 8):
            self.fail(f"{len(content)} bytes for {count} of {type_.dtype}")
        if bits < 8:
            numbers, rest = unpack(np.frombuffer(content, np.uint8), type_.dtype, count)
            if rest.any():
                self.fail("bits that belong to no number")
        else:
            numbers = np.frombuffer(content, np.dtype(type_.dtype).newbyteorder("<"))
        return numbers.reshape(type_.shape)


def _sizes(numbers: Iterable[Any]) -> tuple[int, ...]:
    return tuple(int(number) for number in numbers)


def _range(message: Message) -> tuple[int, int]:
    return message.get("lowerBound", 0), message.get("upperBound", 0)


class _Either:
    """The names of a block, which grow, and those around it, without a copy for each operation."""

    def __init__(self, outer: Container[str], own: set[str]) -> None:
        self._outer, self._own = outer, own

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._outer
