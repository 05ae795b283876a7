"""Every file in edgekd/converters is checked here; a new file needs no new test."""

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd import converters, devices, engines
from edgekd.converters import check
from edgekd.devices import Connection
from edgekd.errors import PluginUnavailable
from edgekd.files import members
from edgekd.parity import least_db, sqnr_db
from edgekd.plugins import find, names
from edgekd.workers import call

sys.path.insert(0, str(Path(__file__).parents[1]))  # a worker finds functions where its parent does
zoo: Any = importlib.import_module("zoo")
conversions: Any = importlib.import_module("conversions")

NAMES = names(converters)
NETS = tuple(zoo.ZOO)
WRONG = {("openvino_default", "decoder_step")}
"""OpenVINO 2026.4 computes masked attention wrongly in bfloat16, which it takes by itself where a CPU has it: 8 dB."""
OLD = {("tflite_runtime", "dynamic"), ("tflite_runtime", "int16")}
"""What the last tflite-runtime refuses or answers wrongly, where it is installed: see edgekd/runtimes."""
MICRO = {"fp16", "dynamic", "encoder", "decoder_step"}
"""Precisions, and nets with operators, that TensorFlow Lite Micro does not have, where it is installed."""
AGAIN = ("heads", "decoder_step")
"""Nets that are converted a second time, elsewhere, with precisions in another order."""
LEAST_DB = {"fp32": 80, "fp16": 55, "int16": 33, "dynamic": 25, "int8": 20}
"""int16 is as good as its int8 weights: rounding those alone leaves the mobile nets 34 and 37 dB."""

pytestmark = pytest.mark.timeout(900)  # the first test of a format waits for all of its conversions

Convert = Callable[..., dict[str, Any]]


def every(*nets: str) -> list[Any]:
    """A test for each net and precision; those of a format share a process, where its nets are converted once."""
    return [
        pytest.param(name, net, precision, id=f"{name}-{precision}-{net}", marks=pytest.mark.xdist_group(name))
        for name in NAMES
        for net in nets
        for precision in find(converters, name).precisions
    ]


@pytest.fixture(scope="session")
def convert(tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """Conversions of a format by a worker process, made once."""

    @cache
    def made(name: str, nets: tuple[str, ...] = NETS, order: int = 1) -> dict[str, Any]:
        precisions = find(converters, name).precisions[::order]
        for precision in precisions:
            try:
                check(f"{name}-{precision}")
            except PluginUnavailable as missing:
                pytest.skip(f"{missing}: {missing.hint}")
        folder = tmp_path_factory.mktemp("again" if order < 0 else "zoo")
        log, timeout_s = folder.with_suffix(".log"), 900
        return call(conversions.convert, name, nets, precisions, str(folder), threads=1, log=log, timeout_s=timeout_s)

    return made


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Connection]]:
    """Processes of engines, started once."""
    with ExitStack() as stack:

        @cache
        def started(engine: str) -> Connection:
            start = find(devices, "host").start(
                "", engines.GUEST, engines.path(engine), tmp_path_factory.mktemp(engine)
            )
            connection: Connection = stack.enter_context(start)
            return connection

        yield started


@cache
def expected(net: str) -> tuple[Any, list[Any]]:
    case = zoo.ZOO[net]()
    return case, zoo.answers(case)


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


@pytest.mark.parametrize(("name", "net", "precision"), every(*NETS))
def test_writes_an_artifact_that_engines_execute_rightly(
    name: str, net: str, precision: str, convert: Convert, guest: Callable[[str], Connection], tmp_path: Path
) -> None:
    made = convert(name)[f"{net}-{precision}"]
    assert not made.error
    assert not made.left, "a converter cleans up after itself"
    model = Path(made.file)
    for part in members(model):
        held = part.read_bytes()
        assert not any(str(path).encode() in held for path in (model.parent, Path.cwd())), "no path of this machine"
    case, answers = expected(net)
    assert [spec.name for spec in made.inputs] == [spec.name for spec in case.inputs]
    assert [spec.name for spec in made.outputs] == [spec.name for spec in case.outputs]
    able = [engine for engine in engines.able(model.name) if (engine, precision) not in OLD]
    able = [engine for engine in able if engine != "tflite_micro" or not MICRO.intersection({net, precision})]
    if not able:
        pytest.skip(f"no engine executes {model.suffix}, so nothing but its being written can be checked")
    for engine in able:
        found = execute(guest(engine), model, made.inputs, case, tmp_path)
        assert [one.shape for one in found] == [one.shape for one in answers]
        least = LEAST_DB.get(precision, least_db(precision))
        if engines.arithmetic(engine):
            least = min(least, least_db(engines.arithmetic(engine)))
        for spec, answer, output in zip(case.outputs, answers, found, strict=True):
            if (engine, net) in WRONG:
                continue
            if spec.dtype == "int64":
                assert output.dtype.kind == "i" and np.mean(output == answer) >= 0.9
            else:
                assert output.dtype == np.float32
                assert sqnr_db(answer, output) >= least, (engine, spec.name)


def execute(connection: Connection, model: Path, inputs: Any, case: Any, folder: Path) -> list[Any]:
    """What an engine answers to the examples of a net, given in the file's own layout."""
    arrays = {}
    for number, (given, taken, array) in enumerate(zip(case.inputs, inputs, case.examples, strict=True)):
        turned = taken.layout == "NHWC" and given.layout == "NCHW"
        arrays[str(number)] = np.moveaxis(array, 2, -1) if turned else array
        assert taken.shape == arrays[str(number)].shape[1:]
    np.savez(folder / "inputs.npz", **arrays)
    connection.ask({"do": "load", "model": str(model), "threads": 1}, 120)
    connection.ask({"do": "run", "inputs": str(folder / "inputs.npz"), "outputs": str(folder / "outputs.npz")}, 120)
    with np.load(folder / "outputs.npz", allow_pickle=False) as opened:
        return [opened[str(number)] for number in range(len(opened.files))]


@pytest.mark.parametrize(("name", "net", "precision"), every(*AGAIN))
def test_equal_sources_give_equal_bytes(name: str, net: str, precision: str, convert: Convert) -> None:
    one, other = convert(name), convert(name, AGAIN, -1)
    assert one[f"{net}-{precision}"].sha256 == other[f"{net}-{precision}"].sha256 != ""
