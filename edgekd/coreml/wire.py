"""Reads the bytes of a Core ML model: protocol buffers, by a table of the messages that an ML program is made of.

The table is Model.proto, FeatureTypes.proto and MIL.proto of apple/coremltools, field by field. What is not in it, a
field that comes twice where one is allowed, or a type of field other than the table's is refused: a newer format and a
damaged file look alike, and neither may pass for something that it is not. It is here so that a package can be checked
where there is no coremltools, and without the seconds that its import takes.
"""

from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgekd.coreml.program import quote
from edgekd.errors import ConvertError

Message = dict[str, Any]
"""Field name -> value; a field that is not there has no key."""

DEEPEST = 100
"""Messages within messages, as in Google's own readers."""
MOST_FIELDS = 2**21
"""A field costs a few bytes of file and some hundred of memory."""

_SCHEMA: Final[dict[str, dict[int, str]]] = {
    # "name kind": a kind is a message or a scalar, `*` many of it, `<kind>` a map from strings to it; `ints`, `floats`
    # and `doubles` are many numbers; `bytes` stands also for messages that nobody looks into
    "Model": {
        1: "specificationVersion int", 2: "description ModelDescription", 10: "isUpdatable bool", 202: "pipeline bytes",
        402: "treeEnsembleClassifier bytes", 403: "neuralNetworkClassifier bytes", 500: "neuralNetwork bytes",
        502: "mlProgram Program", 2000: "textClassifier bytes", 3000: "serializedModel bytes",
    },
    "ModelDescription": {
        1: "input FeatureDescription*", 10: "output FeatureDescription*", 11: "predictedFeatureName string",
        12: "predictedProbabilitiesName string", 13: "state FeatureDescription*", 20: "functions FunctionDescription*",
        21: "defaultFunctionName string", 50: "trainingInput bytes*", 100: "metadata Metadata",
    },
    "FunctionDescription": {
        1: "name string", 2: "input FeatureDescription*", 3: "output FeatureDescription*",
        4: "predictedFeatureName string", 5: "predictedProbabilitiesName string", 6: "state FeatureDescription*",
    },
    "Metadata": {
        1: "shortDescription string", 2: "versionString string", 3: "author string", 4: "license string",
        100: "userDefined <string>",
    },
    "FeatureDescription": {1: "name string", 2: "shortDescription string", 3: "type FeatureType"},
    "FeatureType": {
        1: "int64Type bytes", 2: "doubleType bytes", 3: "stringType bytes", 4: "imageType ImageFeatureType",
        5: "multiArrayType ArrayFeatureType", 6: "dictionaryType bytes", 7: "sequenceType bytes",
        8: "stateType StateFeatureType", 1000: "isOptional bool",
    },
    "ImageFeatureType": {
        1: "width int", 2: "height int", 3: "colorSpace int", 21: "enumeratedSizes EnumeratedImageSizes",
        31: "imageSizeRange ImageSizeRange",
    },
    "EnumeratedImageSizes": {1: "sizes ImageSize*"}, "ImageSize": {1: "width int", 2: "height int"},
    "ImageSizeRange": {1: "widthRange SizeRange", 2: "heightRange SizeRange"},
    "SizeRange": {1: "lowerBound int", 2: "upperBound int"},
    "ArrayFeatureType": {
        1: "shape ints", 2: "dataType int", 21: "enumeratedShapes EnumeratedShapes", 31: "shapeRange ShapeRange",
        41: "intDefaultValue int", 51: "floatDefaultValue float", 61: "doubleDefaultValue double",
    },
    "EnumeratedShapes": {1: "shapes Shape*"}, "Shape": {1: "shape ints"}, "ShapeRange": {1: "sizeRanges SizeRange*"},
    "StateFeatureType": {1: "arrayType ArrayFeatureType"},
    "Program": {1: "version int", 2: "functions <Function>", 3: "docString string", 4: "attributes <bytes>"},
    "Function": {
        1: "inputs NamedValueType*", 2: "opset string", 3: "block_specializations <Block>", 4: "attributes <bytes>",
    },
    "Block": {
        1: "inputs NamedValueType*", 2: "outputs string*", 3: "operations Operation*", 4: "attributes <bytes>",
    },
    "Operation": {
        1: "type string", 2: "inputs <Argument>", 3: "outputs NamedValueType*", 4: "blocks Block*",
        5: "attributes <Value>",
    },
    "Argument": {1: "arguments Binding*"},
    "Binding": {1: "name string", 2: "value Value"},
    "NamedValueType": {1: "name string", 2: "type ValueType"},
    "ValueType": {
        1: "tensorType TensorType", 2: "listType ListType", 3: "tupleType TupleType",
        4: "dictionaryType DictionaryType", 5: "stateType StateType",
    },
    "TensorType": {1: "dataType int", 2: "rank int", 3: "dimensions Dimension*", 4: "attributes <bytes>"},
    "TupleType": {1: "types ValueType*"},
    "ListType": {1: "type ValueType", 2: "length Dimension"},
    "DictionaryType": {1: "keyType ValueType", 2: "valueType ValueType"},
    "StateType": {1: "wrappedType ValueType"},
    "Dimension": {1: "constant ConstantDimension", 2: "unknown UnknownDimension"},
    "ConstantDimension": {1: "size int"}, "UnknownDimension": {1: "variadic bool"},
    "Value": {
        1: "docString string", 2: "type ValueType", 3: "immediateValue ImmediateValue",
        5: "blobFileValue BlobFileValue",
    },
    "ImmediateValue": {1: "tensor TensorValue", 2: "tuple ManyValues", 3: "list ManyValues", 4: "dictionary bytes"},
    "BlobFileValue": {1: "fileName string", 2: "offset int"},
    "TensorValue": {
        1: "floats Floats", 2: "ints Ints", 3: "bools Ints", 4: "strings Strings", 5: "longInts Ints",
        6: "doubles Doubles", 7: "bytes Bytes",
    },
    "Floats": {1: "values floats"}, "Doubles": {1: "values doubles"}, "Ints": {1: "values ints"},
    "Strings": {1: "values string*"}, "Bytes": {1: "values bytes"}, "ManyValues": {1: "values Value*"},
}  # fmt: skip

_VARINT, _LENGTH = 0, 2
_FIXED: Final = {1: ("<f8", 8), 5: ("<f4", 4)}
_WIRE_TYPES: Final = {"int": 0, "bool": 0, "ints": 0, "double": 1, "doubles": 1, "float": 5, "floats": 5}


class _Field:
    """What the table says of one field."""

    __slots__ = ("is_map", "is_many", "is_numbers", "kind", "name", "wire_types")

    def __init__(self, entry: str) -> None:
        self.name, kind = entry.split()
        self.is_many, self.is_map = kind.endswith("*"), kind.startswith("<")
        self.kind = kind.strip("<*>")
        self.is_numbers = self.kind in ("ints", "floats", "doubles")
        one = _WIRE_TYPES.get(self.kind, _LENGTH)
        self.wire_types = (one, _LENGTH) if self.is_numbers else (one,)  # numbers come packed or one at a time


_FIELDS: Final = {
    message: {number: _Field(entry) for number, entry in fields.items()} for message, fields in _SCHEMA.items()
}
_ENTRY_KEYS: Final = (1 << 3 | _LENGTH, 2 << 3 | _LENGTH)


def decode(content: bytes, where: str) -> Message:
    """The fields of a Model, and of all that is in it.

    Raises:
        ConvertError: damaged, of a newer format, too deep, or of more fields than MOST_FIELDS.
    """
    return _Reader(content, where).message("Model", 0, len(content), DEEPEST)


class _Reader:
    """A position is passed on and returned, so that the same methods read messages within messages."""

    def __init__(self, content: bytes, where: str) -> None:
        self.content, self.where, self.left = content, where, MOST_FIELDS

    def fail(self, what: str) -> NoReturn:
        raise ConvertError(f"{self.where}: {what}", hint="the file is damaged, or of a format newer than this edgekd")

    def message(self, kind: str, at: int, end: int, depth: int) -> Message:
        if depth == 0:
            self.fail("nested too deeply")
        fields, found = _FIELDS[kind], Message()
        while at < end:
            key, at = self.varint(at, end)
            field, wire_type = fields.get(key >> 3), key & 7
            if field is None or wire_type not in field.wire_types:
                self.fail(f"{kind} has a field {key >> 3} of type {wire_type}, which is not known")
            start = at
            if wire_type == _VARINT:
                number, at = self.varint(at, end)
            elif wire_type == _LENGTH:
                number, start = self.varint(at, end)
                at = start + number
            else:
                number, at = 0, at + _FIXED[wire_type][1]
            if at > end:
                self.fail(f"{field.name} is cut off")
            self.note(field, number, start, at, depth, found)
        for name in [name for name, value in found.items() if type(value) is _Chunks]:
            found[name] = np.concatenate(found[name])
        return found

    def note(self, field: _Field, number: int, start: int, stop: int, depth: int, found: Message) -> None:
        """Add one field, which is a number or stands between two positions."""
        self.left -= 1
        if self.left < 0:
            self.fail(f"more than {MOST_FIELDS} fields")
        if field.is_map:
            self.entry(field, start, stop, depth, found.setdefault(field.name, {}))
        elif field.is_numbers:
            found.setdefault(field.name, _Chunks()).append(self.numbers(field, start, stop))
        elif field.is_many:
            found.setdefault(field.name, []).append(self.value(field.kind, number, start, stop, depth))
        elif field.name in found:
            self.fail(f"{field.name} is there twice")
        else:
            found[field.name] = self.value(field.kind, number, start, stop, depth)

    def value(self, kind: str, number: int, start: int, stop: int, depth: int) -> Any:
        match kind:
            case "int":
                return number - 2**64 if number >= 2**63 else number
            case "bool":
                return bool(number)
            case "float" | "double":
                return float(np.frombuffer(self.content, "<f4" if kind == "float" else "<f8", 1, start)[0])
            case "bytes":
                return self.content[start:stop]
            case "string":
                try:
                    return self.content[start:stop].decode()
                except UnicodeDecodeError:
                    self.fail("a name is not UTF-8 text")
        return self.message(kind, start, stop, depth - 1)

    def entry(self, field: _Field, at: int, stop: int, depth: int, entries: Message) -> None:
        """Add one pair of a map: key 1 and value 2, either of which is left out when it is empty."""
        parts: dict[int, tuple[int, int]] = {}
        while at < stop:
            key, at = self.varint(at, stop)
            size, at = self.varint(at, stop)
            if key not in _ENTRY_KEYS or key in parts or at + size > stop:
                self.fail(f"{field.name} has an entry that is no pair")
            parts[key], at = (at, at + size), at + size
        first, last = (parts.get(key, (stop, stop)) for key in _ENTRY_KEYS)
        name = self.value("string", 0, *first, depth)
        if name in entries:
            self.fail(f"{field.name} has {quote(name)} twice")
        entries[name] = self.value(field.kind, 0, *last, depth)

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """An unsigned number of at most 64 bits, seven to a byte, and where it ends."""
        if at < end and (byte := self.content[at]) < 0x80:
            return byte, at + 1
        result = shift = 0
        while at < end and shift < 70:
            byte = self.content[at]
            result |= (byte & 0x7F) << shift
            at += 1
            if byte < 0x80:
                return result & 2**64 - 1, at
            shift += 7
        return self.fail("a number is cut off or too long")

    def numbers(self, field: _Field, start: int, stop: int) -> NDArray[Any]:
        chunk, wire_type = self.content[start:stop], field.wire_types[0]
        if wire_type != _VARINT:
            dtype, size = _FIXED[wire_type]
            return self.fail(f"{field.name} is cut off") if len(chunk) % size else np.frombuffer(chunk, dtype)
        raw = np.frombuffer(chunk, np.uint8)
        last = raw < 0x80
        if last.all():
            return raw.astype(np.int64)
        ends = np.flatnonzero(last)
        starts = np.concatenate([[0], ends[:-1] + 1])
        lengths = ends - starts + 1 if last[-1] else np.array([99])
        if lengths.max() > 10:
            self.fail(f"a number of {field.name} is cut off or too long")
        shifts = 7 * (np.arange(raw.size) - np.repeat(starts, lengths)).astype(np.uint64)
        return np.add.reduceat((raw & np.uint8(0x7F)).astype(np.uint64) << shifts, starts).view(np.int64)


class _Chunks(list[NDArray[Any]]):
    """Numbers of one field, as they came."""
