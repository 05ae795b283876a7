"""A .tflite as C, for a microcontroller's firmware: the file in an array, and what TensorFlow Lite Micro must be told.

The header is C and C++. Names begin with `model_`; of two models in one firmware one must be renamed.
"""

import json
import math
from pathlib import Path
from typing import Final

from edgekd import formats
from edgekd.errors import ConvertError
from edgekd.specs import Graph, TensorSpec

MARGIN: Final = 1.25
"""Of the arena that a header reserves to the one that was found: kernels made for a processor (CMSIS-NN) take scratch
memory that the reference kernels, which it was found with, do without."""
STEP: Final = 1024
ALIGNMENT: Final = 16
"""Bytes; what TensorFlow Lite Micro and Ethos-U want of a model and of an arena."""
BYTES_A_LINE: Final = 16
_LICENCES: Final = ("licence", "data_licence")
"""Properties that a file may have."""

_NAMES: Final = {
    "BATCH_MATMUL": "BatchMatMul",
    "CUMSUM": "CumSum",
    "PADV2": "PadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
    "CUSTOM:ethos-u": "EthosU",
}
"""Operators that MicroMutableOpResolver's functions are not called after by the rule."""


def reserved(arena_bytes: int) -> int:
    """Bytes to give an arena that was found to take so many: a quarter more, in whole KiB.

    >>> reserved(41_732) // 1024
    51
    """
    return math.ceil(arena_bytes * MARGIN / STEP) * STEP


def write_c(model: Path, arena_bytes: int, about: str, header: Path, source: Path) -> None:
    """Write both files; `arena_bytes` is what to reserve, `about` a line of where the model comes from.

    Raises:
        ConfigError: the model is no .tflite, or damaged.
        ConvertError: TensorFlow Lite Micro cannot be told of one of its operators.
    """
    graph = formats.read(model)
    header.write_text(_header(graph, arena_bytes, about), encoding="utf-8")
    source.write_text(_source(model.read_bytes(), header.name), encoding="utf-8")


def _source(content: bytes, header: str) -> str:
    lines = [
        ", ".join(f"0x{byte:02x}" for byte in content[start : start + BYTES_A_LINE])
        for start in range(0, len(content), BYTES_A_LINE)
    ]
    return "\n".join(
        [
            f'#include "{header}"',
            "",
            f"alignas({ALIGNMENT}) const unsigned char model_data[] = {{",
            *(f"    {line}," for line in lines),
            "};",
            f"const unsigned int model_data_len = {len(content)};",
            "",
        ]
    )


def _header(graph: Graph, arena_bytes: int, about: str) -> str:
    if not graph.operators:
        raise ConvertError("the model has no operators")
    adds = [f"Add{_resolver_name(kind)}" for kind in sorted({one.kind for one in graph.operators})]
    kept = [(name, graph.properties[f"edgekd.{name}"]) for name in _LICENCES if f"edgekd.{name}" in graph.properties]
    return "\n".join(
        [
            f"// {_line(about)}",
            *(f"// {name.replace('_', ' ')}: {_line(licence)}" for name, licence in kept),
            "#ifndef EDGEKD_MODEL_H_",
            "#define EDGEKD_MODEL_H_",
            "",
            "#ifdef __cplusplus",
            'extern "C" {',
            "#endif",
            "extern const unsigned char model_data[];",
            "extern const unsigned int model_data_len;",
            "#ifdef __cplusplus",
            "}",
            "#endif",
            "",
            f"// What was found, and a quarter more; the arena itself is aligned to {ALIGNMENT} bytes.",
            f"#define MODEL_ARENA_BYTES {arena_bytes}",
            *_ends("INPUT", graph.inputs),
            *_ends("OUTPUT", graph.outputs),
            "",
            f"#define MODEL_OPERATORS {len(adds)}",
            "#ifdef __cplusplus",
            "// For a tflite::MicroMutableOpResolver<MODEL_OPERATORS>; returns kTfLiteOk or the first error.",
            "template <typename Resolver>",
            "auto model_add_operators(Resolver& resolver) {",
            f"  auto status = resolver.{adds[0]}();",
            *(f"  if (!status) status = resolver.{one}();" for one in adds[1:]),
            "  return status;",
            "}",
            "#endif",
            "",
            "#endif",
            "",
        ]
    )


def _ends(what: str, tensors: tuple[TensorSpec, ...]) -> list[str]:
    """Of each input or output a comment and its numbers."""
    found = ["", f"#define MODEL_{what}S {len(tensors)}"]
    for index, one in enumerate(tensors):
        name = f"MODEL_{what}_{index}"
        found.append(f"// {_line(one.name)}: {one.dtype}, of shape {' x '.join(map(str, one.shape))}")
        found.append(f"#define {name}_ELEMENTS {math.prod(one.shape)}")
        if one.scale:
            found.append(f"#define {name}_SCALE {one.scale!r}f  // value = scale * (integer - zero point)")
            found.append(f"#define {name}_ZERO_POINT ({one.zero_point})")
    return found


def _resolver_name(kind: str) -> str:
    """Of AddConv2D, for CONV_2D."""
    if kind in _NAMES:
        return _NAMES[kind]
    if kind.startswith(("CUSTOM:", "BUILTIN_")):
        raise ConvertError(f"TensorFlow Lite Micro has no operator {kind}")
    return "".join(part if part[0].isdigit() else part.capitalize() for part in kind.split("_"))


def _line(text: str) -> str:
    """What a file says, as a comment of one line that nothing can end or go on from."""
    return json.dumps(text, ensure_ascii=True)[1:-1].rstrip("\\").replace("??/", "? ?/")
