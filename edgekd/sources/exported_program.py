"""Programs that torch.export saved (.pt2).

torch.export.load executes what a file wants: it unpickles, evaluates texts of sizes, and fetches any function of torch
by its name. So the archive is read here, every text in it is checked, and torch loads a new archive that holds what
was checked and nothing else: weights as plain numbers, operators of ATen, and no code.
"""

import io
import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekd.errors import ConfigError, EdgekdError, UnsupportedOperator
from edgekd.sources import Model, ModelSource
from edgekd.sources._failures import FAILURES, clean, one_line

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

LARGEST: Final = 4 * 2**30
"""Bytes of all records."""
MOST_RECORDS: Final = 100_000
MOST_ELEMENTS: Final = 2**30
"""Of one weight."""

MODEL, WEIGHTS, CONSTANTS, SAMPLES = (
    "models/model.json",
    "data/weights/",
    "data/constants/",
    "data/sample_inputs/model.pt",
)
CONFIGS: Final = {WEIGHTS: "model_weights_config.json", CONSTANTS: "model_constants_config.json"}
PLAIN: Final = ("archive_format", "archive_version", "byteorder", ".data/version")

TARGET: Final = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed)\.(?!from_file)_?[a-z][A-Za-z0-9_]*(\.[A-Za-z]\w*)?"
    r"|torch\.ops\.higher_order\.(cond|wrap_with_autocast|wrap_with_set_grad_enabled)"
    r"|_operator\.(getitem|eq|ne|le|ge|lt|gt|neg|pos|mul|add|sub|floordiv|mod|pow|truediv|and_|or_|lshift|rshift)"
    r"|math\.trunc|torch\.sym_(not|int|float|ite|max|min|sqrt)"
)
HARMLESS: Final = re.compile(r"[\w.:+-]{0,1000}")
"""A name, a number, a type: neither a call nor a statement can be written with these letters."""
SYMBOL: Final = re.compile(r"Symbol\('([suz]\d{1,9})'(?:, (?:integer|nonnegative|nonzero|positive|real)=True)*\)")
POWER: Final = re.compile(r"Pow\(([suz]\d{1,9}), Integer\(-?\d\)\)")
SIZE: Final = re.compile(r"[A-Za-z0-9_ ,()+*/<>=-]{1,500}")
SIZE_WORD: Final = re.compile(
    r"[suz]\d+|\d{1,18}|Add|CeilDiv|CeilToInt|CleanDiv|Eq|False|FloatTrueDiv|FloorDiv|FloorToInt|Ge|Gt|IntTrueDiv"
    r"|Integer|Le|Lt|Max|Min|Mod|ModularIndexing|Mul|Ne|PythonMod|Rational|ToFloat|True|TruncToInt|Where|int_oo"
)
"""Without powers of numbers and shifts, which can take a lifetime."""
WORD: Final = re.compile(r"[A-Za-z0-9_]+")
FREE_TEXTS: Final = ("as_string", "as_strings")
"""Arguments of operators, which torch writes in quotes."""


class _ExportedProgram:
    suffixes: tuple[str, ...] = (".pt2",)

    def load(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Model:
        path = Path(name)
        try:
            records = _read(path)
            names, archive = _checked(records)
            return _model(_load(archive), names, shapes)
        except EdgekdError as error:
            raise type(error)(f"{path}: {error}", hint=error.hint) from error
        except (*FAILURES, RecursionError, OSError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{path}: not a program that torch.export saved: {one_line(error)}") from error


def _read(path: Path) -> dict[str, bytes]:
    """Records of the archive, without the folder that all are in."""
    if not path.is_file():
        raise ConfigError("no such file")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len(entries) > MOST_RECORDS or sum(entry.file_size for entry in entries) > LARGEST:
            raise ConfigError(f"more than {LARGEST} bytes or {MOST_RECORDS} records")
        records: dict[str, bytes] = {}
        for entry in entries:
            inner = entry.filename.partition("/")[2]
            if inner in records:
                raise ConfigError(f"record {clean(inner)!r} is there twice")
            with archive.open(entry) as opened:
                records[inner] = opened.read(entry.file_size)
    if MODEL not in records:
        raise ConfigError(
            "not a program that this torch saves" if "version" not in records else "saved by torch before 2.8",
            hint="save it again with torch.export.save",
        )
    return records


class _Names:
    """What the program calls its inputs and outputs."""

    def __init__(self, inputs: list[str], outputs: list[str]) -> None:
        self.inputs, self.outputs = inputs, outputs


def _checked(records: dict[str, bytes]) -> tuple[_Names, bytes]:
    """Names of inputs and outputs, and an archive of what was checked, in the order of torch's own."""
    made: dict[str, bytes] = {}
    for folder in (WEIGHTS, CONSTANTS):
        made.update(_checked_tensors(records, folder))
    program = json.loads(records[MODEL])
    names = _simplify(program)
    for node in _nodes(program["graph_module"]["graph"]):
        node["metadata"] = {}  # what the exporter remembers of somebody's source files
    _check_texts(program, "")
    made[MODEL] = json.dumps(program).encode()
    made[SAMPLES] = _samples(records.get(SAMPLES, b""), len(names.inputs))
    for name in PLAIN:
        if name in records:
            made[name] = records[name][:100]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, content in made.items():
            archive.writestr(f"model/{name}", content)
    return names, packed.getvalue()


def _checked_tensors(records: dict[str, bytes], folder: str) -> dict[str, bytes]:
    """The description of stored tensors, and their contents."""
    name = folder + CONFIGS[folder]
    table = json.loads(records[name])
    made: dict[str, bytes] = {}
    for entry in table["config"].values():
        path = str(entry["path_name"])
        if entry["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d{1,9}", path):
            raise UnsupportedOperator(
                f"{clean(path)!r} is not a plain tensor, and would be unpickled",
                hint="export a model whose weights are ordinary tensors: pickles can hold code",
            )
        sizes = [int(size["as_int"]) for size in entry["tensor_meta"]["sizes"]]
        if math.prod(sizes) > MOST_ELEMENTS or min(sizes, default=0) < 0:
            raise ConfigError(f"a weight of shape {tuple(sizes)}")
        made[folder + path] = records[folder + path]
    _check_texts(table, "")
    _to_cpu(table)
    made[name] = json.dumps(table).encode()
    return made


def _samples(content: bytes, count: int) -> bytes:
    """Example inputs, read as numbers alone, and written again without their nesting."""
    import torch

    if not content:
        raise ConfigError("it has no example inputs")
    try:
        args, kwargs = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError("its example inputs are not plain tensors, and would be unpickled") from error
    tensors = [leaf for leaf in _leaves([args, kwargs]) if isinstance(leaf, torch.Tensor)]
    if len(tensors) != count:
        raise ConfigError(f"it has {len(tensors)} example tensors for {count} inputs")
    written = io.BytesIO()
    torch.save((tuple(tensors), {}), written)
    return written.getvalue()


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        for part in tree.values():
            yield from _leaves(part)
    elif isinstance(tree, tuple | list):
        for part in tree:
            yield from _leaves(part)
    else:
        yield tree


# --- the program's text


def _simplify(program: dict[str, Any]) -> _Names:
    """Take guards and source files out, move everything to the processor, and flatten inputs and outputs."""
    import torch.utils._pytree as pytree

    graph_module = program["graph_module"]
    root = next(entry for entry in graph_module["module_call_graph"] if entry["fqn"] == "")
    signature = graph_module["signature"]
    inputs = [
        _input_name(spec) for spec in signature["input_specs"] if "user_input" in spec or "constant_input" in spec
    ]
    count = sum("user_output" in spec for spec in signature["output_specs"])
    outputs = list(_output_names(json.loads(root["signature"]["out_spec"])[1], ""))
    if len(outputs) != count or not count or len(inputs) > 1000:
        raise ConfigError(f"it has {count} outputs, and names for {len(outputs)}")
    leaves = tuple(range(len(inputs)))
    result: Any = tuple(range(count)) if count > 1 else 0
    root["signature"] = {
        "inputs": [],
        "outputs": [],
        "in_spec": pytree.treespec_dumps(pytree.tree_structure((leaves, {}))),
        "out_spec": pytree.treespec_dumps(pytree.tree_structure(result)),
        "forward_arg_names": None,
    }
    graph_module["module_call_graph"] = [root]
    graph_module["metadata"], graph_module["treespec_namedtuple_fields"] = {}, {}
    program["guards_code"] = []
    _to_cpu(program)
    return _Names(inputs, outputs)


def _input_name(spec: dict[str, Any]) -> str:
    given = spec.get("user_input", {}).get("arg", {}).get("as_tensor")
    if given is None:
        raise UnsupportedOperator(
            "an input is not a tensor", hint="export it with tensors alone, and with the rest fixed in the module"
        )
    return str(given["name"])


def _output_names(spec: dict[str, Any], name: str) -> Iterator[str]:
    """A name for every leaf of the result, as `edgekd.sources._calls.tensors_of` gives them."""
    children = spec["children_spec"]
    if spec["type"] is None:
        yield name or "output"
        return
    context = json.loads(spec["context"]) if spec["context"] not in {None, ""} else None
    keys = context if isinstance(context, list) and len(context) == len(children) else None
    for place, child in enumerate(children):
        key = str(keys[place]) if keys else str(place) if name else f"output_{place}"
        yield from _output_names(child, f"{name}_{key}" if name else key)


def _nodes(graph: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Nodes of a graph and of the graphs in it."""
    for node in graph["nodes"]:
        yield node
        for given in node["inputs"]:
            inner = given["arg"].get("as_graph") if isinstance(given["arg"], dict) else None
            if inner:
                yield from _nodes(inner["graph"])


def _to_cpu(tree: Any) -> None:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key in {"device", "as_device"} and isinstance(value, dict):
                tree[key] = {"type": "cpu", "index": None}
            else:
                _to_cpu(value)
    elif isinstance(tree, list):
        for part in tree:
            _to_cpu(part)


def _check_texts(tree: Any, key: str) -> None:
    """Refuse every text that could be more than a name where it stands."""
    if isinstance(tree, dict):
        for inner, value in tree.items():
            if not HARMLESS.fullmatch(inner):
                raise ConfigError(f"a name with odd letters: {clean(inner)!r}")
            _check_texts(value, inner)
    elif isinstance(tree, list):
        for part in tree:
            _check_texts(part, key)
    elif isinstance(tree, str):
        _check_text(tree, key)


def _check_text(text: str, key: str) -> None:
    if key in {"in_spec", "out_spec", *FREE_TEXTS}:  # written by us, or quoted by torch
        return
    if key in {"target", "as_operator"}:
        if not TARGET.fullmatch(text):
            raise UnsupportedOperator(
                f"{clean(text)!r} is not an operator of torch's own", hint="export without custom operators"
            )
    elif key == "expr_str":
        plain = POWER.sub(r"\1", SYMBOL.sub(r"\1", text))
        if not SIZE.fullmatch(plain) or "**" in plain or not all(map(SIZE_WORD.fullmatch, WORD.findall(plain))):
            raise ConfigError(f"a size that cannot be read: {clean(text)!r}")
    elif not HARMLESS.fullmatch(text):
        raise ConfigError(f"a name with odd letters: {clean(text)!r}")


# --- the module


def _load(archive: bytes) -> "ExportedProgram":
    import torch
    from torch._export.serde.serialize import SerializeError
    from torch.export.pt2_archive._package import load_pt2

    try:
        programs = load_pt2(io.BytesIO(archive)).exported_programs
    except SerializeError as error:
        raise ConfigError(one_line(error), hint=f"save it again with torch {torch.__version__}") from error
    return programs["model"]


def _model(program: "ExportedProgram", names: _Names, shapes: Mapping[str, tuple[int, ...]]) -> Model:
    import torch

    from edgekd.sources._description import describe

    module = _module(program)
    assert program.example_inputs is not None
    examples: dict[str, Tensor] = dict(zip(names.inputs, program.example_inputs[0], strict=True))
    for name, shape in shapes.items():
        if name not in examples:
            raise ConfigError(f"it has no input {name!r}", hint=f"its inputs: {', '.join(examples)}")
        if shape != tuple(examples[name].shape):
            examples[name] = torch.zeros(shape, dtype=examples[name].dtype)
    inputs, outputs = describe(module, names.inputs, list(examples.values()), names.outputs)
    return Model(module, inputs, outputs)


def _module(program: "ExportedProgram") -> "nn.Module":
    module = program.module(check_guards=False)
    for refusing in ("train", "eval"):  # the graph is what it is in either mode; converters call eval()
        delattr(module, refusing)
    return module.eval()


PLUGIN: Final[ModelSource] = _ExportedProgram()
