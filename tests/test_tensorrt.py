"""The engine that drives trtexec. No TensorRT is here: a small program stands in for trtexec where one must be started.

It refuses options that the help of the release it speaks for does not list, reads --loadInputs, and writes files in
the formats of samples/common/sampleReporting.cpp and sampleInference.cpp; it doubles its input and knows no network.
What is tested is how the program is called and what is made of its files, not what TensorRT does.
"""

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from edgekd import devices, engines
from edgekd.devices import Connection
from edgekd.engines import tensorrt
from edgekd.errors import MeasureError
from edgekd.plugins import find
from edgekd.tensors import first_inputs

onnx = pytest.importorskip("onnx", reason="pip install 'edgekd[onnx]'")

STAND_IN = r'''#!PYTHON
"""Stands in for trtexec: its options and its files, and nothing of what it does."""
import json, os, sys, time
import numpy as np

release = int(os.environ.get("STAND_IN_RELEASE", "100300"))
COMMON = """--onnx= --saveEngine= --loadEngine= --shapes= --noTF32 --fp16 --int8 --iterations= --warmUp= --duration=
    --exposeDMA --loadInputs= --exportTimes= --exportOutput= --dumpProfile --exportProfile= --help""".split()
LATE = ["--skipInference", "--dumpRawBindingsToFile"] if release >= 8600 else ["--buildOnly"]
print("&&&& RUNNING TensorRT.trtexec [TensorRT v%d] # trtexec" % release, flush=True)
given = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
with open(os.environ["STAND_IN_LOG"], "a") as log:
    log.write(json.dumps([os.getpid(), os.getcwd(), sys.argv[1:]]) + "\n")


def fail(why):
    print("[11/24/2026-10:00:00] [E] " + why)
    print("&&&& FAILED TensorRT.trtexec")
    sys.exit(1)


for argument in sys.argv[1:]:
    if argument.partition("=")[0] + "=" * ("=" in argument) not in COMMON + LATE:
        fail("Unknown option: " + argument)
if "--help" in given:
    for option in COMMON + LATE:
        print("  %-25s what it does" % option)
    sys.exit(0)
does = os.environ.get("STAND_IN_DOES", "")
if does == "hang":
    time.sleep(60)
if "--onnx" in given:
    if does == "refuse":
        fail("In node 3 (importModel): UNSUPPORTED_NODE: No importer registered for op: Odd")
    assert LATE[0] in given and os.path.isfile(given["--onnx"])
    with open(given["--saveEngine"], "w") as plan:
        plan.write(given.get("--shapes", ""))
    sys.exit(0)
if does == "crash":
    os.abort()
assert "--exposeDMA" in given and open(given["--loadEngine"]).read() == given.get("--shapes", "")
name, _, file = given["--loadInputs"].rpartition(":")
x = np.fromfile(file, np.float32).reshape(1, 4)
y = x * 2
print("[11/24/2026-10:00:00] [I] [TRT] [MemUsageChange] TensorRT-managed allocation in engine deserialization: CPU +0,"
      " GPU +5, now: CPU 0, GPU 5 (MiB)")
print("[11/24/2026-10:00:00] [I] [TRT] [MemUsageChange] TensorRT-managed allocation in IExecutionContext creation: "
      "CPU +0, GPU +1, now: CPU 0, GPU 6 (MiB)")
if "--dumpRawBindingsToFile" in given:
    for binding, kind, array in (("x/in", "input", x), ("y:0", "output", y)):
        file = "%s.%s.1.4.Float.raw" % (binding.replace("/", "_").replace(":", "_"), kind)
        print("[11/24/2026-10:00:00] [I] Writing file for %s binding %s (with datatype Float and dimensions 1.4) to %s"
              % (kind, binding, file))
        array.tofile(file)
if "--exportOutput" in given:
    with open(given["--exportOutput"], "w") as out:
        values = ", ".join("%g" % value for value in y.ravel())
        out.write('[\n  { "name" : "y:0"\n  , "dimensions" : "1x4"\n  , "values" : [ %s ]\n  }\n]\n' % values)
if "--exportTimes" in given:
    warmup, count = int(given["--warmUp"]), max(int(given["--iterations"]), 100 * int(given["--duration"]))
    entries = []
    for start in range(0 if release < 8600 else warmup, warmup + count):  # one inference a millisecond
        entries.append('{ "startH2dMs" : %d, "startComputeMs" : %d, "h2dMs" : 0.01, "computeMs" : 0.2, "d2hMs" : 0.04'
                       ', "latencyMs" : %s }\n' % (start, start, 0.25 if start >= warmup else 9))
    with open(given["--exportTimes"], "w") as out:
        out.write("[\n  " + ", ".join(entries) + "]\n")
if "--exportProfile" in given:
    with open(given["--exportProfile"], "w") as out:
        out.write('[\n  { "count" : 7 }\n, { "name" : "double + relu", "timeMs" : 1.4, "averageMs" : 0.2, "medianMs" : '
                  '0.19, "percentage" : 66.7 }\n, { "name" : "Reformatting CopyNode for Output Tensor 0 to double", '
                  '"timeMs" : 0.7, "averageMs" : 0.1, "medianMs" : 0.1, "percentage" : 33.3 }\n]\n')
if does == "silent":
    for file in os.listdir("."):
        if file.endswith((".raw", ".json")):
            os.unlink(file)
'''


def save(path: Path, shape: tuple[int | str, ...] = (1, 4), dtype: int = 1, quantized: bool = False) -> Path:
    """A net that doubles x/in to y:0."""
    nodes = [onnx.helper.make_node("Mul", ["x/in", "two"], ["d"], name="double")]
    nodes.append(onnx.helper.make_node("Relu", ["d"], ["r"], name="relu"))
    weights = [onnx.helper.make_tensor("two", dtype, [], [2.0])]
    if quantized:
        nodes.append(onnx.helper.make_node("QuantizeLinear", ["r", "scale", "zero"], ["q"], name="q"))
        nodes.append(onnx.helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y:0"], name="dq"))
        weights.append(onnx.helper.make_tensor("scale", 1, [], [0.1]))
        weights.append(onnx.helper.make_tensor("zero", 3, [], [0]))
    else:
        nodes[-1].output[0] = "y:0"
    ends = [onnx.helper.make_tensor_value_info(name, dtype, shape) for name in ("x/in", "two", "y:0")]
    graph = onnx.helper.make_graph(nodes, "net", ends[:2], ends[2:], weights)  # old exporters list weights as inputs
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    return path


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def calls(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[str]]]:
    """A stand-in for trtexec in PATH; the function tells how it was called."""
    program = tmp_path / "bin" / "trtexec"
    program.parent.mkdir()
    program.write_text(STAND_IN.replace("PYTHON", sys.executable, 1))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "calls.jsonl"))
    return lambda: [call[2] for call in logged(tmp_path)]


def logged(tmp_path: Path) -> list[list]:  # type: ignore[type-arg]
    return [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]


@contextmanager
def guest(tmp_path: Path, model: Path) -> Iterator[Connection]:
    with find(devices, "host").start("", engines.GUEST, engines.path("tensorrt"), tmp_path) as connection:
        connection.ask({"do": "load", "model": str(model), "threads": 1}, 60)
        yield connection


EXAMPLES = np.array([[[1, 2, 3, 4]], [[1.2345678, -5, 0, 1e-3]]], np.float32)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    np.savez(tmp_path / "inputs.npz", **{"0": EXAMPLES})
    return tmp_path / "inputs.npz"


LOOP = ["--loadEngine=model.plan", "--exposeDMA", "--loadInputs=x/in:input0.bin"]


def test_outputs_are_bit_exact_where_trtexec_writes_raw_files(
    calls: Callable[[], list[list[str]]], inputs: Path, tmp_path: Path, temporary: Path
) -> None:
    model = save(tmp_path / "net.onnx")
    with guest(tmp_path, model) as connection:
        connection.ask({"do": "run", "inputs": str(inputs), "outputs": str(tmp_path / "out.npz")}, 60)
        assert len(list(temporary.iterdir())) == 1
    with np.load(tmp_path / "out.npz") as opened:
        assert np.array_equal(opened["0"], EXAMPLES * 2) and opened["0"].dtype == np.float32
    once = [*LOOP, "--iterations=1", "--warmUp=0", "--duration=0", "--dumpRawBindingsToFile"]
    build = [f"--onnx={model}", "--saveEngine=model.plan", "--noTF32", "--skipInference"]
    assert calls() == [["--help"], build, once, once]
    wait_for(lambda: not list(temporary.iterdir()))


def test_where_trtexec_writes_no_raw_files_outputs_come_as_text(
    calls: Callable[[], list[list[str]]], inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_RELEASE", "8201")
    with guest(tmp_path, save(tmp_path / "net.onnx")) as connection:
        connection.ask({"do": "run", "inputs": str(inputs), "outputs": str(tmp_path / "out.npz")}, 60)
        assert connection.ask({"do": "facts"}, 60)["engine_version"] == "8.2.1"
    with np.load(tmp_path / "out.npz") as opened:
        np.testing.assert_allclose(opened["0"], EXAMPLES * 2, rtol=1e-5)
    assert calls()[1][-1] == "--buildOnly" and calls()[2][-1] == "--exportOutput=output.json"


@pytest.mark.parametrize("release", ["8201", "100300"])
def test_times_are_those_of_its_loop_and_not_of_a_process(
    release: str, calls: Callable[[], list[list[str]]], inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_RELEASE", release)
    request = {"warmup_count": 40_000, "warmup_s": 2.0, "min_count": 500, "min_s": 1.5, "max_s": 30.0}
    with guest(tmp_path, save(tmp_path / "net.onnx")) as connection:
        timed = connection.ask({"do": "time", "inputs": str(inputs), **request}, 60)
    assert timed["first_ms"] == 0.25 and timed["samples_ms"] == [0.25] * 500
    times = ["--exportTimes=times.json"]
    assert [call[3:] for call in calls()[2:5]] == [
        ["--iterations=1", "--warmUp=0", "--duration=0", *times],
        ["--iterations=8", "--warmUp=0", "--duration=0", *times],
        ["--iterations=500", "--warmUp=10000", "--duration=2", *times],  # 40,000 inferences of 0.25 ms
    ]
    assert timed["outputs_sha256"]


def test_no_more_is_asked_for_than_fits_into_the_longest_time(
    calls: Callable[[], list[list[str]]], tmp_path: Path
) -> None:
    session = tensorrt.TensorRT().load(str(save(tmp_path / "net.onnx")), 1)
    assert len(session.time([[EXAMPLES[0]]], 0, 0.0, 1000, 60.0, 0.025)) == 100
    assert "--iterations=100" in calls()[-1] and "--duration=1" in calls()[-1]


def test_a_profile_names_layers_and_the_operators_that_they_are_of(
    calls: Callable[[], list[list[str]]], inputs: Path, tmp_path: Path
) -> None:
    with guest(tmp_path, save(tmp_path / "net.onnx")) as connection:
        nodes = connection.ask({"do": "profile", "inputs": str(inputs), "count": 7}, 60)["nodes"]
    assert nodes == [
        {"name": "double + relu", "kind": "Mul + Relu", "ms": 0.19, "index": -1},
        {"name": "Reformatting CopyNode for Output Tensor 0 to double", "kind": "", "ms": 0.1, "index": -1},
    ]
    assert calls()[-1][3:] == [
        "--iterations=7", "--warmUp=200", "--duration=0", "--dumpProfile", "--exportProfile=profile.json",
    ]  # fmt: skip


def test_memory_is_that_of_the_process_that_executes_and_what_is_on_the_gpu(
    calls: Callable[[], list[list[str]]], inputs: Path, tmp_path: Path
) -> None:
    with find(devices, "host").start("", engines.GUEST, engines.path("tensorrt"), tmp_path) as connection:
        given = [{**one, "file": str(one["file"])} for one in first_inputs(inputs, tmp_path)]
        request = {"do": "memory", "model": str(save(tmp_path / "net.onnx")), "inputs": given, "threads": 1}
        weighed = connection.ask(request, 60)
    assert weighed["arena_bytes"] == 6 << 20
    assert weighed["peak_rss_bytes"] > (6 << 20) + (10 << 20)  # Python and numpy there


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells it")
def test_memory_of_a_program_is_not_that_of_who_starts_it() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        assert 0 < tensorrt._peak_bytes(process.pid) < 8 << 20
        process.kill()


@pytest.mark.parametrize(("kind", "flags"), [("float", []), ("int8", ["--int8"]), ("half", ["--fp16"])])
def test_the_precision_is_what_the_file_says(
    kind: str, flags: list[str], calls: Callable[[], list[list[str]]], tmp_path: Path
) -> None:
    model = save(tmp_path / "net.onnx", dtype=10 if kind == "half" else 1, quantized=kind == "int8")
    session = tensorrt.TensorRT().load(str(model), 1)
    assert [option for option in calls()[-1] if option in {"--int8", "--fp16", "--best"}] == flags
    dtype = "float16" if kind == "half" else "float32"
    assert session.inputs == [{"name": "x/in", "shape": [1, 4], "dtype": dtype}]
    assert session.outputs == [{"name": "y:0", "shape": [1, 4], "dtype": dtype}]


def test_open_dimensions_are_one(calls: Callable[[], list[list[str]]], tmp_path: Path) -> None:
    session = tensorrt.TensorRT().load(str(save(tmp_path / "net.onnx", shape=("batch", 4))), 1)
    assert session.inputs[0]["shape"] == [1, 4] and session.outputs[0]["shape"] == [-1, 4]
    session.feed([EXAMPLES[0]])
    session.invoke()
    assert np.array_equal(session.fetch()[0], EXAMPLES[0] * 2)
    assert all("--shapes=x/in:1x4" in call for call in calls()[1:])


@pytest.mark.parametrize(
    ("does", "why"),
    [
        (
            "refuse",
            "trtexec --onnx failed: In node 3 .importModel.: UNSUPPORTED_NODE: No importer registered for op: Odd",
        ),
        ("crash", "trtexec --loadEngine was ended by signal 6"),
        ("silent", "trtexec wrote no y_0.output.1.4.Float.raw"),
    ],
)
def test_a_failure_says_why_and_leaves_nothing(
    does: str, why: str, calls: object, inputs: Path, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_DOES", does)
    with pytest.raises(MeasureError, match=why), guest(tmp_path, save(tmp_path / "net.onnx")) as connection:
        connection.ask({"do": "run", "inputs": str(inputs), "outputs": str(tmp_path / "out.npz")}, 60)
    wait_for(lambda: not list(temporary.iterdir()))


def test_a_build_that_hangs_is_ended(
    calls: object, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_DOES", "hang")
    monkeypatch.setattr(tensorrt, "BUILD_LIMIT_S", 1.0)
    with pytest.raises(RuntimeError, match="took more than 1 s"):
        tensorrt.TensorRT().load(str(save(tmp_path / "net.onnx")), 1)
    assert not alive(logged(tmp_path)[-1][0])
    wait_for(lambda: not list(temporary.iterdir()))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends a child with its parent")
@pytest.mark.parametrize("kill", [os.kill, os.killpg], ids=["alone", "with its group"])
def test_a_guest_that_is_killed_leaves_neither_trtexec_nor_its_folder(
    kill: Callable[[int, int], None], calls: object, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_DOES", "hang")
    command = [sys.executable, str(engines.GUEST), str(engines.path("tensorrt"))]
    model = save(tmp_path / "net.onnx")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, process_group=0) as process:
        assert process.stdin
        process.stdin.write(json.dumps({"do": "load", "model": str(model), "threads": 1}).encode() + b"\n")
        process.stdin.flush()
        wait_for(lambda: (tmp_path / "calls.jsonl").exists() and len(logged(tmp_path)) == 2)
        pid, folder, _ = logged(tmp_path)[-1]
        assert alive(pid) and Path(folder).parent == temporary
        kill(process.pid, signal.SIGKILL)
    wait_for(lambda: not alive(pid) and not list(temporary.iterdir()))


def test_a_folder_goes_with_its_session(calls: object, tmp_path: Path, temporary: Path) -> None:
    session = tensorrt.TensorRT().load(str(save(tmp_path / "net.onnx")), 1)
    (folder,) = temporary.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    del session
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    "content", [b"", b"not a model", bytes(4096), b"TFL3" * 100, b"\x08\x0a" * 500, b"\x3a\xff\x7f"]
)
def test_a_file_that_is_no_model_does_not_reach_trtexec(
    content: bytes, calls: object, tmp_path: Path, temporary: Path
) -> None:
    model = tmp_path / "bad.onnx"
    model.write_bytes(content)
    with pytest.raises(ValueError, match="ONNX file"):
        tensorrt.TensorRT().load(str(model), 1)
    assert not (tmp_path / "calls.jsonl").exists() and not list(temporary.iterdir())


def test_every_cut_of_a_model_is_read_or_refused(tmp_path: Path) -> None:
    data = save(tmp_path / "net.onnx", quantized=True).read_bytes()
    for size in range(len(data)):
        (tmp_path / "cut.onnx").write_bytes(data[:size])
        try:
            tensorrt._read_model(str(tmp_path / "cut.onnx"))
        except ValueError as refused:
            assert str(refused)


@pytest.mark.parametrize("name", ["a,b", "it's", 'a"b', "a*", "a b", ""])
def test_a_name_that_trtexec_would_take_apart_is_refused(name: str, tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info(name, 1, [1])
    with pytest.raises(ValueError, match="cannot be told the name"):
        tensorrt._described(memoryview(value.SerializeToString()))


def test_a_type_that_releases_treat_otherwise_is_refused() -> None:
    value = onnx.helper.make_tensor_value_info("x", 3, [1])
    with pytest.raises(ValueError, match="x is of a type"):
        tensorrt._described(memoryview(value.SerializeToString()))
    assert tensorrt._bound("int64", (8, 2, 1)) == "int32" and tensorrt._bound("int64", (10, 3, 0)) == "int64"


def test_an_input_of_another_shape_is_refused(calls: object, tmp_path: Path) -> None:
    session = tensorrt.TensorRT().load(str(save(tmp_path / "net.onnx")), 1)
    session.feed([np.zeros((2, 4), np.float32)])
    with pytest.raises(ValueError, match=r"x/in is \[1, 4\] and was given \[2, 4\]"):
        session.invoke()


# --- the formats, as sampleReporting.cpp prints them


def test_times_of_other_releases() -> None:
    old = '[\n  { "startInMs" : 0, "endInMs" : 1, "startComputeMs" : 1, "endComputeMs" : 3, "startOutMs" : 3, "endOut'
    old += 'Ms" : 4, "inMs" : 1, "computeMs" : 2, "outMs" : 1, "latencyMs" : 4, "endToEndMs" : 4 }\n]\n'
    assert tensorrt._latencies(old, 0) == [4.0]
    new = '[\n  { "startEnqMs" : 201.2, "endEnqMs" : 201.9, "startH2dMs" : 201, "endH2dMs" : 201.2, "startComputeMs" : '
    new += '201.2, "endComputeMs" : 203, "startD2hMs" : 203, "endD2hMs" : 203.1, "h2dMs" : 0.2, "computeMs" : 1.8, '
    new += '"d2hMs" : 0.1, "latencyMs" : 2.1 }\n]\n'
    assert tensorrt._latencies(new, 200) == [2.1]


@pytest.mark.parametrize(
    "text", ["", "[\n]\n", "{}", "[1]", '[ { "latencyMs" : 1 } ]', '[ { "startComputeMs" : 0, "latencyMs" : 0 } ]']
)
def test_times_that_are_none_are_no_latency(text: str) -> None:
    with pytest.raises(RuntimeError, match="trtexec wrote"):
        tensorrt._latencies(text, 0)


def test_a_profile_without_medians_and_one_that_is_none() -> None:
    old = '[\n  { "count" : 3 }\n, { "name" : "a", "timeMs" : 3, "averageMs" : 1, "percentage" : 100 }\n]\n'
    assert tensorrt._layers(old, {"a": "Conv"}) == [{"name": "a", "kind": "Conv", "ms": 1.0, "index": -1}]
    with pytest.raises(RuntimeError, match="another profile"):
        tensorrt._layers('[ { "count" : 1 }, { "name" : "a"b" } ]', {})


def test_an_output_may_hold_what_is_no_number() -> None:
    text = '[\n  { "name" : "y"\n  , "dimensions" : "2x2"\n  , "values" : [ 1e-05, nan, -nan, inf ]\n  }\n'
    text += ', { "name" : "z"\n  , "dimensions" : "(1, 2)"\n  , "values" : [ -inf, 3 ]\n  }\n]\n'
    found = tensorrt._exported(text)
    np.testing.assert_array_equal(found["y"], [[1e-05, np.nan], [np.nan, np.inf]])
    np.testing.assert_array_equal(found["z"], [[-np.inf, 3]])
    with pytest.raises(RuntimeError, match="another output"):
        tensorrt._exported(text.replace("2x2", "2x3"))


def test_raw_files_are_read_by_their_size_and_from_their_folder_alone(tmp_path: Path) -> None:
    np.array([1, 2], np.int32).tofile(tmp_path / "y.raw")
    line = "[I] Writing file for output binding y (with datatype Int32 and dimensions 2) to {}\n"
    outputs = [{"name": "y", "shape": [2], "dtype": "int64"}]
    assert tensorrt._dumped(line.format("/etc/y.raw"), str(tmp_path), outputs)["y"].tolist() == [1, 2]
    with pytest.raises(RuntimeError, match="8 bytes for 2 values of bool"):
        tensorrt._dumped(line.format("y.raw"), str(tmp_path), [dict(outputs[0], dtype="bool")])


# --- where it is not


def test_where_trtexec_is_not_it_says_what_brings_it(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "PLACES", (str(tmp_path),))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not engines.installed("tensorrt") and "tensorrt" not in engines.able("net.onnx")
    assert "JetPack" in engines.how_to_install("tensorrt")
    with pytest.raises(RuntimeError, match="no trtexec in PATH"):
        tensorrt.TensorRT().version()


@pytest.mark.skipif(os.path.exists("/usr/src/tensorrt/bin/trtexec"), reason="TensorRT is here")  # noqa: PTH110
def test_a_device_without_trtexec_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    keeper = engines.GUEST.parents[1] / "devices" / "_keeper.py"
    command = [sys.executable, str(keeper), "probe", str(engines.path("tensorrt"))]
    kept = tmp_path / "keeper.py"
    kept.write_bytes(keeper.read_bytes())
    command[1] = str(kept)
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PATH": str(tmp_path)}
    )
    said = json.loads(ended.stdout)
    assert ended.returncode == 1 and said["lacks"] == [said["needs"]] and "JetPack" in said["needs"]
