"""Every file in edgekd/formats is checked here, on small files made in place and on files that others made."""

import contextlib
import importlib.util
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd import formats, lowering
from edgekd.errors import ConfigError
from edgekd.files import members
from edgekd.plugins import find, names
from edgekd.specs import Graph
from tests import models
from tests.conftest import data_folder

NAMES = names(formats)
PACKAGES = {"tflite": "ai_edge_litert", "onnx": "onnx", "openvino": "openvino", "coreml": "numpy"}
"""What makes the small files."""
OURS = {"edgekd.classes": '["a", "b"]'}
LONGEST_S = 5
"""That a reader may take for one small file."""
MOST_GROWTH_KB = 300_000


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A small file of a format, made once."""
    folder, made = tmp_path_factory.mktemp("small"), {}

    def get(name: str) -> Path:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            pytest.skip(f"{PACKAGES[name]}, which makes the file, is not installed")
        if name not in made:
            (folder / name).mkdir()
            made[name] = models.MAKERS[name](folder / name / f"small{models.SUFFIXES[name]}")
        return made[name]

    return get


@contextmanager
def watchdog() -> Iterator[None]:
    """Fail a reader that hangs."""

    def bark(*_: Any) -> None:
        raise TimeoutError(f"took longer than {LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def survives(path: Path) -> bool:
    """Whether a file was read; anything but a Graph or a ConfigError of one line fails the test."""
    with watchdog():
        try:
            graph = formats.read(path)
        except ConfigError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
            return False
    assert isinstance(graph, Graph)
    given = [one.name for one in graph.operators]
    assert len(set(given)) == len(given), "names are unique"
    made: set[str] = set()
    writers = {tensor for one in graph.operators for tensor in one.outputs}
    for one in graph.operators:
        assert not (set(one.inputs) & writers) - made, "operators can be executed in their order"
        made |= set(one.outputs)
    return True


def outputs_of(model: Path, inputs: list[np.ndarray[Any, Any]], folder: Path) -> list[np.ndarray[Any, Any]]:
    """What the first engine that executes such files answers."""
    from edgekd.executions import FileSide, execute

    try:
        side = FileSide.of(model)
    except ConfigError as missing:
        pytest.skip(str(missing))
    return execute(side, inputs, folder)


@pytest.mark.parametrize("name", NAMES)
def test_reading_loads_no_runtime(name: str, small: Callable[[str], Path]) -> None:
    code = f"""
import sys
from pathlib import Path
from edgekd import formats
assert formats.read(Path({str(small(name))!r})).operators
heavy = {{"torch", "onnx", "onnxruntime", "openvino", "tensorflow", "coremltools", "ai_edge_litert.interpreter"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", NAMES)
def test_it_finds_what_is_in_a_file(name: str, small: Callable[[str], Path]) -> None:
    graph = formats.read(small(name))
    assert graph.format == name
    (given,) = graph.inputs
    assert given.name == "image" and given.dtype == "float32" and set(given.shape) <= {-1, 1, 2, 4}
    assert len(graph.outputs) == 1 and graph.outputs[0].name in {
        tensor for one in graph.operators for tensor in one.outputs
    }
    assert len(graph.operators) >= 3
    first = graph.operators[0]
    assert first.kind.lower().startswith("conv") and first.inputs == ("image",) and first.dtype == "float32"
    assert first.version >= 1
    assert all(not one.layer for one in graph.operators), "a file of somebody else names no layers"


@pytest.mark.parametrize("name", NAMES)
def test_our_own_files_name_layers(name: str, small: Callable[[str], Path], tmp_path: Path) -> None:
    small(name)
    properties: Any = {key: value.encode() for key, value in OURS.items()} if name == "tflite" else OURS
    extra = {"metadata" if name == "tflite" else "properties": properties}
    graph = formats.read(models.MAKERS[name](tmp_path / f"ours{models.SUFFIXES[name]}", **extra))
    assert graph.properties["edgekd.classes"] == OURS["edgekd.classes"]
    layers = [one.layer for one in graph.operators if one.kind.lower().startswith("conv")]
    assert layers == ["blocks.0.conv", "blocks.0.conv"]


@pytest.mark.parametrize("name", NAMES)
def test_a_tapped_copy_gives_out_what_is_inside(name: str, small: Callable[[str], Path], tmp_path: Path) -> None:
    model = small(name)
    graph = formats.read(model)
    wanted = [one.outputs[0] for one in graph.operators[:2]] + [graph.outputs[0].name]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        formats.tap(model, wanted, tmp_path / folder / model.name)
    copies = [members(tmp_path / folder / model.name) for folder in ("a", "b")]
    assert [one.read_bytes() for one in copies[0]] == [one.read_bytes() for one in copies[1]]
    tapped = formats.read(tmp_path / "a" / model.name)
    assert tapped.outputs[:1] == graph.outputs and len(tapped.outputs) == 4
    shape = [size if size > 0 else 1 for size in graph.inputs[0].shape]
    image = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    before, after = outputs_of(model, [image], tmp_path), outputs_of(tmp_path / "a" / model.name, [image], tmp_path)
    assert len(before) == 1 and len(after) == 4
    np.testing.assert_allclose(before[0], after[0], atol=1e-6)
    np.testing.assert_allclose(after[0], after[3], atol=1e-6)
    added = -after[1] if name == "onnx" else after[1]  # there a branch turns its sign
    np.testing.assert_allclose(after[2] + added, after[0], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_that_is_not_there_cannot_be_tapped(name: str, small: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no operator makes a tensor 'nothing'"):
        formats.tap(small(name), ["nothing"], tmp_path / f"out{models.SUFFIXES[name]}")
    assert not (tmp_path / f"out{models.SUFFIXES[name]}").exists()


# --- files that somebody broke


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The content with one to four random accidents."""
    broken = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(broken) + 1)
        kind = chance.randrange(6)
        if kind == 0:
            broken[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            del broken[at : at + chance.randint(1, 60)]
        elif kind == 2:
            broken[at:at] = broken[at : at + chance.randint(1, 200)] * chance.randint(1, 4)
        elif kind == 3:
            odd = chance.choice((0, 1, -1, 2**31 - 1, -(2**31), len(content), chance.randrange(len(content))))
            broken[at - at % 4 : at - at % 4 + 4] = struct.pack("<i", odd)
        elif kind == 4:
            broken[at:at] = chance.choice((b"\0" * 8, b"\xff" * 10, b"<layer>", b'"', b"&lol;", b"-1", b"9" * 30))
        elif chance.random() < 0.2:
            del broken[at:]
        if not broken:
            break
    return bytes(broken)


def copied(model: Path, folder: Path) -> tuple[Path, Path]:
    """A copy of a model with what belongs to it, and the file in it to break."""
    copy = folder / "copy" / model.name
    shutil.copytree(model.parent, copy.parent)
    return copy, next(copy.rglob("*.mlmodel")) if copy.is_dir() else copy


@pytest.mark.parametrize("name", NAMES)
def test_broken_files_are_read_or_refused(name: str, small: Callable[[str], Path], tmp_path: Path) -> None:
    model = small(name)
    path, target = copied(model, tmp_path)
    content, chance = target.read_bytes(), random.Random(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read = 0
    for _ in range(1000):
        target.write_bytes(mutated(content, chance))
        read += survives(path)
    assert 0 < read < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_GROWTH_KB


@pytest.mark.parametrize("name", NAMES)
def test_tapping_a_broken_file_ends_well(name: str, small: Callable[[str], Path], tmp_path: Path) -> None:
    model = small(name)
    path, target = copied(model, tmp_path)
    content, chance, out = target.read_bytes(), random.Random(1), tmp_path / f"out{model.suffix}"
    for _ in range(200):
        target.write_bytes(mutated(content, chance))
        with watchdog(), contextlib.suppress(ConfigError):
            graph = formats.read(path)
            formats.tap(path, [tensor for one in graph.operators[:2] for tensor in one.outputs], out)
            assert len(formats.read(out).outputs) >= len(graph.outputs)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_cut_anywhere_is_read_or_refused(name: str, small: Callable[[str], Path], tmp_path: Path) -> None:
    path, target = copied(small(name), tmp_path)
    content = target.read_bytes()
    for end in range(0, len(content), max(1, len(content) // 150)):
        target.write_bytes(content[:end])
        assert not survives(path), end


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"not a model", bytes(4096), b"\xff" * 4096, b"TFL3" * 1000, b"<net>" * 9999, b"\x08\x0a" * 500],
    ids=range(8),
)
def test_what_is_no_model_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"bad{models.SUFFIXES[name]}"
    path.write_bytes(content)
    with watchdog(), pytest.raises(ConfigError):
        formats.read(path)
    (tmp_path / f"folder{models.SUFFIXES[name]}").mkdir()
    with watchdog(), pytest.raises(ConfigError):
        formats.read(tmp_path / f"folder{models.SUFFIXES[name]}")


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        formats.read(tmp_path / "none.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ConfigError, match="no such file"):
        formats.read(tmp_path / "folder.onnx")
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(ConfigError, match="not a model that a device reads"):
        formats.read(tmp_path / "model.pt")


# --- TFLite


def hostile(path: Path, content: bytes, match: str) -> None:
    path.write_bytes(content)
    with watchdog(), pytest.raises(ConfigError, match=match):
        formats.read(path)


def test_tflite_a_vector_that_claims_to_be_huge(small: Callable[[str], Path], tmp_path: Path) -> None:
    content = bytearray(small("tflite").read_bytes())
    claimed = 0
    for at in range(0, len(content) - 4, 4):
        broken = content.copy()
        struct.pack_into("<I", broken, at, 2**31)
        (tmp_path / "huge.tflite").write_bytes(broken)
        claimed += not survives(tmp_path / "huge.tflite")
    assert claimed > 50


def test_tflite_vectors_that_share_their_bytes(tmp_path: Path) -> None:
    """A thousand operators that all read one vector of a quarter of a million tensors."""
    shared = struct.pack("<I", 250_000) + bytes(1_000_000)
    vtable = struct.pack("<5H", 10, 8, 0, 4, 0) + b"\0\0"  # an operator with nothing but inputs
    head = bytearray(struct.pack("<I4s", 8, b"TFL3"))
    head += struct.pack("<i", 0)  # the model; its vtable follows
    model_vtable = struct.pack("<5H", 10, 8, 0, 0, 4) + b"\0\0"
    struct.pack_into("<i", head, 8, -8)
    head += struct.pack("<I", 0) + model_vtable  # slot of the subgraphs at 12, vtable at 16
    subgraphs = len(head)
    struct.pack_into("<I", head, 12, subgraphs - 12)
    head += struct.pack("<II", 1, 4)
    table = len(head)
    head += struct.pack("<iI", 0, 0) + struct.pack("<6H", 12, 8, 0, 0, 0, 4)
    struct.pack_into("<i", head, table, table - (table + 8))
    operators = len(head)
    struct.pack_into("<I", head, table + 4, operators - (table + 4))
    count = 1000
    head += struct.pack("<I", count) + bytes(4 * count)
    operator_vtable = len(head)
    head += vtable
    one = len(head)
    head += struct.pack("<iI", one - operator_vtable, 4)
    for index in range(count):
        at = operators + 4 + 4 * index
        struct.pack_into("<I", head, at, one - at)
    hostile(tmp_path / "shared.tflite", bytes(head) + shared, "over and over|not there")


def test_tflite_custom_operators_and_versions(small: Callable[[str], Path]) -> None:
    operators = formats.read(small("tflite")).operators
    assert [(one.kind, one.version) for one in operators[:1]] == [("CONV_2D", 3)]
    assert ("CUSTOM:Spectrum", 2) in [(one.kind, one.version) for one in operators]


def test_tflite_metadata_and_labels(small: Callable[[str], Path], tmp_path: Path) -> None:
    small("tflite")
    path = models.tflite(
        tmp_path / "labelled.tflite",
        metadata={"TFLITE_METADATA": models.tflite_metadata(), "min_runtime_version": b"1.5.0\0\0", "raw": b"\0\xff\1"},
    )
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr("labels.txt", "cat\ndog\n")
    found = formats.read(path).properties
    assert found["name"] == "pets" and found["license"] == "Apache-2.0" and found["description"] == "tells pets apart"
    assert found["labels of output 0"] == "cat\ndog\n"
    assert found["min_runtime_version"] == "1.5.0" and found["raw"] == "3 bytes"


def test_tflite_labels_that_inflate(small: Callable[[str], Path], tmp_path: Path) -> None:
    small("tflite")
    path = models.tflite(tmp_path / "bomb.tflite", metadata={"TFLITE_METADATA": models.tflite_metadata()})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("labels.txt", bytes(200_000_000))
    assert len(formats.read(path).properties["labels of output 0"]) == 2**20


def test_tflite_labels_that_are_not_there(small: Callable[[str], Path], tmp_path: Path) -> None:
    small("tflite")
    path = models.tflite(tmp_path / "none.tflite", metadata={"TFLITE_METADATA": models.tflite_metadata()})
    with pytest.raises(ConfigError, match=r"its labels 'labels.txt' cannot be read"):
        formats.read(path)


def test_tflite_can_be_cut_after_any_operator(small: Callable[[str], Path], tmp_path: Path) -> None:
    model, out = small("tflite"), tmp_path / "cut.tflite"
    find(formats, "tflite").cut(model, "blocks.0.conv:1", out)
    graph = formats.read(out)
    assert [one.kind for one in graph.operators[:2]] == ["CONV_2D", "CONV_2D"] and graph.outputs[
        0
    ].name == "blocks.0.conv:1"
    image = np.ones((1, 1, 4, 4, 2), np.float32)
    assert outputs_of(out, [image], tmp_path)[0].shape == (1, 1, 4, 4, 2)


# --- ONNX


def test_onnx_external_data_in_its_folder(small: Callable[[str], Path], tmp_path: Path) -> None:
    small("onnx")
    path = models.onnx(tmp_path / "big.onnx", external=True)
    assert len(formats.read(path).operators) >= 4
    (tmp_path / "elsewhere").mkdir()
    formats.tap(path, ["again"], tmp_path / "elsewhere" / "tapped.onnx")
    assert (
        len(outputs_of(tmp_path / "elsewhere" / "tapped.onnx", [np.ones((1, 1, 2, 4, 4), np.float32)], tmp_path)) == 2
    )
    (tmp_path / "big.onnx.data").write_bytes(b"")
    with pytest.raises(ConfigError, match="too short"):
        formats.read(path)
    (tmp_path / "big.onnx.data").unlink()
    with pytest.raises(ConfigError, match="not in its folder"):
        formats.read(path)


@pytest.mark.parametrize(
    "location", ["../secret.data", "/etc/passwd", "", "big.onnx.data\0", "a/../../secret.data", "x" * 5000]
)
def test_onnx_external_data_elsewhere(location: str, small: Callable[[str], Path], tmp_path: Path) -> None:
    import onnx

    small("onnx")
    (tmp_path / "secret.data").write_bytes(bytes(64))
    (tmp_path / "model").mkdir()
    path = models.onnx(tmp_path / "model" / "big.onnx", external=True)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ConfigError, match="not in its folder|not the name of a file|x{100}"):
        formats.read(path)


def test_onnx_external_data_through_a_link(small: Callable[[str], Path], tmp_path: Path) -> None:
    small("onnx")
    (tmp_path / "model").mkdir()
    path = models.onnx(tmp_path / "model" / "big.onnx", external=True)
    data = tmp_path / "model" / "big.onnx.data"
    data.rename(tmp_path / "secret")
    data.symlink_to(tmp_path / "secret")
    with pytest.raises(ConfigError, match="not in its folder"):
        formats.read(path)


def test_onnx_operators_that_wait_for_each_other(small: Callable[[str], Path], tmp_path: Path) -> None:
    import onnx

    model = onnx.load(small("onnx"))
    model.graph.node[0].input[0] = "sum"
    (tmp_path / "cycle.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ConfigError, match="wait for each other"):
        formats.read(tmp_path / "cycle.onnx")


def test_onnx_operators_in_any_order(small: Callable[[str], Path], tmp_path: Path) -> None:
    import onnx

    model = onnx.load(small("onnx"))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    (tmp_path / "backwards.onnx").write_bytes(model.SerializeToString())
    assert survives(tmp_path / "backwards.onnx")
    assert formats.read(tmp_path / "backwards.onnx").operators[-1].name == "blocks.1"


def test_onnx_operators_of_branches_are_listed(small: Callable[[str], Path]) -> None:
    found = {one.name: one for one in formats.read(small("onnx")).operators}
    assert found["chosen/then"].kind == "Neg" and found["chosen/else"].inputs == ("blocks.0.conv_out",)
    assert found["chosen"].inputs == ("blocks.0.conv_out",), "what the branches read, the condition is a constant"


def test_onnx_graphs_in_graphs_in_graphs(tmp_path: Path) -> None:
    def field(number: int, content: bytes) -> bytes:
        size, head = len(content), bytearray()
        while size > 127:
            head.append(size & 127 | 128)
            size >>= 7
        return bytes([number << 3 | 2, *head, size]) + content

    graph = b""
    for _ in range(500):
        graph = field(1, field(4, b"If") + field(5, field(6, graph)))
    model = b"\x08\x08" + field(8, b"\x10\x11") + field(7, graph)
    hostile(tmp_path / "deep.onnx", model, "nested too deeply")


def test_onnx_a_file_of_nothing_but_fields(tmp_path: Path) -> None:
    """A million empty operators, each of two bytes."""
    nodes = b"\x0a\x00" * 1_050_000
    size = bytes([len(nodes) & 127 | 128, len(nodes) >> 7 & 127 | 128, len(nodes) >> 14 & 127 | 128, len(nodes) >> 21])
    path = tmp_path / "many.onnx"
    path.write_bytes(b"\x08\x08\x42\x02\x10\x11\x3a" + size + nodes)
    with pytest.raises(ConfigError, match="more than"):
        formats.read(path)


# --- OpenVINO


def test_openvino_without_its_numbers(small: Callable[[str], Path], tmp_path: Path) -> None:
    small("openvino")
    path = models.openvino(tmp_path / "model.xml")
    weights = path.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="too short"):
        formats.read(path)
    weights.unlink()
    with pytest.raises(ConfigError, match="not in its folder"):
        formats.read(path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.bin").write_bytes(bytes(1000))
    weights.symlink_to(tmp_path / "elsewhere" / "model.bin")
    assert formats.read(path).operators, "a link inside of the folder of the model is in it"
    weights.unlink()
    weights.symlink_to("/etc/passwd")
    with pytest.raises(ConfigError, match="not in its folder"):
        formats.read(path)


LAUGHS = '<!DOCTYPE net [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(12)
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
@pytest.mark.parametrize("kind", ["laughs", "outside", "empty"])
def test_openvino_entities_are_refused(kind: str, encoding: str, small: Callable[[str], Path], tmp_path: Path) -> None:
    text = small("openvino").read_text(encoding="utf-8").partition("?>")[2]
    doctype = {
        "laughs": LAUGHS + "]>",
        "outside": '<!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        "empty": "<!DOCTYPE net>",
    }[kind]
    text = text.replace('name="image"', f'name="image{ {"laughs": "&m;", "outside": "&x;"}.get(kind, "") }"', 1)
    declared = f'<?xml version="1.0" encoding="{encoding}"?>' if encoding != "utf-16" else ""
    hostile(tmp_path / "x.xml", (declared + doctype + text).encode(encoding), "document type|UTF-8|XML")


def test_openvino_elements_too_deep(tmp_path: Path) -> None:
    hostile(tmp_path / "x.xml", b"<net>" + b"<rt_info>" * 200_000, "too deep")


def test_openvino_bodies_in_bodies(tmp_path: Path) -> None:
    layer = '<layers><layer id="0" name="x" type="Loop" version="opset5"><body>'
    hostile(tmp_path / "x.xml", f"<net>{layer * 100_000}".encode(), "too deep")


def test_openvino_layers_that_wait_for_each_other(small: Callable[[str], Path], tmp_path: Path) -> None:
    path = models.openvino(tmp_path / "x.xml")
    text = path.read_text(encoding="utf-8")
    graph = formats.read(path)
    assert [one.name for one in graph.operators] == ["blocks.0.conv", "blocks.0.conv:1", "blocks.1"]
    first = text.index("<edge ")
    end = text.index("/>", first)
    last = text[: text.rindex('type="Add"')].rpartition('layer id="')[2].partition('"')[0]
    edge = text[first:end]
    text = text.replace(edge, edge.replace('from-layer="0" from-port="0"', f'from-layer="{last}" from-port="2"'))
    hostile(path, text.encode(), "wait for each other")


@pytest.mark.parametrize("number", ["-1", "9" * 400, "1e9", "0x10", "", "1 2"])
def test_openvino_numbers_that_are_none(number: str, small: Callable[[str], Path], tmp_path: Path) -> None:
    small("openvino")
    text = models.openvino(tmp_path / "x.xml").read_text(encoding="utf-8")
    for name in ("offset", "size", "id", "from-port"):
        head, _, tail = text.partition(f'{name}="')
        hostile(tmp_path / "x.xml", f'{head}{name}="{number}"{tail.partition(chr(34))[2]}'.encode(), "x.xml")


# --- files that others made


@pytest.mark.parametrize(
    ("file", "kinds"),
    [
        ("kws_ref_model", {"CONV_2D", "DEPTHWISE_CONV_2D"}),
        ("kws_ref_model_float32", {"CONV_2D", "DEPTHWISE_CONV_2D"}),
        ("pretrainedResnet", {"CONV_2D", "ADD"}),
        ("pretrainedResnet_quant", {"CONV_2D", "ADD"}),
    ],
)
def test_the_models_of_mlperf_tiny(file: str, kinds: set[str], tmp_path: Path) -> None:
    path = data_folder() / "mlperf_tiny" / f"{file}.tflite"
    if not path.is_file():
        pytest.skip("the models of MLPerf Tiny are not here; set EDGEKD_DATA")
    assert survives(path)
    graph = formats.read(path)
    assert {one.kind for one in graph.operators} == kinds | {"FULLY_CONNECTED", "SOFTMAX", "RESHAPE", "AVERAGE_POOL_2D"}
    assert graph.inputs[0].shape[0] == -1 and graph.properties["min_runtime_version"]
    assert graph.operators[0].dtype == ("int8" if file in {"kws_ref_model", "pretrainedResnet_quant"} else "float32")
    formats.tap(path, [graph.operators[4].outputs[0]], tmp_path / "tapped.tflite")
    assert formats.read(tmp_path / "tapped.tflite").outputs[1].name == graph.operators[4].outputs[0]


def pitch(suffix: str) -> Path:
    """A model of basic-pitch, without importing it."""
    found = importlib.util.find_spec("basic_pitch")
    if found is None or not found.submodule_search_locations:
        pytest.skip("basic-pitch is not installed: pip install --no-deps basic-pitch")
    return Path(found.submodule_search_locations[0]) / "saved_models" / "icassp_2022" / f"nmp{suffix}"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "openvino"])
def test_the_models_of_basic_pitch(name: str) -> None:
    suffix = {"tflite": ".tflite", "onnx": ".onnx", "coreml": ".mlpackage"}[name]
    path = pitch(suffix)
    assert survives(path)
    graph = formats.read(path)
    assert len(graph.outputs) == 3 and len(graph.operators) > 100
    assert sum(one.kind.lower().startswith("conv") for one in graph.operators) > 20


# --- sizes


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_told_and_lowered(name: str, small: Callable[[str], Path]) -> None:
    program = formats.program(small(name))
    found = lowering.lower(program)
    assert found.macs == 2 * 16 * 2 * 2 and found.arena_bytes > 0 and len(found.kernels) >= 2
    assert program.values["image"].elements == 32
    with pytest.raises(ConfigError, match="no input 'picture'"):
        formats.program(small(name), {"picture": (1, 2, 4, 4)})


@pytest.mark.parametrize("name", NAMES)
def test_sizes_of_broken_files_are_told_or_refused(name: str, small: Callable[[str], Path], tmp_path: Path) -> None:
    path, target = copied(small(name), tmp_path)
    content, chance, lowered = target.read_bytes(), random.Random(2), 0
    for _ in range(300):
        target.write_bytes(mutated(content, chance))
        with watchdog(), contextlib.suppress(ConfigError):
            lowering.lower(formats.program(path))
            lowered += 1
    assert 0 < lowered < 300
