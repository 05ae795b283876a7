"""Which versions of operators each runtime has: edgekd/runtimes/*.toml, by asking the runtimes.

usage: python benchmarks/fit/operator_versions.py [tflite] [onnx] [openvino] [coreml]

Makes an environment of each release below EDGEKD_CACHE (about 6 GB for all, half of it TensorFlow), and needs a package
index, the extra of the format, and for OpenVINO and Core ML their newest packages here.

tflite: every builtin operator and every version up to 40, in a model that names it and does not use it, for runtimes
look up all that a model names. onnx: the newest operator set and IR version of which a model is opened, and the kernels
of the CPU provider as the library itself lists them; an operator without one that ONNX defines as a function of others
counts as there. openvino: a layer of every kind in every operator set up to 24; whether the layer's attributes are
complete is told apart by the message. coreml: Apple's software is not here, so what coremltools says of it.
"""

import base64
import importlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import edgekd
from edgekd.environments import make
from edgekd.files import write_text

RUNTIMES = Path(edgekd.__file__).parent / "runtimes"
MOST = 40
MOST_SET = 24
AS_THE_SET = 99
"""Version of an operator that a runtime has in every operator set that it reads."""


class Release(NamedTuple):
    """A release of a runtime, and where it can be had for this Python."""

    engine: str
    version: str
    packages: tuple[str, ...]


class Found(NamedTuple):
    """What a release has."""

    release: Release
    operators: dict[str, int]
    """Kind -> highest version."""
    sets: dict[str, int]
    """Domain -> newest operator set."""
    ir: int = 0
    sets_only: bool = False
    """True where nothing is known of single operators."""


def ask(release: Release, probe: str, question: Any) -> Any:
    """What a script, executed by the release's Python, answers in JSON; None where it crashes."""
    python = make(f"{release.engine}-{release.version}", release.packages)
    prelude = (
        "import json, os, sys\nreplies = os.fdopen(os.dup(1), 'w')\nos.dup2(2, 1)\nquestion = json.load(sys.stdin)\n"
    )
    asked = subprocess.run(
        [str(python), "-I", "-c", f"{prelude}{probe}\nreplies.write(json.dumps(answer))\n"],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode > 0:
        sys.exit(f"{release.engine} {release.version}: {asked.stderr[-2000:]}")
    return json.loads(asked.stdout) if asked.returncode == 0 else None


# --- TFLite

TFLITE = (
    Release("tflite_runtime", "2.12.0", ("tensorflow-cpu==2.12.1", "numpy==1.23.5")),
    Release("tflite_runtime", "2.13.0", ("tensorflow-cpu==2.13.1", "numpy==1.24.3")),
    Release("tflite_runtime", "2.14.0", ("tflite-runtime==2.14.0", "numpy==1.26.4")),
    *(
        Release("litert", version, (f"ai-edge-litert=={version}", f"numpy=={numpy}"))
        for version, numpy in {
            "1.0.1": "1.26.4",
            "1.1.2": "1.26.4",
            "1.2.0": "1.26.4",
            "1.3.0": "2.3.5",
            "1.4.0": "2.3.5",
            "2.0.3": "2.3.5",
            "2.1.0": "2.3.5",
            "2.1.6": "2.3.5",
            "2.2.0": "2.3.5",
            "2.3.0": "2.3.5",
        }.items()
    ),
)
"""tflite-runtime before 2.14 has no wheel for Python 3.11: tf.lite of the same TensorFlow stands in for it."""

TFLITE_NOTE = """\
How: benchmarks/fit/operator_versions.py tflite, on Linux x86-64 with Python 3.11. tflite_runtime 2.12.0 and 2.13.0 were
measured on tf.lite of tensorflow-cpu 2.12.1 and 2.13.1, all others on their own wheels. What an operator of a version
can do with a type or a shape is not told here."""

TFLITE_PROBE = """
import base64, importlib, importlib.util
module = next(one for one in question["modules"] if importlib.util.find_spec(one.partition(".")[0]))
interpreter = importlib.import_module(module)
def opens(model):
    try:
        interpreter.Interpreter(model_content=base64.b64decode(model))
    except ValueError as error:
        if not any(words in str(error) for words in ("Didn't find op", "out of range")):
            raise
        return False
    return True
answer = [opens(model) for model in question["models"]]
"""


def tflite() -> Iterator[Found]:
    """Highest version of each builtin operator."""
    modules = ("tflite_runtime.interpreter", "ai_edge_litert.interpreter", "tensorflow.lite.python.interpreter")
    names = _builtin_operators()
    models = [_naming(code, version) for code in names.values() for version in range(1, MOST + 1)]
    question = {"modules": modules, "models": [base64.b64encode(model).decode() for model in models]}
    for release in TFLITE:
        opened = ask(release, TFLITE_PROBE, question)
        found = {}
        for index, name in enumerate(names):
            found[name] = _last(opened[index * MOST : (index + 1) * MOST], f"{release.version} {name}")
        yield Found(release, found, {})


def _builtin_operators() -> dict[str, int]:
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    found = {name: code for name, code in vars(BuiltinOperator).items() if isinstance(code, int)}
    return {name: code for name, code in found.items() if name not in {"CUSTOM", "PLACEHOLDER_FOR_GREATER_OP_CODES"}}


def _naming(code: int, version: int) -> bytes:
    """A model that names an operator."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model, operator, graph = schema.ModelT(), schema.OperatorCodeT(), schema.SubGraphT()
    operator.deprecatedBuiltinCode, operator.builtinCode, operator.version = min(code, 127), code, version
    graph.tensors, graph.inputs, graph.outputs, graph.operators = [], [], [], []
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [operator], [graph], [schema.BufferT()]
    builder = flatbuffers.Builder(256)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _last(answers: list[bool], what: str) -> int:
    """The highest version; some operators have no version 1, none has a gap behind its first."""
    versions = [version for version, opens in enumerate(answers, 1) if opens]
    assert len(versions) < MOST, f"{what}: any version is opened"
    assert not versions or versions == list(range(versions[0], versions[-1] + 1)), f"{what}: {versions}"
    return versions[-1] if versions else 0


# --- ONNX

ONNX = tuple(
    Release("onnxruntime", version, (f"onnxruntime=={version}", f"numpy=={'1.26.4' if version < '1.19' else '2.3.5'}"))
    for version in (
        *("1.15.1", "1.16.3", "1.17.1", "1.18.1", "1.19.2", "1.20.1", "1.21.1", "1.22.1", "1.23.2", "1.24.4"),
        *("1.25.1", "1.26.0", "1.27.0", "1.28.0", "1.29.0", "1.30.0", "1.31.1", "1.32.0"),
    )
)

ONNX_DOCUMENTED = {
    "1.7.0": (13, 2, 7),
    "1.8.0": (14, 2, 7),
    "1.9.0": (15, 2, 8),
    "1.10.0": (15, 2, 8),
    "1.11.0": (16, 2, 8),
    "1.12.0": (17, 3, 8),
    "1.13.1": (17, 3, 8),
    "1.14.0": (18, 3, 8),
}
"""Release -> operator sets of ONNX and of ONNX ML, IR version, from docs/reference/compatibility.md of ONNX Runtime."""

ONNX_NOTE = """\
How: benchmarks/fit/operator_versions.py onnx, on Linux x86-64 with Python 3.11, the wheels of PyPI, their CPU provider.
Versions are of the operator set, 99 is "as far as the set goes"; which types a kernel takes is not told here. Releases
before 1.15: from https://onnxruntime.ai/docs/reference/compatibility.html . 1.15 does not list its kernels."""

ONNX_PROBE = """
import base64
import onnxruntime
import onnxruntime.capi.onnxruntime_pybind11_state as state
onnxruntime.set_default_logger_severity(4)
def opens(model):
    try:
        onnxruntime.InferenceSession(base64.b64decode(model), providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True
answer = {
    "opens": [opens(model) for model in question],
    "kernels": [
        [k.domain, k.op_name, *k.version_range]
        for k in getattr(state, "get_all_opkernel_def", list)()
        if k.provider.startswith("CPU")
    ],
    "schemas": [
        [s.domain, s.name, s.since_version, s.deprecated] for s in getattr(state, "get_all_operator_schema", list)()
    ],
}
"""
DOMAINS = ("", "ai.onnx.ml", "com.microsoft")


def onnx() -> Iterator[Found]:
    """Newest operator set and IR version, and the operators that have no kernel in some set."""
    models = [_relu(ir=3, opset=opset) for opset in range(1, MOST + 1)]
    models += [_relu(ir=ir, opset=11) for ir in range(1, MOST + 1)]
    models += [_binarizer(opset) for opset in range(1, MOST + 1)]
    functions = _functions()
    for version, (opset, ml, ir) in ONNX_DOCUMENTED.items():
        sets = {"": opset, "ai.onnx.ml": ml, "com.microsoft": 1}
        yield Found(Release("onnxruntime", version, ()), {}, sets, ir, sets_only=True)
    for release in ONNX:
        answer = ask(release, ONNX_PROBE, [base64.b64encode(model).decode() for model in models])
        opsets, irs, ml = (
            _last(answer["opens"][start : start + MOST], release.version) for start in range(0, 3 * MOST, MOST)
        )
        sets = {"": opsets, "ai.onnx.ml": ml, "com.microsoft": 1}
        operators = dict(_executable(answer, sets, functions)) if answer["kernels"] else {}
        yield Found(release, operators, sets, irs, sets_only=not operators)


def _relu(ir: int, opset: int) -> bytes:
    """A model of an operator that has not changed since set 14, so that it is the set that is refused."""
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    return bytes(model.SerializeToString())


def _binarizer(opset: int) -> bytes:
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    node = helper.make_node("Binarizer", ["x"], ["y"], domain="ai.onnx.ml")
    opsets = [helper.make_opsetid("", 11), helper.make_opsetid("ai.onnx.ml", opset)]
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=6).SerializeToString())


def _functions() -> set[tuple[str, str, int]]:
    from onnx.defs import get_all_schemas_with_history

    schemas = get_all_schemas_with_history()
    return {
        (one.domain, one.name, one.since_version)
        for one in schemas
        if one.has_function or one.has_context_dependent_function
    }


def _executable(
    answer: dict[str, Any], sets: dict[str, int], functions: set[tuple[str, str, int]]
) -> Iterator[tuple[str, int]]:
    """Kind -> newest operator set in which the operator can be executed."""
    kernels: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for domain, name, first, last in answer["kernels"]:
        kernels.setdefault((domain, name), []).append((first, last))
    since: dict[tuple[str, str], list[int]] = {}
    for domain, name, number, deprecated in answer["schemas"]:
        if domain in DOMAINS and not deprecated:
            since.setdefault((domain, name), []).append(number)
    for (domain, name), numbers in since.items():
        within = sorted(number for number in numbers if number <= sets[domain])
        able = [
            number for number in within if (domain, name, number) in functions or _has(kernels, domain, name, number)
        ]
        newest = AS_THE_SET if within and able and able[-1] == within[-1] else _until(within, able)
        yield f"{domain}:{name}" if domain else name, newest


def _has(kernels: dict[tuple[str, str], list[tuple[int, int]]], domain: str, name: str, since: int) -> bool:
    """As onnxruntime's KernelRegistry: a kernel begins at the operator's version, or ends behind it."""
    return any(first == since or (first < since <= last < 2**31 - 1) for first, last in kernels.get((domain, name), ()))


def _until(within: list[int], able: list[int]) -> int:
    """The last operator set before the version that has no kernel any more."""
    later = [number for number in within if able and number > able[-1]]
    return later[0] - 1 if later else 0


# --- OpenVINO

OPENVINO = tuple(
    Release("openvino", version, (f"openvino=={version}", "numpy==1.26.4" if version < "2025" else "numpy==2.2.6"))
    for version in (
        *("2023.0.2", "2023.1.0", "2023.2.0", "2023.3.0", "2024.0.0", "2024.1.0", "2024.2.0", "2024.3.0", "2024.4.0"),
        *("2024.5.0", "2024.6.0", "2025.0.0", "2025.1.0", "2025.2.0", "2025.3.0", "2025.4.1", "2026.0.0", "2026.1.0"),
        *("2026.2.1", "2026.3.1", "2026.4.1"),
    )
)

OPENVINO_NOTE = """\
How: benchmarks/fit/operator_versions.py openvino, on Linux x86-64 with Python 3.11, the wheels of PyPI. An operator set
counts as read when Relu can be read in it; one that is not finished in a release has single operators before. Versions
are of the operator set, 99 is "as far as the set goes"."""

OPENVINO_PROBE = '''
try:
    from openvino import Core
except ImportError:
    from openvino.runtime import Core
core = Core()
IR = """<?xml version="1.0"?><net name="m" version="%d"><layers>
<layer id="0" name="x" type="Parameter" version="opset1"><data shape="1,3" element_type="f32"/>
<output><port id="0" precision="FP32"><dim>1</dim><dim>3</dim></port></output></layer>
<layer id="1" name="op" type="%s" version="opset%d">
<input><port id="0" precision="FP32"><dim>1</dim><dim>3</dim></port></input>
<output><port id="1" precision="FP32"><dim>1</dim><dim>3</dim></port></output></layer>
<layer id="2" name="y" type="Result" version="opset1">
<input><port id="0" precision="FP32"><dim>1</dim><dim>3</dim></port></input></layer></layers>
<edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/>
<edge from-layer="1" from-port="1" to-layer="2" to-port="0"/></edges></net>"""
ABSENT = ("unsupported opset", "doesn't contain the operation", "model format is supported")
def reads(kind, number, ir=11):
    try:
        core.read_model((IR % (ir, kind, number)).encode(), b"")
    except RuntimeError as error:
        return not any(words in str(error) for words in ABSENT)
    return True
answer = {
    "kinds": {kind: [one for one in question["sets"] if reads(kind, one)] for kind in question["kinds"]},
    "ir": [ir for ir in range(10, 20) if reads("Relu", 1, ir)],
}
'''


def openvino() -> Iterator[Found]:
    """Newest operator set and IR version, and the newest set of operators that are not in all of them."""
    kinds = _layer_kinds()
    for release in OPENVINO:
        reads = _reads(release, kinds, list(range(1, MOST_SET + 1)))
        opset = max(reads["Relu"])
        newest = {kind: max(numbers, default=0) for kind, numbers in reads.items()}
        operators = {kind: AS_THE_SET if number == opset else number for kind, number in newest.items()}
        irs = ask(release, OPENVINO_PROBE, {"kinds": [], "sets": []})["ir"]
        yield Found(release, operators, {"": opset}, max(irs))


def _reads(release: Release, kinds: list[str], sets: list[int]) -> dict[str, list[int]]:
    """Kind -> operator sets that it is read in; some releases crash on layers whose attributes are not complete."""
    answer = ask(release, OPENVINO_PROBE, {"kinds": kinds, "sets": sets})
    if answer:
        found: dict[str, list[int]] = answer["kinds"]
        return found
    if len(kinds) > 1:
        middle = len(kinds) // 2
        return _reads(release, kinds[:middle], sets) | _reads(release, kinds[middle:], sets)
    if len(sets) > 1:
        return {kinds[0]: [number for one in sets for number in _reads(release, kinds, [one])[kinds[0]]]}
    return {kinds[0]: sets}  # so it was made


def _layer_kinds() -> list[str]:
    """Every kind of layer that the newest OpenVINO makes from Python."""
    import inspect
    import re

    kinds = {"Parameter", "Const", "If", "Loop", "TensorIterator"}  # made by classes of their own
    for number in range(1, MOST_SET + 1):
        try:
            module = importlib.import_module(f"openvino.opset{number}.ops")
        except ModuleNotFoundError:
            continue
        kinds |= set(re.findall(r"""create\(\s*["'](\w+)["']""", inspect.getsource(module)))
    return sorted(kinds)


# --- Core ML

COREML_NOTE = """\
From coremltools 9.0: AvailableTarget and the operator sets CoreML5 to CoreML9, named here by the iOS that brought them.
The runtime's version is that of iOS; macOS 12, 13, 14, 15 and 26 are iOS 15, 16, 17, 18 and 26. ML programs, which
.mlpackage files hold, begin with iOS 15; `ir` is the specification version."""


def coreml() -> Iterator[Found]:
    """Newest operator set of each iOS."""
    from coremltools import _LOWEST_ALLOWED_SPECIFICATION_VERSION_FOR_MILPROGRAM as FIRST
    from coremltools.converters.mil._deployment_compatibility import AvailableTarget

    for target in AvailableTarget:
        number = int(target.name.removeprefix("iOS"))
        found = {"": number if target.value >= FIRST else 0}
        yield Found(Release("coreml", f"{number}.0", ()), {}, found, int(target.value))


# --- the tables


def points(found: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Release -> number, only where it differs from the release before."""
    kept: dict[str, int] = {}
    last = 0
    for version, number in found:
        if number != last:
            kept[version] = last = number
    return kept


def table(note: str, found: list[Found]) -> str:
    """TOML: for each runtime its releases and, by operator, from which release on it has which version."""
    lines = [f"# {line}" for line in note.splitlines()]
    for engine in dict.fromkeys(one.release.engine for one in found):
        ours = [one for one in found if one.release.engine == engine]
        lines += ["", f"[{engine}]", f"releases = {json.dumps([one.release.version for one in ours])}"]
        if any(one.sets_only for one in ours):
            lines.append(f"sets_only = {json.dumps([one.release.version for one in ours if one.sets_only])}")
        if any(one.ir for one in ours):
            lines.append(f"ir = {_inline(points((one.release.version, one.ir) for one in ours))}")
        domains = dict.fromkeys(domain for one in ours for domain in one.sets)
        if domains:
            lines += ["", f"[{engine}.sets]"]
        for domain in domains:
            numbers = points((one.release.version, one.sets[domain]) for one in ours)
            lines.append(f"{json.dumps(domain)} = {_inline(numbers)}")
        kinds = sorted({kind for one in ours for kind in one.operators})
        if kinds:
            lines += ["", f"[{engine}.operators]"]
        for kind in kinds:
            told = [one for one in ours if not one.sets_only]
            numbers = points((one.release.version, one.operators.get(kind, 0)) for one in told)
            if numbers:
                lines.append(f"{_key(kind)} = {_inline(numbers)}")
    return "\n".join(lines) + "\n"


def _key(kind: str) -> str:
    return kind if kind.replace("_", "").isalnum() else json.dumps(kind)


def _inline(numbers: dict[str, int]) -> str:
    return "{ " + ", ".join(f'"{version}" = {number}' for version, number in numbers.items()) + " }"


FORMATS = {
    "tflite": (tflite, TFLITE_NOTE),
    "onnx": (onnx, ONNX_NOTE),
    "openvino": (openvino, OPENVINO_NOTE),
    "coreml": (coreml, COREML_NOTE),
}


def main(wanted: list[str]) -> None:
    """Measure and write a table a format."""
    for name in wanted or FORMATS:
        measure, note = FORMATS[name]
        found = []
        for one in measure():
            found.append(one)
            print(name, one.release.engine, one.release.version, one.sets, one.ir, flush=True)
        write_text(RUNTIMES / f"{name}.toml", table(note, found))


if __name__ == "__main__":
    main(sys.argv[1:])
