"""Every file in edgekd/converters is checked here; a new file needs no new test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgekd import converters, engines
from edgekd.converters import Converter, check
from edgekd.errors import PluginUnavailable
from edgekd.plugins import find, names

NAMES = names(converters)
EXPORTS = [f"{name}-{precision}" for name in NAMES for precision in find(converters, name).precisions]

SCRIPT = """
import hashlib, json, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
import numpy as np, torch
from edgekd import converters, students
from edgekd.converters import Source
from edgekd.plugins import find
from edgekd.specs import TensorSpec

name, precision, folder = sys.argv[1:]
torch.manual_seed(0)
family = find(students, "mobile")
net = family.build(family.Options(width=0.25, depth=0.5), ("a", "b", "c"), (3, 16, 16)).module.eval()
examples = np.random.default_rng(0).normal(size=(24, 3, 16, 16)).astype(np.float32)
image = TensorSpec(name="image", shape=(1, 3, 16, 16), layout="NCHW")
logits = TensorSpec(name="logits", shape=(1, 3))
source = Source(net, (image,), (logits,), (examples[:, None],), {"edgekd.classes": "[]"})
converter = find(converters, name)
out = Path(folder) / f"{precision}{converter.suffix}"
inputs, outputs = converter.convert(source, precision, out)
left = sorted(path.name for path in out.parent.iterdir())
with torch.no_grad():
    expected = net(torch.from_numpy(examples)).numpy()
np.savez(Path(folder) / "expected.npz", examples=examples, expected=expected)
print("RESULT", json.dumps({
    "file": str(out),
    "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
    "left": left,
    "inputs": [[i.name, list(i.shape), i.dtype, i.layout] for i in inputs],
    "outputs": [list(o.shape) for o in outputs],
}))
"""


def available(export: str) -> Converter:
    try:
        return check(export)
    except PluginUnavailable as missing:
        pytest.skip(f"{missing}: {missing.hint}")


def convert(export: str, folder: Path) -> dict[str, object]:
    name, _, precision = export.rpartition("-")
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, precision, str(folder)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    line = next(line for line in ended.stdout.splitlines() if line.startswith("RESULT "))
    result: dict[str, object] = json.loads(line.removeprefix("RESULT "))
    return result


@pytest.mark.parametrize("name", NAMES)
def test_what_it_can_do_is_known_without_its_libraries(name: str) -> None:
    code = f"""
import sys
from edgekd import converters
from edgekd.plugins import find
plugin = find(converters, {name!r})
assert plugin.suffix.startswith(".") and plugin.precisions and isinstance(plugin.packages, tuple)
heavy = {{"torch", "onnx", "onnxruntime", "litert_torch", "ai_edge_litert", "tensorflow", "openvino", "coremltools"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("export", EXPORTS)
def test_writes_an_artifact_that_an_engine_executes_rightly(export: str, tmp_path: Path) -> None:
    import numpy as np

    from edgekd import devices
    from edgekd.parity import sqnr_db

    converter = available(export)
    made = convert(export, tmp_path)
    model = Path(str(made["file"]))
    assert made["left"] == [model.name], "a converter cleans up after itself"
    assert str(tmp_path).encode() not in model.read_bytes(), "no path of this machine in the file"
    able = engines.able(model.name)
    if not able:
        pytest.skip(f"no engine executes {converter.suffix}, so nothing but its being written can be checked")
    with np.load(tmp_path / "expected.npz") as arrays:
        examples, expected = arrays["examples"], arrays["expected"]
    ((_, shape, _, layout),) = made["inputs"]  # type: ignore[attr-defined]
    inputs = examples.transpose(0, 2, 3, 1) if layout == "NHWC" else examples
    assert tuple(shape[1:]) == inputs.shape[1:]
    np.savez(tmp_path / "inputs.npz", **{"0": inputs[:, None]})
    request = {"do": "run", "inputs": str(tmp_path / "inputs.npz"), "outputs": str(tmp_path / "outputs.npz")}
    with find(devices, "host").start("", engines.GUEST, engines.path(able[0]), tmp_path) as connection:
        connection.ask({"do": "load", "model": str(model), "threads": 1}, 120)
        connection.ask(request, 120)
    with np.load(tmp_path / "outputs.npz") as arrays:
        found = arrays["0"][:, 0]
    assert sqnr_db(expected, found) > {"fp32": 80, "fp16": 40}.get(export.rpartition("-")[2], 10)


@pytest.mark.parametrize("export", EXPORTS)
def test_equal_sources_give_equal_bytes(export: str, tmp_path: Path) -> None:
    available(export)
    (tmp_path / "a").mkdir()
    (tmp_path / "elsewhere").mkdir()
    assert convert(export, tmp_path / "a")["sha256"] == convert(export, tmp_path / "elsewhere")["sha256"]
