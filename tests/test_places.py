"""Where a target is measured: what the user names, else what is prepared."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from edgekd import devices, engines
from edgekd.caches import MARKER
from edgekd.devices import Connection
from edgekd.emulation import plugin, root, wheels
from edgekd.errors import ConfigError, EdgekdError, PluginUnavailable, UnknownPlugin
from edgekd.files import write_text
from edgekd.places import ask, devices_of, place_name, remember, remembered
from edgekd.plugins import find
from edgekd.runs import Run
from edgekd.shipped import load_target
from edgekd.specs import Target


def target(name: str = "raspberry-pi-4", **changes: Any) -> Target:
    return msgspec.structs.replace(load_target(name), **changes)


PI, PHONE = target(), target("android-low")


# --- naming


def test_a_device_is_for_all_targets_or_for_one() -> None:
    on = ["qemu:cortex-a53", "raspberry-pi-4=qemu:cortex-a72", "host", "qemu:cortex-a53"]
    assert devices_of(on, [PI, PHONE]) == {
        "raspberry-pi-4": ("qemu:cortex-a53", "qemu:cortex-a72", "host"),
        "android-low": ("qemu:cortex-a53", "host"),
    }
    assert devices_of([], [PI]) == {"raspberry-pi-4": ()}


def test_an_equals_sign_in_an_address_is_no_target() -> None:
    pytest.importorskip("asyncssh")
    device = "ssh://pi@board?python=/opt/python3"
    assert devices_of([device], [PI]) == {"raspberry-pi-4": (device,)}
    assert devices_of([f"raspberry-pi-4={device}"], [PI]) == {"raspberry-pi-4": (device,)}


@pytest.mark.parametrize(
    ("on", "error", "message", "hint"),
    [
        ("raspbery-pi-4=host", ConfigError, "'raspbery-pi-4', which is no target", "did you mean 'raspberry-pi-4'?"),
        ("zzz=host", ConfigError, "'zzz', which is no target", "targets of this run: raspberry-pi-4"),
        ("hst", UnknownPlugin, "no device named 'hst'", "did you mean 'host'?"),
        ("raspberry-pi-4=hst", UnknownPlugin, "no device named 'hst'", "did you mean 'host'?"),
        ("", UnknownPlugin, "no device named ''", "known: "),
    ],
)
def test_what_is_no_device_is_an_error(on: str, error: type[EdgekdError], message: str, hint: str) -> None:
    with pytest.raises(error, match=message) as refused:
        devices_of([on], [PI])
    assert refused.value.hint.startswith(hint)


def test_two_devices_never_share_a_folder() -> None:
    with pytest.raises(ConfigError, match="have one name in the run folder"):
        devices_of(["qemu:cortex-a72", "qemu:cortex_a72"], [PI])
    long = [f"qemu:{'x' * 300}{number}" for number in range(2)]
    assert len({place_name(one) for one in long}) == 2 and all(len(place_name(one)) <= 100 for one in long)
    assert place_name("ssh://pi@kitchen:22") == "ssh-pi-kitchen-22" and place_name("host") == "host"
    assert re.fullmatch(r"[A-Za-z0-9.-]+", place_name("ssh://../..@../x"))


def test_what_was_named_is_remembered_by_target(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    (run.folder / "inputs").mkdir()
    remember(run, {"raspberry-pi-4": ("host", "qemu:cortex-a72"), "android-low": ()})
    assert remembered(run.folder, [PI, PHONE]) == ("raspberry-pi-4=host", "raspberry-pi-4=qemu:cortex-a72")
    remember(run, {"raspberry-pi-4": ()})
    assert remembered(run.folder, [PI, PHONE]) == ()
    write_text(run.folder / "inputs" / "on-android-low.json", '{"device": 1}')
    with pytest.raises(ConfigError, match=r"on-android-low\.json"):
        remembered(run.folder, [PI, PHONE])


# --- what is prepared


@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and an emulator that knows two cores; nothing is prepared."""
    tools = tmp_path / "tools"
    tools.mkdir()
    file = tools / "qemu-aarch64"
    file.write_text("#!/bin/sh\necho Available CPUs: cortex-a72 cortex-a53\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/bin")
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    return file


def prepare(emulator: Path, *names: str) -> None:
    """Leave what `edgekd device prepare` leaves of a preparation that was finished."""
    packages = [wheels.packages_of(engines.path(name), "aarch64") for name in names]
    for folder in (root.folder("aarch64"), *(wheels.folder("aarch64", some) for some in packages)):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / MARKER, "{}")
    made = plugin.folder(emulator, "aarch64")
    made.mkdir(parents=True, exist_ok=True)
    write_text(made / MARKER, '{"problem": "no plugins"}')


def asked(run: Path, aim: Target = PI, *named: str) -> list[tuple[str, tuple[str, ...], int]]:
    return [(one.device, one.engines, one.threads) for one in ask(Run(run), aim, named, afresh=True, changed=True)]


here = pytest.mark.skipif(
    not (engines.installed("litert") and engines.installed("onnxruntime")), reason="litert or onnxruntime is missing"
)
HOST = ("host", ("litert", "onnxruntime"), 1)


@here
def test_without_a_name_it_is_this_machine_and_what_is_prepared_for_an_engine(emulator: Path, tmp_path: Path) -> None:
    assert asked(tmp_path) == [HOST]
    prepare(emulator)
    assert asked(tmp_path) == [HOST], "a root alone executes nothing"
    prepare(emulator, "onnxruntime")
    assert asked(tmp_path) == [HOST, ("qemu:cortex-a72", ("onnxruntime",), 4)]
    prepare(emulator, "litert")
    assert asked(tmp_path) == [HOST, ("qemu:cortex-a72", ("litert", "onnxruntime"), 4)]
    assert asked(tmp_path, target(exports=("onnx-fp32",)))[1] == ("qemu:cortex-a72", ("onnxruntime",), 4)
    assert asked(tmp_path, target(emulator="")) == [HOST]
    assert asked(tmp_path, target(emulator="cortex-x9")) == [HOST]


@here
def test_a_target_with_a_clock_of_its_own_is_emulated_by_its_name(emulator: Path, tmp_path: Path) -> None:
    prepare(emulator, "litert")
    assert asked(tmp_path, load_target("raspberry-pi-zero-2"))[1][0] == "qemu:cortex-a53"
    nano = load_target("jetson-nano")
    assert asked(tmp_path, msgspec.structs.replace(nano, engines=("litert",), exports=("tflite-int8",)))[1][0] == (
        "qemu:jetson-nano"
    )
    mine = msgspec.structs.replace(nano, name="mine", engines=("litert",), exports=("tflite-int8",))
    assert asked(tmp_path, mine)[1][0] == "qemu:cortex-a72", "of a target that is not shipped only the core is known"


@here
def test_without_an_emulator_it_is_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, emulator: Path
) -> None:
    emulator.unlink()
    assert asked(tmp_path) == [HOST]


def test_what_is_named_and_not_prepared_is_an_error_with_the_command(emulator: Path, tmp_path: Path) -> None:
    with pytest.raises(PluginUnavailable, match="qemu:cortex-a72 is not prepared for the engine litert") as refused:
        asked(tmp_path, PI, "qemu:cortex-a72")
    assert refused.value.hint == "edgekd device prepare qemu:cortex-a72"
    with pytest.raises(ConfigError, match="no core named 'cortex-a73'"):
        asked(tmp_path, PI, "qemu:cortex-a73")


@here
def test_what_is_named_is_all_there_is(emulator: Path, tmp_path: Path) -> None:
    prepare(emulator, "litert")
    assert asked(tmp_path, PI, "host") == [HOST]
    (place,) = ask(Run(tmp_path), PI, ["qemu:cortex-a72"], afresh=True, changed=True)
    assert place.engines == ("litert",) and set(place.lacking) == {"onnxruntime"} and place.wanted


@here
def test_a_device_that_brings_its_runtimes_is_started_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bringing:
        provenance = "measured"
        did: ClassVar[list[str]] = []

        @contextmanager
        def start(self, address: str, guest: Path, engine: Path, scratch: Path) -> Iterator[Connection]:
            self.did.append(f"start {engine.stem}")
            if engine.stem == "onnxruntime":
                raise PluginUnavailable("no package of onnxruntime is for it")
            with find(devices, "host").start("", guest, engine, scratch) as connection:
                yield connection

        def bring(self, engine: Path) -> None:
            self.did.append(f"bring {engine.stem}")

    monkeypatch.setattr(devices, "located", lambda _: (Bringing(), ""))
    aim = target(engines=("onnxruntime", "litert", "litert_builtin"))
    (place,) = ask(Run(tmp_path), aim, ["phone:x"], afresh=True, changed=True)
    assert place.engines == ("litert", "litert_builtin") and set(place.lacking) == {"onnxruntime"}
    assert Bringing.did == ["start onnxruntime", "start litert", "bring litert_builtin"]


# --- a device that has answered


def answered(run: Path, *exports: str) -> None:
    for export in exports:
        engine = "litert" if export.startswith("tflite") else "onnxruntime"
        folder = run / "raspberry-pi-4" / "5-measure" / f"{export}@{engine}@qemu-cortex-a72"
        folder.mkdir(parents=True)
        write_text(folder / "result.json", "{}")


@pytest.mark.parametrize(
    ("done", "afresh", "changed", "again"),
    [
        (("tflite-int8", "onnx-fp32"), True, False, False),
        (("tflite-int8", "onnx-fp32"), True, True, True),
        (("tflite-int8",), True, False, True),
        (("tflite-int8",), False, False, False),
        (("tflite-int8",), False, True, True),
        ((), False, False, True),
    ],
)
def test_a_device_that_has_answered_is_not_asked_again(
    done: tuple[str, ...], afresh: bool, changed: bool, again: bool, emulator: Path, tmp_path: Path
) -> None:
    """The emulator is not prepared, so whoever asks it is refused."""
    aim = target(exports=("tflite-int8", "onnx-fp32"))
    answered(tmp_path, *done)
    if again:
        with pytest.raises(PluginUnavailable):
            ask(Run(tmp_path), aim, ["qemu:cortex-a72"], afresh, changed)
        return
    (place,) = ask(Run(tmp_path), aim, ["qemu:cortex-a72"], afresh, changed)
    assert place.engines == ("litert", "onnxruntime")[: len(done)]
