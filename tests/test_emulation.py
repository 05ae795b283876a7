"""Emulated Arm, as far as no emulator is needed: classes of instructions, cores, descriptions, missing tools."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from edgekd import emulation, engines, shipped
from edgekd.caches import MARKER
from edgekd.cli import main
from edgekd.emulation import instructions, plugin, root, wheels
from edgekd.emulation.cores import CORES, machine_at
from edgekd.emulation.description import files
from edgekd.emulation.instructions import KINDS, kind_of
from edgekd.errors import ConfigError, PluginUnavailable

ENCODINGS = {  # as GNU as 2.40 writes them
    "dot": {0x4E829420: "sdot v0.4s, v1.16b, v2.16b", 0x4FA2E820: "sdot v0.4s, v1.16b, v2.4b[3]"}
    | {0x4E829C20: "usdot v0.4s, v1.16b, v2.16b", 0x4F22F020: "sudot v0.4s, v1.16b, v2.4b[1]"},
    "matrix_multiply": {0x4E82A420: "smmla v0.4s, v1.16b, v2.16b", 0x6E42EC20: "bfmmla v0.4s, v1.8h, v2.8h"},
    "fma": {0x4E22CC20: "fmla v0.4s, v1.4s, v2.4s", 0x4FA21820: "fmla v0.4s, v1.4s, v2.s[3]"}
    | {0x1F020C20: "fmadd s0, s1, s2, s3", 0x5FA21020: "fmla s0, s1, v2.s[1]", 0x4EE2CC20: "fmls v0.2d, v1.2d, v2.2d"},
    "fma_half": {0x4E420C20: "fmla v0.8h, v1.8h, v2.8h", 0x6FB28820: "fmlal2 v0.4s, v1.4h, v2.h[7]"},
    "widening_multiply": {0x0E22C020: "smull v0.8h, v1.8b, v2.8b", 0x0F722020: "smlal v0.4s, v1.4h, v2.h[3]"}
    | {0x2EA2A020: "umlsl v0.2d, v1.2s, v2.2s", 0x0E62D020: "sqdmull v0.4s, v1.4h, v2.4h"},
    "vector_multiply": {0x4E629420: "mla v0.8h, v1.8h, v2.8h", 0x6EA2B420: "sqrdmulh v0.4s, v1.4s, v2.4s"}
    | {0x4F82D820: "sqrdmulh v0.4s, v1.4s, v2.s[2]", 0x6F520020: "mla v0.8h, v1.8h, v2.h[1]"},
    "vector_float": {0x4E22D420: "fadd v0.4s, v1.4s, v2.4s", 0x4E21D820: "scvtf v0.4s, v1.4s"}
    | {0x4FA29820: "fmul v0.4s, v1.4s, v2.s[3]", 0x6EF8F820: "fneg v0.8h, v1.8h", 0x6E30F820: "fmaxv s0, v1.4s"},
    "float": {0x1E222820: "fadd s0, s1, s2", 0x1E220020: "scvtf s0, w1"},
    "vector": {0x4EA28420: "add v0.4s, v1.4s, v2.4s", 0x4F000400: "movi v0.4s, #0", 0x0E614820: "sqxtn v0.4h, v1.4s"}
    | {0x0E22E020: "pmull v0.8h, v1.8b, v2.8b", 0x4E040C20: "dup v0.4s, w1", 0x4F3D0420: "sshr v0.4s, v1.4s, #3"},
    "atomic": {0xC85F7C20: "ldxr x0, [x1]", 0xF8E08041: "swpal x0, x1, [x2]", 0xC8A07C41: "cas x0, x1, [x2]"},
    "prefetch": {0xF9800000: "prfm pldl1keep, [x0]", 0xF89F8000: "prfm pldl1keep, [x0, #-8]"},
    "vector_store": {
        0x3D800020: "str q0, [x1]",
        0xAC810400: "stp q0, q1, [x0], #32",
        0x0D004800: "st1 {v0.h}[1], [x0]",
    },
    "vector_load": {0x3DC00020: "ldr q0, [x1]", 0xAD400400: "ldp q0, q1, [x0]", 0x4D40C800: "ld1r {v0.4s}, [x0]"}
    | {0x9C000000: "ldr q0, .", 0xBC626820: "ldr s0, [x1, x2]"},
    "store": {0xF9000020: "str x0, [x1]", 0xA9BF07E0: "stp x0, x1, [sp, #-16]!", 0x781FD020: "sturh w0, [x1, #-3]"},
    "load": {0xF9400020: "ldr x0, [x1]", 0xA94007E0: "ldp x0, x1, [sp]", 0xB8A26820: "ldrsw x0, [x1, x2]"}
    | {0x58000000: "ldr x0, .", 0x69400440: "ldpsw x0, x1, [x2]"},
    "system": {0xD503201F: "nop", 0xD53BD040: "mrs x0, tpidr_el0", 0xD5033BBF: "dmb ish"},
    "branch": {0x94000000: "bl .", 0xB4000000: "cbz x0, .", 0xD65F03C0: "ret", 0xD4000001: "svc #0"},
    "multiply": {0x9B027C20: "mul x0, x1, x2", 0x9BC27C20: "umulh x0, x1, x2"},
    "divide": {0x9AC20C20: "sdiv x0, x1, x2", 0x1AC20820: "udiv w0, w1, w2"},
    "integer": {0x8B020020: "add x0, x1, x2", 0x92401C20: "and x0, x1, #0xff", 0x9AC22020: "lsl x0, x1, x2"}
    | {0x9A820020: "csel x0, x1, x2, eq", 0x1AC24020: "crc32b w0, w1, w2"},
    "other": {0x04A0E3E0: "cntw x0 (SVE)"},
}


def test_every_class_of_instructions_has_examples() -> None:
    assert set(ENCODINGS) == set(KINDS)


@pytest.mark.parametrize(
    ("kind", "word"), [pytest.param(k, w, id=text) for k, some in ENCODINGS.items() for w, text in some.items()]
)
def test_an_instruction_is_of_its_class(kind: str, word: int) -> None:
    assert kind_of(word) == kind


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
def test_the_plugin_tells_the_same_classes(tmp_path: Path) -> None:
    """What C makes of the table; the plugin itself needs QEMU to be loaded."""
    source = tmp_path / "kinds.c"
    body = plugin.SOURCE.read_text().partition("static unsigned kind_of")[2].partition("/* --- caches")[0]
    source.write_text(f"#include <stdint.h>\n{instructions.c_header('aarch64')}\nunsigned kind_of{body}")
    library = tmp_path / "kinds.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    called = ctypes.CDLL(str(library)).kind_of
    called.argtypes = [ctypes.c_uint32]
    for some in ENCODINGS.values():
        for word in some:
            assert KINDS[called(word)] == kind_of(word)


@pytest.mark.parametrize("address", ["max", "max,sme=off"])
def test_the_core_max_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="no real one") as refused:
        machine_at(address)
    assert refused.value.hint == "name one: qemu:cortex-a72"


@pytest.mark.parametrize(
    "address", ["", "../x", "/etc/passwd", "cortex-a72,plugin=x", "cortex-a72 -g 1", "a\nb", "a\0b", "x" * 100_000]
)
def test_what_is_no_core_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="core"):
        machine_at(address)


def test_a_slip_is_told() -> None:
    with pytest.raises(ConfigError) as refused:
        machine_at("cortex-a73")
    assert "did you mean 'qemu:cortex-a7" in refused.value.hint


def test_a_target_is_its_core_with_its_own_number_clock_and_caches() -> None:
    machine, target = machine_at("raspberry-pi-zero-2"), shipped.load_target("raspberry-pi-zero-2")
    cluster = target.device.clusters[0]
    assert machine.core.name == target.emulator == "cortex-a53"
    assert (machine.count, machine.clock_mhz) == (cluster.count, cluster.clock_mhz)
    assert [cache.size_bytes for cache in machine.caches] == [cluster.l1d_bytes, cluster.l2_bytes]


@pytest.mark.parametrize("name", shipped.target_names())
def test_every_target_names_a_core_that_is_known_or_none(name: str) -> None:
    target = shipped.load_target(name)
    if target.emulator:
        assert machine_at(name).core == CORES[target.emulator]
    else:
        with pytest.raises(ConfigError, match="imitates no core"):
            machine_at(name)


@pytest.mark.parametrize("name", CORES)
def test_caches_have_whole_sets(name: str) -> None:
    for cache in machine_at(name).caches:
        assert cache.size_bytes % (64 * cache.ways) == 0


def test_a_description_is_what_linux_would_say_of_the_core() -> None:
    written = files(machine_at("cortex-a72"))
    assert written["proc/cpuinfo"].count("CPU part\t: 0xd08") == 4
    system = "sys/devices/system/cpu"
    assert written[f"{system}/online"] == "0-3"
    assert written[f"{system}/cpu0/cpufreq/cpuinfo_max_freq"] == "1800000"
    assert (
        written[f"{system}/cpu3/regs/identification/midr_el1"] == "0x00000000410fd083"
    )  # TRM 100095, MIDR_EL1 of r0p3
    assert written[f"{system}/cpu1/cache/index2/size"] == "1024K"
    assert written[f"{system}/cpu1/topology/core_siblings"] == "f"
    assert not [name for name in written if name.startswith("/") or ".." in name]


def test_missing_tools_are_named_with_their_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    with pytest.raises(PluginUnavailable, match="qemu-aarch64, apt-get, dpkg-deb, gcc") as missing:
        emulation.prepare("cortex-a72", {"litert": engines.path("litert")})
    assert missing.value.hint == "apt install qemu-user apt dpkg gcc libc6-dev"
    assert not (tmp_path / "cache").exists()
    state = emulation.state(CORES["cortex-a72"], {"litert": engines.path("litert")})
    assert (state.ready, state.hint) == (False, "apt install qemu-user")


def test_what_is_not_prepared_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    emulator = tools / "qemu-aarch64"
    emulator.write_text("#!/bin/sh\necho Available CPUs: cortex-a72\n")
    emulator.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/bin")
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    with pytest.raises(PluginUnavailable, match="not prepared for the engine litert") as missing:
        emulation.launch(machine_at("cortex-a72"), engines.path("litert"), 5)
    assert missing.value.hint == "edgekd device prepare qemu:cortex-a72"
    with pytest.raises(PluginUnavailable, match="does not know cortex-a53"):
        emulation.launch(machine_at("cortex-a53"), engines.path("litert"), 5)
    assert main(["device", "list"]) == 0
    assert "edgekd device prepare qemu:cortex-a72" in capsys.readouterr().out


def test_an_offline_machine_is_told_so_and_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    apt = tools / "apt-get"
    apt.write_text("#!/bin/sh\necho \"E: Could not resolve 'deb.debian.org'\" >&2\nexit 100\n")
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/bin:/usr/bin")
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    with pytest.raises(PluginUnavailable, match=r"root file system .* Could not resolve") as offline:
        root.make("aarch64")
    assert "go online" in offline.value.hint
    assert not root.folder("aarch64").exists()


def test_a_half_made_root_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    half = root.folder("aarch64")
    (half / "usr").mkdir(parents=True)
    assert not emulation.state(CORES["cortex-a72"], {}).ready
    assert not (half / MARKER).exists()


def test_engines_say_what_they_need_on_arm(tmp_path: Path) -> None:
    assert wheels.packages_of(engines.path("litert"), "aarch64")[0].startswith("ai-edge-litert==")
    assert wheels.packages_of(engines.path("tflite_runtime"), "aarch64")[0] == "tflite-runtime==2.14.0"
    assert not emulation.able(engines.path("coreml"), CORES["cortex-a72"])
    with pytest.raises(ConfigError, match="coreml does not run on an emulated cortex-a72"):
        emulation.prepare("cortex-a72", {"coreml": engines.path("coreml")})
    own = tmp_path / "own.py"
    own.write_text("WHEELS = ('numpy==2.3.5', 3)\n")
    with pytest.raises(ConfigError, match="WHEELS is not a tuple"):
        emulation.able(own, CORES["cortex-a72"])


@pytest.mark.parametrize(
    "name",
    [one for one in ("litert", "onnxruntime", "openvino") if emulation.able(engines.path(one), CORES["cortex-a72"])],
)
def test_wheels_are_pinned(name: str) -> None:
    assert all("==" in package for package in wheels.packages_of(engines.path(name), "aarch64"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["prepare"],
        ["prepare", "host"],
        ["prepare", "qemu:max"],
        ["prepare", "qemu:../../x"],
        ["prepare", "nothing:x"],
        ["prepare", "qemu:cortex-a72", "--engine", "nothing"],
        ["list", "qemu:cortex-a72"],
    ],
    ids=" ".join,
)
def test_the_command_refuses_in_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["device", *arguments]) in {2, 4}
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith("edgekd: ")
    assert shown[1].startswith("hint: ")
    assert len(shown) == 2
