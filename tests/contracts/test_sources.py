"""Every file in edgekd/sources is checked here; a new file needs no new test."""

import random
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from edgekd import sources
from edgekd.errors import EdgekdError, PluginError
from edgekd.plugins import find, names
from edgekd.sources import kind_of, open_model

NAMES = names(sources)
SUFFIXES = [suffix for name in NAMES for suffix in find(sources, name).suffixes]
HEAVY = "torch", "onnx", "onnxruntime", "tensorflow", "keras", "h5py", "coremltools", "litert_torch"


def test_what_reads_a_file_is_known_without_its_libraries() -> None:
    code = f"""
import sys
from edgekd import sources
from edgekd.plugins import find, names
found = {{name: find(sources, name) for name in names(sources)}}
assert all(isinstance(one.suffixes, tuple) and callable(one.load) for one in found.values())
assert sources.kind_of("a.onnx") == "onnx" and sources.kind_of("a:b") == "torch_module"
print(sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_every_suffix_is_one_of_a_single_plugin() -> None:
    assert len(set(SUFFIXES)) == len(SUFFIXES)
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in SUFFIXES)
    assert [kind_of(f"model{suffix}") for suffix in SUFFIXES] == [
        name for name in NAMES for _ in find(sources, name).suffixes
    ]


def refused(path: Path) -> EdgekdError:
    """The one line that a file ends in."""
    with pytest.raises(EdgekdError) as error:
        open_model(str(path))
    if isinstance(error.value, PluginError):
        pytest.skip(f"{error.value}: {error.value.hint}")
    told = str(error.value) + error.value.hint
    assert "\n" not in told and len(told) < 1000 and str(path)[:50] in told
    return error.value


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_no_model_is_refused_in_one_line(suffix: str, tmp_path: Path) -> None:
    chance, path = random.Random(0), tmp_path / f"model{suffix}"
    assert "no such file" in str(refused(path))
    path.mkdir()
    refused(path)
    path.rmdir()
    for content in (b"", b"\0", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"{}", chance.randbytes(5000), bytes(5000)):
        path.write_bytes(content)
        refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../outside", "x")
        archive.writestr("config.json", "[" * 100_000)
        archive.writestr("model.weights.h5", "x")
    refused(path)
    assert not (tmp_path.parent.parent / "outside").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_nobody_may_read_is_refused_in_one_line(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.symlink_to(path)
    refused(path)


# --- hundreds of broken ONNX files


ODD = (0, -1, 1, 2, 7, -2, 2**31 - 1, 2**31, 2**63 - 1, -(2**63), 1000, 65536)
OPERATORS = (
    "Gather", "Reshape", "Slice", "LSTM", "Resize", "TopK", "Expand", "Tile", "Pad", "Einsum", "If", "Loop", "Cast",
    "Split", "ScatterND", "Range", "OneHot", "QuantizeLinear", "ConvTranspose", "MaxPool", "Squeeze", "Attention",
)  # fmt: skip


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The content with one to four random accidents."""
    found = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(found) + 1)
        match chance.randrange(5):
            case 0 if found:
                found[at % len(found)] ^= 1 << chance.randrange(8)
            case 1:
                del found[at:]
            case 2:
                del found[at : at + chance.randint(1, 60)]
            case 3:
                found[at:at] = found[at : at + chance.randint(1, 200)] * chance.randint(1, 4)
            case _:
                found[at:at] = chance.randbytes(chance.randint(1, 20))
    return bytes(found)


def distorted(model: Any, chance: random.Random) -> None:
    """One to three changes that leave the file readable."""
    for _ in range(chance.randint(1, 3)):
        if model.graph.node:
            chance.choice(DISTORTIONS)(model, chance)


def attribute(model: Any, chance: random.Random) -> None:
    """A number that it should not be."""
    for found in chance.choice(model.graph.node).attribute[:1]:
        if found.ints:
            found.ints[chance.randrange(len(found.ints))] = chance.choice(ODD)
        elif found.type == 2:
            found.i = chance.choice(ODD)
        elif found.type == 1:
            found.f = chance.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))


def reads(model: Any, chance: random.Random) -> None:
    """Something else, or nothing."""
    node = chance.choice(model.graph.node)
    known = [name for one in model.graph.node for name in (*one.input, *one.output)]
    if node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice([*known, "", "nope"])


def makes(model: Any, chance: random.Random) -> None:
    """Something else, or nothing."""
    node = chance.choice(model.graph.node)
    if node.output:
        node.output[chance.randrange(len(node.output))] = chance.choice(["", "zz", *node.input])


def operator(model: Any, chance: random.Random) -> None:
    """Another one."""
    chance.choice(model.graph.node).op_type = chance.choice(OPERATORS)


def weight(model: Any, chance: random.Random) -> None:
    """Of another shape or type."""
    stored = chance.choice(model.graph.initializer)
    if stored.dims:
        stored.dims[chance.randrange(len(stored.dims))] = chance.choice(ODD)
    else:
        stored.data_type = chance.randrange(30)


def number(model: Any, chance: random.Random) -> None:
    """An integer that it should not be."""
    integers = [stored for stored in model.graph.initializer if stored.data_type == 7]
    if integers:
        stored = chance.choice(integers)
        stored.raw_data = struct.pack("<q", chance.choice(ODD)) * (len(stored.raw_data) // 8)


def absent(model: Any, chance: random.Random) -> None:
    """A node is gone."""
    del model.graph.node[chance.randrange(len(model.graph.node))]


def shape(model: Any, chance: random.Random) -> None:
    """Of an input."""
    sizes = chance.choice(model.graph.input).type.tensor_type.shape.dim
    if sizes:
        chance.choice(sizes).dim_value = chance.choice(ODD)


def opset(model: Any, chance: random.Random) -> None:
    """Another one."""
    model.opset_import[0].version = chance.choice((7, 9, 10, 11, 12, 13, 18, 23, 28, 99))


DISTORTIONS = (attribute, reads, makes, operator, weight, number, absent, shape, opset)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Files that are whole."""
    pytest.importorskip("onnxscript")
    from tests.test_sources_onnx import write_onnx

    folder = tmp_path_factory.mktemp("whole")
    nets = (("heads", 13), ("bert", 17), ("recurrent", 13), ("unet", 17))
    return [write_onnx(name, opset, folder / f"{name}.onnx").read_bytes() for name, opset in nets]


@pytest.mark.parametrize("seed", range(4))
def test_a_broken_onnx_file_is_read_or_refused_in_one_line(seed: int, whole: list[bytes], tmp_path: Path) -> None:
    import onnx

    chance, path, read = random.Random(seed), tmp_path / "model.onnx", 0
    for turn in range(100):
        content = chance.choice(whole)
        if turn % 3:
            model = onnx.ModelProto()
            model.ParseFromString(content)
            distorted(model, chance)
            content = model.SerializeToString()
        else:
            content = damaged(content, chance)
        path.write_bytes(content)
        try:
            open_model(str(path))
            read += 1
        except EdgekdError as error:
            assert "\n" not in str(error) + error.hint and len(str(error)) < 600
    assert 0 < read < 100
