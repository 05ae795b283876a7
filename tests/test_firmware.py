"""What a microcontroller's firmware gets: C that compiles, an arena that was planned, numbers of a compiler."""

import json
import re
import shlex
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

import edgekd
from edgekd import compilers, engines, formats
from edgekd.api import resume, run_all
from edgekd.c_source import reserved, write_c
from edgekd.cli import main
from edgekd.errors import BUDGET_BROKEN, ConfigError, ConvertError, PluginUnavailable
from edgekd.firmware import firmware_of_file
from edgekd.shipped import load_target
from edgekd.specs import Arena, Budget, Compiled, File, Firmware
from edgekd.verdicts import compiled_latency, sram_bytes, static_memory
from tests.models import int8_dense, tflite
from tests.test_api import own

BUDGET = Budget(latency_ms=20, peak_memory_bytes=10_000)

needs_micro = pytest.mark.skipif(not engines.installed("tflite_micro"), reason="edgekd engines install tflite_micro")
needs_vela = pytest.mark.skipif(not compilers.installed("vela"), reason="edgekd engines install vela")

PROGRAM = """
#include <cstdio>
#include "model.h"
struct Resolver {
  int AddFullyConnected() { ++added; return 0; }
  int added = 0;
};
alignas(16) static unsigned char arena[MODEL_ARENA_BYTES];
int main() {
  Resolver resolver;
  if (model_add_operators(resolver) != 0 || resolver.added != MODEL_OPERATORS) return 1;
  if (reinterpret_cast<unsigned long long>(model_data) % 16 || sizeof(arena) != 2048) return 2;
  if (MODEL_INPUT_0_ELEMENTS != 16 || MODEL_INPUT_0_SCALE != 0.5f || MODEL_INPUT_0_ZERO_POINT != -3) return 3;
  if (MODEL_OUTPUT_0_ELEMENTS != 4 || MODEL_OUTPUT_0_SCALE != 0.25f || MODEL_OUTPUT_0_ZERO_POINT != 7) return 4;
  return std::fwrite(model_data, 1, model_data_len, stdout) == model_data_len ? 0 : 5;
}
"""


@pytest.mark.skipif(
    shutil.which("g++") is None or shutil.which("gcc") is None, reason="no C++ compiler: apt install g++"
)
def test_the_sources_compile_and_hold_the_very_file(tmp_path: Path) -> None:
    model = int8_dense(tmp_path / "dense.tflite")
    write_c(model, 2048, "a line\n#error or two */ ??/", tmp_path / "model.h", tmp_path / "model.cc")
    (tmp_path / "main.cc").write_text(PROGRAM, encoding="utf-8")
    (tmp_path / "plain.c").write_text('#include "model.h"\n', encoding="utf-8")
    strict = ["-Wall", "-Wextra", "-Werror", "-trigraphs"]
    subprocess.run(["gcc", *strict, "-std=c99", "-c", "plain.c"], cwd=tmp_path, check=True)
    subprocess.run(["g++", *strict, "-std=c++14", "main.cc", "model.cc", "-o", "main"], cwd=tmp_path, check=True)
    ended = subprocess.run([tmp_path / "main"], capture_output=True, check=False)
    assert ended.returncode == 0 and ended.stdout == model.read_bytes()


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("CONV_2D", "AddConv2D"),
        ("DEPTHWISE_CONV_2D", "AddDepthwiseConv2D"),
        ("AVERAGE_POOL_2D", "AddAveragePool2D"),
        ("L2_NORMALIZATION", "AddL2Normalization"),
        ("RELU6", "AddRelu6"),
        ("PADV2", "AddPadV2"),
        ("SPACE_TO_BATCH_ND", "AddSpaceToBatchNd"),
        ("SVDF", "AddSvdf"),
    ],
)
def test_functions_are_called_as_the_resolver_of_tensorflow_lite_micro_has_them(
    kind: str, function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = int8_dense(tmp_path / "dense.tflite")
    graph = formats.read(model)
    renamed = msgspec.structs.replace(graph, operators=(msgspec.structs.replace(graph.operators[0], kind=kind),))
    monkeypatch.setattr(formats, "read", lambda _: renamed)
    write_c(model, 1024, "", tmp_path / "model.h", tmp_path / "model.cc")
    assert re.findall(r"resolver\.(\w+)\(\)", (tmp_path / "model.h").read_text(encoding="utf-8")) == [function]


def test_an_operator_that_microcontrollers_do_not_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="no operator CUSTOM:Spectrum"):
        write_c(tflite(tmp_path / "hand.tflite"), 1024, "", tmp_path / "model.h", tmp_path / "model.cc")


def test_a_file_tells_what_its_integers_stand_for(tmp_path: Path) -> None:
    graph = formats.read(int8_dense(tmp_path / "dense.tflite"))
    (given,), (answered,) = graph.inputs, graph.outputs
    assert (given.dtype, given.scale, given.zero_point) == ("int8", 0.5, -3)
    assert (answered.dtype, answered.scale, answered.zero_point) == ("int8", 0.25, 7)


def arena(arena_bytes: int = 9000, persistent_bytes: int = 4000) -> Arena:
    return Arena(
        artifact="tflite-int8",
        engine="tflite_micro",
        engine_version="1",
        provenance="host",
        file_bytes=10,
        arena_bytes=arena_bytes,
        persistent_bytes=persistent_bytes,
    )


def compiled(*cpu_operators: str, sram_bytes: int = 5000) -> Compiled:
    return Compiled(
        artifact="tflite-int8",
        compiler="Arm Vela",
        compiler_version="5.2.0",
        processor="ethos-u55-128 at 500 MHz",
        provenance="estimated",
        model=File(path="x", size_bytes=7, sha256="0" * 64),
        npu_operators=3,
        cpu_operators=cpu_operators,
        macs=1,
        cycles=500_000,
        latency_ms=1.0,
        sram_bytes=sram_bytes,
        flash_bytes=1,
    )


def test_memory_is_the_arena_or_what_a_compiler_places_and_the_records() -> None:
    plain = static_memory(Firmware(artifact="a", arena=arena()), BUDGET)
    assert plain and (plain.found, plain.provenance, plain.ok) == (9000, "host", True)
    both = static_memory(Firmware(artifact="a", arena=arena(), compiled=compiled()), BUDGET)
    assert both and (both.found, both.provenance, both.ok) == (9000, "estimated", True)
    large = static_memory(Firmware(artifact="a", arena=arena(), compiled=compiled(sram_bytes=6001)), BUDGET)
    assert large and not large.ok
    left = Firmware(artifact="a", arena=arena(), compiled=compiled("Mean of model"))
    assert sram_bytes(left) == 14_000, "nobody says how much of its arena the CPU needs"
    nothing_there = msgspec.structs.replace(compiled("Mean of model"), npu_operators=0)
    whole = static_memory(Firmware(artifact="a", arena=arena(), compiled=nothing_there), BUDGET)
    assert whole and (whole.found, whole.provenance) == (9000, "host")
    alone = Firmware(artifact="a", compiled=compiled())
    assert sram_bytes(alone) == 5000
    assert static_memory(Firmware(artifact="a"), BUDGET) is None
    assert reserved(1) == 1024 and reserved(100_000) % 1024 == 0 and 125_000 <= reserved(100_000) < 126_024


def test_what_is_left_to_the_cpu_is_never_taken_for_nothing() -> None:
    whole = compiled_latency(compiled(), BUDGET, 100.0)
    assert whole.ok and whole.provenance == "estimated" and whole.high is None and "Arm Vela 5.2.0" in whole.note
    bounded = compiled_latency(compiled("Mean of model"), BUDGET, 5.0)
    assert bounded.ok and (bounded.low, bounded.found, bounded.high) == (1.0, 1.0, 6.0)
    assert not compiled_latency(compiled("Mean of model"), BUDGET, 19.5).ok
    assert "left to the processor beside it: Mean of model" in bounded.note


@needs_micro
def test_an_arena_is_planned_by_the_runtime(tmp_path: Path) -> None:
    model = int8_dense(tmp_path / "dense.tflite")
    made, verdicts = firmware_of_file(model, load_target("stm32h7"), tmp_path / "out")
    assert made.compiled is None and made.arena and made.c
    assert 0 < made.arena.persistent_bytes < made.arena.arena_bytes < 10_000
    assert made.c.arena_bytes == reserved(made.arena.arena_bytes)
    limits = {one.limit: (one.provenance, one.ok) for one in verdicts}
    estimated, host = ("estimated", True), ("host", True)
    assert limits == {"latency_ms": estimated, "peak_memory_bytes": host, "file_bytes": host}
    assert "spec sheet only" in verdicts[0].note, "nothing is timed"
    assert f"model_data_len = {model.stat().st_size};" in (tmp_path / "out/model.cc").read_text(encoding="utf-8")
    assert f"MODEL_ARENA_BYTES {made.c.arena_bytes}\n" in (tmp_path / "out/model.h").read_text(encoding="utf-8")


@needs_micro
@needs_vela
def test_a_model_is_compiled_for_a_neural_processor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = int8_dense(tmp_path / "dense.tflite")
    with zipfile.ZipFile(model, "a") as labels:
        labels.writestr("labels.txt", "a\nb\n")
    command = ["compile", str(model), "-t", "corstone-300", "-o", str(tmp_path / "out")]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    limits = {one["limit"]: one["provenance"] for one in told["verdicts"]}
    assert limits == {"latency_ms": "estimated", "peak_memory_bytes": "estimated", "file_bytes": "host"}
    assert told["compiled"]["processor"].startswith("ethos-u55-128 at 500 MHz") and told["compiled"]["provenance"]
    shipped = tmp_path / "out" / "dense_vela.tflite"
    assert [one.kind for one in formats.read(shipped).operators] == ["CUSTOM:ethos-u"]
    assert zipfile.ZipFile(shipped).read("labels.txt") == b"a\nb\n", "labels go with the model"
    header = (tmp_path / "out/model.h").read_text(encoding="utf-8")
    assert "resolver.AddEthosU();" in header and "MODEL_OPERATORS 1\n" in header
    assert main(command) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "holds latency_ms" in shown and "[estimated]" in shown and "Arm Vela 5.2.0" in shown


def test_without_the_runtime_the_hint_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    model = int8_dense(tmp_path / "dense.tflite")
    with pytest.raises(PluginUnavailable) as missing:
        firmware_of_file(model, load_target("stm32h7"), tmp_path / "out")
    assert missing.value.hint == "edgekd engines install tflite_micro"


def test_other_devices_have_no_firmware(tmp_path: Path) -> None:
    model = int8_dense(tmp_path / "dense.tflite")
    with pytest.raises(ConfigError, match="raspberry-pi-4 is no microcontroller"):
        firmware_of_file(model, load_target("raspberry-pi-4"), tmp_path / "out")


def test_times_of_a_microcontrollers_runtime_are_not_taken_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "tflite_micro" not in engines.fitting("model.tflite")
    assert main(["bench", str(int8_dense(tmp_path / "dense.tflite")), "--engine", "tflite_micro"]) == 2
    assert "times of tflite_micro tell nothing of a device" in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """A run to both microcontrollers, and what it tells of each."""
    folder = tmp_path_factory.mktemp("micro") / "run"
    recipe = own(space={"width": [4]}, teacher_epochs=2, epochs=2, views=edgekd.Views(count=1))
    results = run_all(recipe, ["stm32h7", "corstone-300"], out=folder)
    return folder, {result.made.target: result.summary() for result in results}


@needs_micro
@needs_vela
def test_a_run_holds_flash_and_sram_against_the_budget(run: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    folder, told = run
    for target in ("stm32h7", "corstone-300"):
        (made,), verdicts = told[target]["firmware"], {one["limit"]: one for one in told[target]["verdicts"]}
        assert set(verdicts) == {"latency_ms", "peak_memory_bytes", "file_bytes", "accuracy_floor", "parity"}
        assert verdicts["latency_ms"]["provenance"] == "estimated" and not told[target]["measurements"]
        assert verdicts["parity"]["provenance"] == "host" and verdicts["parity"]["ok"], "on TensorFlow Lite Micro"
        assert (folder / made["c"]["source"]["path"]).is_file() and "lacking" not in made
        page = (folder / target / "6-report/report.html").read_text(encoding="utf-8")
        assert "For the firmware" in page and "model.cc" in page
    plain, compiled = (told[target]["firmware"][0] for target in ("stm32h7", "corstone-300"))
    assert "compiled" not in plain and plain["arena"] == compiled["arena"], "the very same artifact"
    found = {one["limit"]: one["found"] for one in told["corstone-300"]["verdicts"]}
    assert found["file_bytes"] == compiled["compiled"]["model"]["size_bytes"]
    assert found["latency_ms"] == compiled["compiled"]["latency_ms"]
    assert any("ethos-u55-128 executes all" in one for one in told["corstone-300"]["findings"])


@needs_micro
@needs_vela
def test_what_is_not_installed_is_said_with_the_command_that_brings_it(
    run: tuple[Path, dict[str, dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run[0], tmp_path / "run")
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    for result in resume(tmp_path / "run"):
        told = " ".join(result.summary()["findings"])
        assert "edgekd engines install tflite_micro" in told
        assert ("edgekd engines install vela" in told) == (result.made.target == "corstone-300")
        assert not any(one.limit == "parity" for one in result.verdicts)


ROOT = Path(__file__).parents[1]
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / "docs/microcontrollers.md").read_text("utf-8"), re.DOTALL)
    for line in block.splitlines()
]
LONG = [command for command in COMMANDS if command.startswith("edgekd run ")]


@needs_micro
@needs_vela
@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in LONG])
def test_the_commands_of_the_page(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exports").mkdir()
    int8_dense(tmp_path / "exports/net-tflite-int8.tflite")
    assert main(shlex.split(command)[1:]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_recipe_comes_to_both_microcontrollers_with_tools_that_are_installed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for command in [one for one in COMMANDS if one.startswith("edgekd engines ")]:
        assert main(shlex.split(command)[1:]) == 0, capsys.readouterr().err
    (command,) = LONG
    capsys.readouterr()
    assert main([*shlex.split(command)[1:], "--json", "-o", "run"]) in {0, BUDGET_BROKEN}
    for told in json.loads(capsys.readouterr().out)["targets"]:
        (made,), verdicts = told["firmware"], {one["limit"]: one for one in told["verdicts"]}
        assert set(verdicts) == {"latency_ms", "peak_memory_bytes", "file_bytes", "accuracy_floor", "parity"}
        assert all(verdicts[limit]["ok"] for limit in ("latency_ms", "peak_memory_bytes", "file_bytes", "parity"))
        assert verdicts["latency_ms"]["provenance"] == "estimated" and not told["measurements"]
        assert ("compiled" in made) == (told["target"] == "corstone-300") and "lacking" not in made
        page = (tmp_path / "run" / told["target"] / "6-report/report.html").read_text(encoding="utf-8")
        assert "For the firmware" in page and "model.cc" in page
