"""What a .tflite file says of itself, as apps and Android Studio read it.

The table is TFLite's model metadata, https://github.com/tensorflow/tflite-support (metadata_schema.fbs, identifier
M001), packed by hand since its package installs on few Pythons. Slots below are the numbers of that schema's fields.
Labels lie in a .zip behind the model. Everything of ours stands once more, whole, in an entry "edgekd".
"""

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, Final

from edgekd.specs import TensorSpec

PARSER_VERSION: Final = "1.0.0"
"""The least that understands all that is written here."""
LABELS: Final = "labels.txt"

_TENSOR_AXIS_LABELS: Final = 2
_FEATURE_PROPERTIES: Final = 1
_IMAGE_PROPERTIES: Final = 2
_NORMALIZATION_OPTIONS: Final = 1
_COLOUR_SPACES: Final = {3: 1, 1: 2}
"""Channels -> RGB, GRAYSCALE."""


def describe(
    model: Any, properties: dict[str, str], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Add the metadata to a model; `inputs` and `outputs` as the file has them."""
    from ai_edge_litert import schema_py_generated as schema

    entries = {
        "TFLITE_METADATA": _table(properties, inputs, outputs),
        "edgekd": json.dumps(properties, sort_keys=True).encode(),
    }
    model.description = properties.get("edgekd.title", "").encode() or model.description
    model.metadata = model.metadata or []
    for name, content in entries.items():
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = list(content)
        entry.name, entry.buffer = name.encode(), len(model.buffers)
        model.buffers.append(buffer)
        model.metadata.append(entry)


def append_labels(content: bytes, properties: dict[str, str]) -> bytes:
    """The file with its classes behind it, a line each."""
    classes = _classes(properties)
    if not classes:
        return content
    packed = io.BytesIO(content)
    with zipfile.ZipFile(packed, "a") as archive:
        entry = zipfile.ZipInfo(LABELS)  # of 1980, so that equal models are equal files
        entry.create_system = 3
        archive.writestr(entry, "".join(f"{' '.join(name.splitlines())}\n" for name in classes))
    return packed.getvalue()


def _table(properties: dict[str, str], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    classes = _classes(properties)
    subgraph = _fields(
        builder,
        10,
        {
            2: _offsets(builder, [_input(builder, properties, spec) for spec in inputs]),
            3: _offsets(builder, [_output(builder, classes, spec) for spec in outputs]),
        },
    )
    title = properties.get("edgekd.title", "")
    model = _fields(
        builder,
        8,
        {
            0: _text(builder, properties.get("edgekd.run", "") or title),
            1: _text(builder, title),
            3: _offsets(builder, [subgraph]),
            4: _text(builder, properties.get("edgekd.author", "")),
            5: _text(builder, properties.get("edgekd.licence", "") or properties.get("edgekd.data_licence", "")),
            7: _text(builder, PARSER_VERSION),
        },
    )
    builder.Finish(model, b"M001")
    return bytes(builder.Output())


def _input(builder: Any, properties: dict[str, str], spec: TensorSpec) -> int:
    image = spec.layout == "NHWC" and len(spec.shape) == 4
    preprocessing = _decoded(properties, "edgekd.preprocessing") if image else None
    channels = spec.shape[-1] if image else 0
    units = []
    if isinstance(preprocessing, dict) and len(preprocessing.get("mean", ())) in {1, channels}:
        units.append(_normalization(builder, preprocessing))
    fields = {0: _text(builder, spec.name), 3: _content(builder, channels, image), 4: _offsets(builder, units)}
    return _fields(builder, 7, fields)


def _output(builder: Any, classes: Sequence[str], spec: TensorSpec) -> int:
    files = []
    if classes and spec.shape and spec.shape[-1] == len(classes):
        byte = {2: (builder.PrependInt8Slot, _TENSOR_AXIS_LABELS)}
        files.append(_fields(builder, 5, {0: _text(builder, LABELS)}, byte))
    fields = {0: _text(builder, spec.name), 3: _content(builder, 0, False), 6: _offsets(builder, files)}
    return _fields(builder, 7, fields)


def _content(builder: Any, channels: int, image: bool) -> int:
    """That a tensor is an image, or numbers."""
    if not image:
        properties, which = _fields(builder, 0, {}), _FEATURE_PROPERTIES
    else:
        colours = {0: (builder.PrependInt8Slot, _COLOUR_SPACES.get(channels, 0))}
        properties, which = _fields(builder, 2, {}, colours), _IMAGE_PROPERTIES
    return _fields(builder, 3, {1: properties}, {0: (builder.PrependUint8Slot, which)})


def _normalization(builder: Any, preprocessing: dict[str, Any]) -> int:
    """(pixel - mean) / std, pixels in 0..255."""
    floats = {field: _floats(builder, preprocessing[key]) for field, key in enumerate(("mean", "std"))}
    options = _fields(builder, 2, floats)
    return _fields(builder, 2, {1: options}, {0: (builder.PrependUint8Slot, _NORMALIZATION_OPTIONS)})


# --- FlatBuffers


def _fields(
    builder: Any, slots: int, offsets: dict[int, int], numbers: dict[int, tuple[Callable[..., None], int]] | None = None
) -> int:
    """A table: slot -> what it points to (0 leaves it out), and slot -> how to write a number."""
    builder.StartObject(slots)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, (prepend, number) in (numbers or {}).items():
        prepend(slot, number, 0)
    made: int = builder.EndObject()
    return made


def _text(builder: Any, text: str) -> int:
    made: int = builder.CreateString(text) if text else 0
    return made


def _offsets(builder: Any, offsets: Sequence[int]) -> int:
    if not offsets:
        return 0
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    made: int = builder.EndVector()
    return made


def _floats(builder: Any, values: Sequence[float]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(float(value))
    made: int = builder.EndVector()
    return made


def _classes(properties: dict[str, str]) -> list[str]:
    found = _decoded(properties, "edgekd.classes")
    return [str(name) for name in found] if isinstance(found, list) else []


def _decoded(properties: dict[str, str], key: str) -> Any:
    """A property that is JSON; None where it is not there, or is something else."""
    try:
        return json.loads(properties.get(key, "null"))
    except ValueError:
        return None
