"""Reads the bytes of a Core ML model: protocol buffers, by a table of the messages that an ML program is made of.

The table is Model.proto, FeatureTypes.proto and MIL.proto of apple/coremltools, field by field. What is not in it, a
field that comes twice where one is allowed, or a type of field other than the table's is refused: a newer format and a
damaged file look alike, and neither may pass for something that it is not. It is here so that a package can be checked
where there is no coremltools, and without the seconds that its import takes.
"""

from collections.abc import Callable
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import ConvertError

Message = dict[str, Any]
"""Field name -> value; a field that is not there has no key."""

DEEPEST = 100
"""Messages within messages, as in Google's own readers."""
MOST_MESSAGES = 2**21
"""A message costs a few bytes of file and a few hundred of memory."""

_SCHEMA: Final[dict[str, dict[int, str]]] = {
    # "name kind": a kind is a message, a scalar, `*` many of it, `<kind>` a map from strings to it
    "Model": {
        1: "specificationVersion int", 2: "description ModelDescription", 10: "isUpdatable bool",
        200: "pipelineClassifier bytes", 201: "pipelineRegressor bytes", 202: "pipeline bytes",
        300: "glmRegressor bytes", 301: "supportVectorRegressor bytes", 302: "treeEnsembleRegressor bytes",
        303: "neuralNetworkRegressor bytes", 304: "bayesianProbitRegressor bytes", 400: "glmClassifier bytes",
        401: "supportVectorClassifier bytes", 402: "treeEnsembleClassifier bytes", 403: "neuralNetworkClassifier bytes",
        404: "kNearestNeighborsClassifier bytes", 500: "neuralNetwork bytes", 501: "itemSimilarityRecommender bytes",
        502: "mlProgram Program", 555: "customModel bytes", 556: "linkedModel bytes",
        560: "classConfidenceThresholding bytes", 600: "oneHotEncoder bytes", 601: "imputer bytes",
        602: "featureVectorizer bytes", 603: "dictVectorizer bytes", 604: "scaler bytes",
        606: "categoricalMapping bytes", 607: "normalizer bytes", 609: "arrayFeatureExtractor bytes",
        610: "nonMaximumSuppression bytes",
        900: "identity bytes", 2000: "textClassifier bytes", 2001: "wordTagger bytes", 2002: "visionFeaturePrint bytes",
        2003: "soundAnalysisPreprocessing bytes", 2004: "gazetteer bytes", 2005: "wordEmbedding bytes",
        2006: "audioFeaturePrint bytes", 3000: "serializedModel bytes",
    },
    "ModelDescription": {
        1: "input FeatureDescription*", 10: "output FeatureDescription*", 11: "predictedFeatureName string",
        12: "predictedProbabilitiesName string", 13: "state FeatureDescription*", 20: "functions FunctionDescription*",
        21: "defaultFunctionName string", 50: "trainingInput FeatureDescription*", 100: "metadata Metadata",
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
        1: "int64Type Empty", 2: "doubleType Empty", 3: "stringType Empty", 4: "imageType ImageFeatureType",
        5: "multiArrayType ArrayFeatureType", 6: "dictionaryType DictionaryFeatureType",
        7: "sequenceType SequenceFeatureType", 8: "stateType StateFeatureType", 1000: "isOptional bool",
    },
    "Empty": {},
    "ImageFeatureType": {
        1: "width int", 2: "height int", 3: "colorSpace int", 21: "enumeratedSizes EnumeratedImageSizes",
        31: "imageSizeRange ImageSizeRange",
    },
    "EnumeratedImageSizes": {1: "sizes ImageSize*"},
    "ImageSize": {1: "width int", 2: "height int"},
    "ImageSizeRange": {1: "widthRange SizeRange", 2: "heightRange SizeRange"},
    "SizeRange": {1: "lowerBound int", 2: "upperBound int"},
    "ArrayFeatureType": {
        1: "shape ints", 2: "dataType int", 21: "enumeratedShapes EnumeratedShapes", 31: "shapeRange ShapeRange",
        41: "intDefaultValue int", 51: "floatDefaultValue float", 61: "doubleDefaultValue double",
    },
    "EnumeratedShapes": {1: "shapes Shape*"},
    "Shape": {1: "shape ints"},
    "ShapeRange": {1: "sizeRanges SizeRange*"},
    "DictionaryFeatureType": {1: "int64KeyType Empty", 2: "stringKeyType Empty"},
    "SequenceFeatureType": {1: "int64Type Empty", 3: "stringType Empty", 101: "sizeRange SizeRange"},
    "StateFeatureType": {1: "arrayType ArrayFeatureType"},
    "Program": {
        1: "version int", 2: "functions <Function>", 3: "docString string", 4: "attributes <Value>",
    },
    "Function": {
        1: "inputs NamedValueType*", 2: "opset string", 3: "block_specializations <Block>", 4: "attributes <Value>",
    },
    "Block": {
        1: "inputs NamedValueType*", 2: "outputs string*", 3: "operations Operation*", 4: "attributes <Value>",
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
    "TensorType": {1: "dataType int", 2: "rank int", 3: "dimensions Dimension*", 4: "attributes <Value>"},
    "TupleType": {1: "types ValueType*"},
    "ListType": {1: "type ValueType", 2: "length Dimension"},
    "DictionaryType": {1: "keyType ValueType", 2: "valueType ValueType"},
    "StateType": {1: "wrappedType ValueType"},
    "Dimension": {1: "constant ConstantDimension", 2: "unknown UnknownDimension"},
    "ConstantDimension": {1: "size int"},
    "UnknownDimension": {1: "variadic bool"},
    "Value": {
        1: "docString string", 2: "type ValueType", 3: "immediateValue ImmediateValue",
        5: "blobFileValue BlobFileValue",
    },
    "ImmediateValue": {1: "tensor TensorValue", 2: "tuple ManyValues", 3: "list ManyValues", 4: "dictionary Pairs"},
    "BlobFileValue": {1: "fileName string", 2: "offset int"},
    "TensorValue": {
        1: "floats Floats", 2: "ints Ints", 3: "bools Ints", 4: "strings Strings", 5: "longInts Ints",
        6: "doubles Doubles", 7: "bytes Bytes",
    },
    "Floats": {1: "values floats"},
    "Doubles": {1: "values doubles"},
    "Ints": {1: "values ints"},
    "Strings": {1: "values string*"},
    "Bytes": {1: "values bytes"},
    "ManyValues": {1: "values Value*"},
    "Pairs": {1: "values Pair*"},
    "Pair": {1: "key Value", 2: "value Value"},
}  # fmt: skip

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_WIRE_TYPES = {"int": _VARINT, "bool": _VARINT, "float": _FIXED32, "double": _FIXED64}
_MANY = {"ints": _VARINT, "floats": _FIXED32, "doubles": _FIXED64}
_FIXED = {_FIXED32: ("<f4", 4), _FIXED64: ("<f8", 8)}


class _Field:
    """What the table says of one field."""

    __slots__ = ("kind", "many", "map", "name", "wire_type")

    def __init__(self, entry: str) -> None:
        self.name, kind = entry.split()
        self.many, self.map = kind.endswith("*"), kind.startswith("<")
        self.kind = kind.strip("<*>")
        self.wire_type = _WIRE_TYPES.get(self.kind, _LENGTH)


_FIELDS: Final = {
    message: {number: _Field(entry) for number, entry in fields.items()} for message, fields in _SCHEMA.items()
}


def decode(content: bytes, where: str) -> Message:
    """The fields of a Model, and of all that is in it.

    Raises:
        ConvertError: damaged, of a newer format, too deep, or of more messages than MOST_MESSAGES.
    """
    return _Reader(content, where).message("Model", 0, len(content), DEEPEST)


class _Reader:
    """A position is passed on and returned, so that the same methods read messages within messages."""

    def __init__(self, content: bytes, where: str) -> None:
        self.content, self.where, self.left = content, where, MOST_MESSAGES

    def fail(self, what: str) -> NoReturn:
        raise ConvertError(f"{self.where}: {what}", hint="the file is damaged, or of a format newer than this edgekd")

    def message(self, kind: str, at: int, end: int, depth: int) -> Message:
        self.left -= 1
        if depth == 0 or self.left < 0:
            self.fail("nested too deeply" if depth == 0 else f"more than {MOST_MESSAGES} messages")
        fields, found = _FIELDS[kind], Message()
        while at < end:
            key, at = self.varint(at, end)
            field = fields.get(key >> 3)
            if field is None:
                self.fail(f"field {key >> 3} of {kind} is not known")
            if field.kind in _MANY:
                at = self.numbers(field, key & 7, at, end, found)
                continue
            if key & 7 != field.wire_type:
                self.fail(f"{kind}.{field.name} is written as something else")
            at = self.field(field, at, end, depth, found)
        for name in [name for name, value in found.items() if type(value) is _Chunks]:
            found[name] = found[name].joined()
        return found

    def field(self, field: _Field, at: int, end: int, depth: int, found: Message) -> int:
        """Read one field into `found`; where it ends."""
        value: Any
        if field.wire_type == _VARINT:
            value, at = self.varint(at, end)
            value = bool(value) if field.kind == "bool" else value - 2**64 if value >= 2**63 else value
        elif field.wire_type == _LENGTH:
            size, at = self.varint(at, end)
            stop = at + size
            if stop > end:
                self.fail(f"{field.name} is cut off")
            if field.map:
                self.entry(field, at, stop, depth, found)
                return stop
            value, at = self.value(field.kind, at, stop, depth), stop
        else:
            dtype, size = _FIXED[field.wire_type]
            if at + size > end:
                self.fail(f"{field.name} is cut off")
            value, at = float(np.frombuffer(self.content, dtype, 1, at)[0]), at + size
        if field.many:
            found.setdefault(field.name, []).append(value)
        elif field.name in found:
            self.fail(f"{field.name} is there twice")
        else:
            found[field.name] = value
        return at

    def value(self, kind: str, at: int, stop: int, depth: int) -> Any:
        if kind == "bytes":
            return self.content[at:stop]
        if kind != "string":
            return self.message(kind, at, stop, depth - 1)
        try:
            return self.content[at:stop].decode()
        except UnicodeDecodeError:
            self.fail("a name is not UTF-8 text")

    def entry(self, field: _Field, at: int, stop: int, depth: int, found: Message) -> None:
        """One pair of a map: a message of key 1 and value 2, either of which is left out when it is empty."""
        parts: dict[int, tuple[int, int]] = {}
        while at < stop:
            key, at = self.varint(at, stop)
            size, at = self.varint(at, stop)
            if key not in (1 << 3 | _LENGTH, 2 << 3 | _LENGTH) or key in parts or at + size > stop:
                self.fail(f"{field.name} has an entry that is no pair")
            parts[key], at = (at, at + size), at + size
        first, last = parts.get(1 << 3 | _LENGTH, (stop, stop)), parts.get(2 << 3 | _LENGTH, (stop, stop))
        name = self.value("string", *first, depth)
        entries = found.setdefault(field.name, {})
        if name in entries:
            self.fail(f"{field.name} has {name!r} twice")
        entries[name] = self.value(field.kind, *last, depth)

    def numbers(self, field: _Field, wire_type: int, at: int, end: int, found: Message) -> int:
        """Read many numbers, packed or one at a time, into `found`; where they end."""
        start, one = at, _MANY[field.kind]
        if wire_type == _LENGTH:
            size, start = self.varint(at, end)
            at = start + size
        elif wire_type != one:
            self.fail(f"{field.name} is written as something else")
        elif one == _VARINT:
            _, at = self.varint(at, end)
        else:
            at += _FIXED[one][1]
        if at > end:
            self.fail(f"{field.name} is cut off")
        chunk = self.content[start:at]
        if one == _VARINT:
            numbers: NDArray[Any] = self.varints(chunk, field.name)
        elif len(chunk) % _FIXED[one][1]:
            self.fail(f"{field.name} is cut off")
        else:
            numbers = np.frombuffer(chunk, _FIXED[one][0])
        found.setdefault(field.name, _Chunks()).append(numbers)
        return at

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

    def varints(self, chunk: bytes, name: str) -> NDArray[np.int64]:
        raw = np.frombuffer(chunk, np.uint8)
        last = raw < 0x80
        if last.all():
            return raw.astype(np.int64)
        ends = np.flatnonzero(last)
        starts = np.concatenate([[0], ends[:-1] + 1])
        lengths = ends - starts + 1
        if not last[-1] or lengths.max() > 10:
            self.fail(f"a number of {name} is cut off or too long")
        shifts = 7 * (np.arange(raw.size) - np.repeat(starts, lengths)).astype(np.uint64)
        return np.add.reduceat((raw & np.uint8(0x7F)).astype(np.uint64) << shifts, starts).view(np.int64)


class _Chunks(list[NDArray[Any]]):
    """Numbers of one field, as they came."""

    def joined(self) -> NDArray[Any]:
        join: Callable[..., NDArray[Any]] = np.concatenate
        return self[0] if len(self) == 1 else join(self)
