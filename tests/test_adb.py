"""Phones behind adb: Google's own adbd, in namespaces of its own (see phone.py), and the `adb` of this machine.

EDGEKD_CACHE names the folder where what is fetched stays from one run to the next; the network is needed once.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd import devices, engines
from edgekd.bench import Bench, jobs, measured
from edgekd.devices import _adb, _android, _bundle, _keeper, adb
from edgekd.errors import ConfigError, DeviceUnreachable, EdgekdError, MeasureError, PluginUnavailable, StorageError
from edgekd.measure import PROTOCOLS
from edgekd.plugins import find
from edgekd.specs import Summary
from edgekd.tensors import write_inputs
from tests import phone
from tests.conftest import data_folder
from tests.held import ENGINE, HOSTILE, inputs_file, model_file, timed, wait_for
from tests.phone import Phone
from tests.test_benchmark_model import STAND_IN

PATIENCE_S = 8.0
"""An emulated Python takes a second to start."""
KEYWORDS = data_folder() / "mlperf_tiny" / "kws_ref_model.tflite"
TOY = ENGINE + '\nWHEELS = ("ai-edge-litert==2.3.0", "numpy==2.3.5")\n'

pytestmark = [pytest.mark.xdist_group("adb"), pytest.mark.timeout(300)]


# --- a phone, and an adb server of our own


@pytest.fixture(scope="module")
def client() -> Iterator[None]:
    """An adb whose server is nobody else's."""
    if not shutil.which("adb"):
        pytest.skip("adb is missing: apt install adb")
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as free:
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(free.getsockname()[1]))
        patch.setenv("ADB_MDNS_AUTO_CONNECT", "0")
        patch.delenv("ADB_SERVER_SOCKET", raising=False)
        free.close()
        yield
        subprocess.run(["adb", "kill-server"], check=False, capture_output=True)


@contextmanager
def attached(folder: Path, size_bytes: str = "2g") -> Iterator[Phone]:
    if why := phone.obstacle():
        pytest.skip(f"there can be no phone here: {why}")
    try:
        phone.make()
        _bundle.bundle(engines.path("litert"))
    except EdgekdError as error:
        pytest.skip(f"what a phone is made of cannot be had: {error}")
    folder.mkdir(exist_ok=True)
    with phone.running(folder, size_bytes) as one:
        wait_for(lambda: "connected to" in _call("connect", one.serial), "adbd answers")
        yield one
        _call("disconnect", one.serial)


def _call(*arguments: str) -> str:
    done = subprocess.run(["adb", *arguments], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def handy(client: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phone]:
    with attached(tmp_path_factory.mktemp("handy")) as one:
        yield one


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    file = tmp_path / "toy engine.py"
    file.write_text(TOY)
    return file


@contextmanager
def started(one: Phone, engine: Path, scratch: Path, query: str = "?keep=1") -> Iterator[devices.Connection]:
    """A connection that is patient for no longer than a test is, to a phone that keeps its Python."""
    plugin = adb.Adb(patience_s=PATIENCE_S)
    with plugin.start(f"//{one.serial}{query}", engines.GUEST, engine, scratch) as connection:
        yield connection


def left(one: Phone) -> list[str]:
    """What lies on a phone, but for bundles that were to stay."""
    return [name for name in one.left() if not name.startswith("edgekd.")]


def gone(one: Phone, seconds: float = 20) -> None:
    """Wait until nothing is left."""
    wait_for(lambda: left(one) == [] and not one.processes(), f"{one.left()} {one.processes()}", seconds)


# --- it works


def test_it_measures_on_the_device() -> None:
    assert find(devices, "adb").provenance == "measured"


def test_litert_answers_there_as_it_does_here(handy: Phone, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="pip install 'edgekd[tflite]'")
    if not KEYWORDS.exists():
        pytest.skip("no mlperf_tiny in EDGEKD_DATA")
    litert, inputs, found = engines.path("litert"), tmp_path / "inputs.npz", []
    examples = np.random.default_rng(0).integers(-128, 128, (8, 1, 49, 10, 1)).astype(np.int8)
    write_inputs(inputs, examples)
    host = find(devices, "host").start("", engines.GUEST, litert, tmp_path)
    for place in (host, started(handy, litert, tmp_path, "")):
        with place as connection:
            facts = connection.ask({"do": "facts"}, 120)
            connection.ask({"do": "load", "model": connection.put(KEYWORDS), "threads": 1}, 120)
            request = {"inputs": connection.put(inputs), "outputs": str(tmp_path / "out.npz")}
            ran = connection.ask({"do": "run", **request}, 120)
            connection.get(str(tmp_path / "out.npz"), tmp_path / "out.npz")
            counts = {"warmup_count": 1, "warmup_s": 0, "min_count": 5, "min_s": 0, "max_s": 10}
            times = connection.ask({"do": "time", "inputs": request["inputs"], **counts}, 120)
        with np.load(tmp_path / "out.npz", allow_pickle=False) as outputs:
            found.append((ran["outputs_sha256"], times["outputs_sha256"], outputs["0"].tolist()))
        assert len(times["samples_ms"]) >= 5 and min(times["samples_ms"]) > 0
    assert found[0] == found[1]
    assert facts["machine"]["cpu"] == "cortex-a72, emulated by QEMU"  # the last one is the phone
    gone(handy)
    assert handy.left() == []


def test_benchmark_model_is_executed_there(handy: Phone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for it: see test_benchmark_model.py."""
    monkeypatch.setattr(devices, "check_real", lambda *_: None)  # this phone imitates its processor
    program, net = tmp_path / "$(touch x) model", tmp_path / "net; touch x.tflite"
    program.write_text(STAND_IN)
    net.write_bytes(b"\n")
    bench = Bench(models=(str(net),), benchmark_model=str(program), mode="rapid", device=f"adb://{handy.serial}")
    (found,) = measured(bench, jobs(bench))
    assert isinstance(found, Summary), found
    assert (found.provenance, found.inferences, found.p50_ms) == ("measured", PROTOCOLS["rapid"].min_count, 1.412)
    assert found.machine.cpu == "cortex-a72, emulated by QEMU"
    gone(handy)
    assert handy.left() == []


def test_models_of_any_name_come_through(handy: Phone, engine: Path, tmp_path: Path) -> None:
    """And the same content is copied once, another content of a name takes its place, models stay together."""
    before = set(Path.cwd().iterdir())
    package = tmp_path / "net.mlpackage"
    (package / "Data" / "a b").mkdir(parents=True)
    model_file(package / "Data" / "a b", b"weights", "$(touch x)'\n")
    with started(handy, engine, tmp_path) as connection:
        (folder,) = left(handy)
        for index, name in enumerate([*HOSTILE, "a.$(touch x)", "x" * 200 + ".toy"]):
            there = connection.put(model_file(tmp_path, str(index).encode(), name))
            assert Path(there).name in {"model", "model.toy"}
            assert handy.inside(there).read_bytes() == str(index).encode()
        connection.get(there, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == str(index).encode()
        connection.ask({"do": "load", "model": there, "threads": 1}, 60)
        copied = handy.inside(connection.put(package))
        assert copied.suffix == ".mlpackage"
        assert (copied / "Data" / "a b" / "$(touch x)'\n").read_bytes() == b"weights"
        same = [connection.put(model_file(tmp_path, b"same", name)) for name in ("1.toy", "2.toy")]
        assert same[0] == same[1] != connection.put(model_file(tmp_path, b"other", "1.toy"))
        assert connection.put(model_file(tmp_path, b"third", "2.toy")) and not handy.inside(same[0]).exists()
        assert handy.inside(f"/data/local/tmp/{folder}").stat().st_mode & 0o777 == 0o700
        _check_errors(connection, tmp_path)
    assert set(Path.cwd().iterdir()) == before and not list(handy.folder.rglob("x"))
    gone(handy)


def _check_errors(connection: devices.Connection, tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match="failed on `no_such`"):
        connection.ask({"do": "no_such"}, 30)
    with pytest.raises(ConfigError):
        connection.get("/etc/passwd", tmp_path / "stolen")
    with pytest.raises(ConfigError):
        connection.put(tmp_path / "no such file")
    with pytest.raises(MeasureError):
        connection.ask({"do": "run", "inputs": "no", "outputs": "made.npz"}, 30)
    with pytest.raises(MeasureError, match="cannot read"):
        connection.get("made.npz", tmp_path / "made.npz")
    assert not (tmp_path / "stolen").exists() and not (tmp_path / "made.npz.partial").exists()


@pytest.mark.slow
def test_a_bundle_stays_where_that_is_asked_for(handy: Phone, engine: Path, tmp_path: Path) -> None:
    with started(handy, engine, tmp_path) as connection:
        connection.ask({"do": "facts"}, 60)
        (folder,) = left(handy)
        assert not handy.inside(f"/data/local/tmp/{folder}/bundle").exists()
    gone(handy)
    (kept,) = handy.left()
    assert kept == f"edgekd.{_bundle.bundle(engine).sha256[:16]}"


# --- nothing stays behind


@pytest.mark.slow
def test_a_crash_and_a_killed_keeper_leave_nothing(handy: Phone, engine: Path, tmp_path: Path) -> None:
    with started(handy, engine, tmp_path) as connection:
        model, inputs = connection.put(model_file(tmp_path, b"crash")), connection.put(inputs_file(tmp_path))
        connection.ask({"do": "load", "model": model, "threads": 1}, 60)
        with pytest.raises(MeasureError, match="crashed") as crashed:
            connection.ask({"do": "run", "inputs": inputs, "outputs": "o.npz"}, 60)
        assert "engine.log" in crashed.value.hint
        _call("-s", handy.serial, "shell", "pkill -KILL -f 'keeper.py star[t]'")
        with pytest.raises(MeasureError, match="was ended from outside"):
            connection.ask({"do": "facts"}, 60)
    assert "loaded" not in (tmp_path / "engine.log").read_text()
    gone(handy)


@pytest.mark.slow
def test_an_engine_that_hangs_is_ended(handy: Phone, engine: Path, tmp_path: Path) -> None:
    with started(handy, engine, tmp_path) as connection:
        model, inputs = connection.put(model_file(tmp_path, b"hang")), connection.put(inputs_file(tmp_path))
        connection.ask({"do": "load", "model": model, "threads": 1}, 60)
        with pytest.raises(MeasureError, match="hung"):
            connection.ask({"do": "run", "inputs": inputs, "outputs": "o.npz"}, 1)
    gone(handy)


CLIENT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from edgekd import engines
from edgekd.devices import adb
address, engine, scratch, when = sys.argv[1:]
if when == "starting":
    async def wait(*_):
        print("ready", flush=True)
        time.sleep(600)
    adb._Session._start = wait
with adb.Adb(patience_s=4.0).start(address, engines.GUEST, Path(engine), Path(scratch)) as it:
    it.ask({"do": "facts"}, 60)
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("when", "number"),
    [
        ("measuring", signal.SIGKILL),
        pytest.param("measuring", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("starting", signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_a_client_that_is_killed_leaves_nothing(
    handy: Phone, engine: Path, tmp_path: Path, when: str, number: signal.Signals
) -> None:
    command = [sys.executable, "-c", CLIENT, f"//{handy.serial}?keep=1", str(engine), str(tmp_path), when]
    environment = {**os.environ, "PYTHONPATH": str(Path(engines.__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        assert len(left(handy)) == 1 and handy.processes()
        process.send_signal(number)
        process.wait()
        if number == signal.SIGINT:
            assert left(handy) == []
    gone(handy, 30)


@pytest.mark.slow
def test_an_error_in_the_callers_code_leaves_nothing(handy: Phone, engine: Path, tmp_path: Path) -> None:
    threads = threading.active_count()
    with pytest.raises(ZeroDivisionError), started(handy, engine, tmp_path):
        raise ZeroDivisionError
    gone(handy)
    assert threading.active_count() <= threads


# --- cuts


def _kill_server(_: Phone) -> None:
    _call("kill-server")


def _reconnect(one: Phone) -> None:
    _call("-s", one.serial, "reconnect")


def _cut_wire(one: Phone) -> None:
    one.cut()


CUTS: list[Callable[[Phone], None]] = [_cut_wire, _kill_server, _reconnect]


def _time_through_cuts(one: Phone, engine: Path, tmp_path: Path, times: int) -> None:
    """Every inference that the engine made and counted is one sample, in spite of cuts of all kinds."""
    with started(one, engine, tmp_path) as connection:
        connection.ask({"do": "facts"}, 60)
        cuts, over = list[str](), threading.Event()

        def cut() -> None:
            while len(cuts) < times and not over.wait(2.5):
                kind = CUTS[len(cuts) % len(CUTS)]
                kind(one)
                cuts.append(kind.__name__)

        cutting = threading.Thread(target=cut)
        cutting.start()
        try:
            answer = timed(connection, tmp_path, times * 2.5 + 2)
            cutting.join()
        finally:
            over.set()
        connection.ask({"do": "run", "inputs": connection.put(inputs_file(tmp_path)), "outputs": "o.npz"}, 60)
        connection.get("o.npz", tmp_path / "o.npz")
    with np.load(tmp_path / "o.npz", allow_pickle=False) as outputs:
        made = int(outputs["0"][0, 0]) - 1  # less this run's own
    assert len(cuts) == times
    assert len(answer["samples_ms"]) == made - 5  # the first, three to warm up, and the last one for its digest
    gone(one)


def test_a_timing_survives_cuts(handy: Phone, engine: Path, tmp_path: Path) -> None:
    _time_through_cuts(handy, engine, tmp_path, 3)


@pytest.mark.slow
def test_a_timing_survives_ten_cuts(handy: Phone, engine: Path, tmp_path: Path) -> None:
    _time_through_cuts(handy, engine, tmp_path, 10)


@pytest.mark.slow
def test_a_line_that_goes_silent_is_cut(handy: Phone, engine: Path, tmp_path: Path) -> None:
    with started(handy, engine, tmp_path) as connection:
        connection.ask({"do": "facts"}, 60)
        handy.hold()
        assert len(timed(connection, tmp_path, 0.2)["samples_ms"]) >= 10
    gone(handy)


@pytest.mark.slow
def test_files_come_through_cuts(handy: Phone, engine: Path, tmp_path: Path) -> None:
    big = model_file(tmp_path, np.random.default_rng(0).bytes(48 << 20), "big.toy")
    with started(handy, engine, tmp_path) as connection:
        cutting = threading.Thread(target=lambda: [(time.sleep(0.3), handy.cut()) for _ in range(4)])
        cutting.start()
        there = connection.put(big)
        connection.get(there, tmp_path / "back")
        cutting.join()
        assert handy.inside(there).read_bytes() == (tmp_path / "back").read_bytes() == big.read_bytes()
    gone(handy)


@pytest.mark.slow
def test_a_line_that_stays_cut_is_given_up(client: None, engine: Path, tmp_path: Path) -> None:
    with attached(tmp_path / "other") as one, started(one, engine, tmp_path) as connection:
        connection.ask({"do": "facts"}, 60)
        one.listener.shutdown(socket.SHUT_RDWR)
        one.cut()
        with pytest.raises(DeviceUnreachable, match="did not come back in 8 s"):
            connection.ask({"do": "facts"}, 10)
        wait_for(lambda: left(one) == [], "the keeper ends by itself", PATIENCE_S * 4)


# --- full disks


@pytest.mark.slow
def test_a_full_disk_is_told(client: None, engine: Path, tmp_path: Path) -> None:
    needed = _bundle.bundle(engine)
    with attached(tmp_path / "small", str(needed.bytes + needed.packed_bytes + (24 << 20))) as one:
        with started(one, engine, tmp_path, "") as connection:
            big = model_file(tmp_path, bytes(128 << 20))
            with pytest.raises(StorageError, match="is full: [0-9,]+ bytes are free, 134,217,728 are needed"):
                connection.put(big)
            model, inputs = connection.put(model_file(tmp_path, b"fill")), connection.put(inputs_file(tmp_path))
            connection.ask({"do": "load", "model": model, "threads": 1}, 60)
            with pytest.raises(MeasureError, match="No space left on device"):
                connection.ask({"do": "run", "inputs": inputs, "outputs": "o.npz"}, 60)
            with pytest.raises(StorageError, match="is full"):
                connection.put(model_file(tmp_path, b"more" * (1 << 20)))
        gone(one)
        (one.folder / "ballast").write_bytes(bytes(64 << 20))
        with pytest.raises(StorageError, match="is full"), started(one, engine, tmp_path, ""):
            pass
        assert one.left() == ["ballast"]


# --- what is not there, or does not want


def test_what_is_not_attached_is_told(client: None, engine: Path, tmp_path: Path) -> None:
    start = adb.Adb().start
    with (
        pytest.raises(DeviceUnreachable, match="no Android device NO_SUCH") as told,
        start("//NO_SUCH", engines.GUEST, engine, tmp_path),
    ):
        pass
    assert "adb devices" in told.value.hint
    with (
        pytest.raises(DeviceUnreachable, match="does not answer"),
        start("//127.0.0.1:1", engines.GUEST, engine, tmp_path),
    ):
        pass


class Stranger:
    """What speaks adb's protocol so far as to ask for a key, and never takes one; or does not even ask.

    Source: protocol.txt of Android's adb: six little-endian words, the command, two arguments, the length and the sum
    of what follows, and the command's complement.
    """

    def __init__(self, asks: bool) -> None:
        self._asks, self._listener = asks, socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._live, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for one in (self._listener, *self._ends):
            one.close()

    def _live(self) -> None:
        with suppress(OSError, struct.error):
            while True:
                one, _ = self._listener.accept()
                self._ends.append(one)
                threading.Thread(target=self._refuse, args=(one,), daemon=True).start()

    def _refuse(self, one: socket.socket) -> None:
        with suppress(OSError, struct.error):
            while True:
                _, _, _, size_bytes, _, _ = struct.unpack("<6I", one.recv(24, socket.MSG_WAITALL))
                one.recv(size_bytes, socket.MSG_WAITALL)
                if self._asks:
                    token, word = bytes(range(20)), int.from_bytes(b"AUTH", "little")
                    one.sendall(struct.pack("<6I", word, 1, 0, 20, sum(token), word ^ 0xFFFFFFFF) + token)


@pytest.mark.parametrize(
    ("asks", "what"), [(True, "does not trust this computer"), (False, r"does not answer \(offline")]
)
def test_a_phone_that_does_not_want_is_told(client: None, engine: Path, tmp_path: Path, asks: bool, what: str) -> None:
    one = Stranger(asks)
    try:
        threading.Thread(target=_call, args=("connect", one.serial), daemon=True).start()
        wait_for(lambda: one.serial in _call("devices"), "adb knows it")
        with (
            pytest.raises(DeviceUnreachable, match=what) as told,
            adb.Adb().start(f"//{one.serial}", engines.GUEST, engine, tmp_path),
        ):
            pass
        assert told.value.hint
        (state,) = [row for row in adb.Adb().states({"toy": engine}) if row["device"] == f"adb://{one.serial}"]
        assert not state["ready"] and state["missing"] and state["hint"]
    finally:
        one.close()
        _call("disconnect", one.serial)


def test_an_empty_address_is_the_only_device(handy: Phone, engine: Path, tmp_path: Path) -> None:
    plugin = adb.Adb(patience_s=PATIENCE_S)
    (state,) = plugin.states({"toy": engine, "none": engines.path("coreml")})
    assert state == {
        "device": f"adb://{handy.serial}",
        "ready": True,
        "counts": False,
        "engines": ["toy"],
        "missing": "",
        "hint": "",
    }
    assert asyncio.run(_adb.find(_adb.Place())).serial == handy.serial
    one = Stranger(asks=True)
    try:
        threading.Thread(target=_call, args=("connect", one.serial), daemon=True).start()
        wait_for(lambda: one.serial in _call("devices"), "adb knows it")
        with pytest.raises(ConfigError, match="2 Android devices") as told:
            asyncio.run(_adb.find(_adb.Place()))
        assert f"adb://{handy.serial}" in told.value.hint
    finally:
        one.close()
        _call("disconnect", one.serial)


def test_a_machine_without_adb_is_told(engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PluginUnavailable) as told, adb.Adb().start("//x", engines.GUEST, engine, tmp_path):
        pass
    assert "apt install adb" in told.value.hint
    assert adb.Adb().states({}) == []


def test_listing_starts_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("adb"):
        pytest.skip("adb is missing: apt install adb")
    monkeypatch.delenv("ADB_SERVER_SOCKET", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
    (row,) = adb.Adb().states({})
    assert not row["ready"] and row["missing"] == "no adb server runs"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 1)


def test_an_engine_without_packages_for_arm_is_told(tmp_path: Path) -> None:
    engine = tmp_path / "bare.py"
    engine.write_text(ENGINE)
    with pytest.raises(ConfigError, match="does not run on Android"):
        _bundle.bundle(engine)


# --- words


@pytest.mark.parametrize("address", ["//-x", "//a b", "//a/b", "//a#b", "//a\nb", "//a?keep", "//a?keep=2", "//a?x=1"])
def test_what_is_no_address_is_a_config_error(address: str) -> None:
    with pytest.raises(ConfigError) as refused:
        _adb.Place.of(address)
    assert "adb://SERIAL" in refused.value.hint


def test_addresses() -> None:
    assert _adb.Place.of("") == _adb.Place.of("//") == _adb.Place()
    assert _adb.Place.of("//R5CT?keep=1") == _adb.Place("R5CT", keep=True)
    assert _adb.Place.of("//10.0.0.7:5555").is_tcp and _adb.Place.of("//[::1]:5555").is_tcp
    assert not _adb.Place.of("//emulator-5554").is_tcp and not _adb.Place.of("//R5CT").is_tcp


def test_lists_of_devices_are_read() -> None:
    printed = (
        "* daemon started successfully\nList of devices attached\nR5CT\tdevice\n10.0.0.7:5555\tunauthorized\n"
        "X\tno permissions (user in plugdev group; are your udev rules wrong?); see [http://x]\n\n"
    )
    known = _adb.parse(printed)
    assert list(known) == ["R5CT", "10.0.0.7:5555", "X"]
    assert "unauthorized" in str(_adb.refusal(_adb.Place("10.0.0.7:5555"), known))
    assert "apt install" in _adb.refusal(_adb.Place("X"), known).hint
    assert "recovery" in str(_adb.refusal(_adb.Place("R"), {"R": "recovery"}))


PROPERTIES = """\
[ro.build.id]: [UQ1A.240205.004]
[ro.build.version.release]: [14]
[ro.product.manufacturer]: [Google]
[ro.product.model]: [Pixel 8]
[ro.soc.manufacturer]: [Google]
[ro.soc.model]: [Tensor G3]
[ro.boot.empty]: []
"""
THERMAL = """\
IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 2
\tkilled: false
\tbroadcasts count: -1
Thermal Status: 2
Cached temperatures:
\tTemperature{mValue=99.0, mType=3, mName=VIRTUAL-SKIN, mStatus=0}
HAL Ready: true
HAL connection:
\tThermalHAL AIDL 1  connected: yes
Current temperatures from HAL:
\tTemperature{mValue=41.5, mType=0, mName=BIG, mStatus=0}
\tTemperature{mValue=30.25, mType=2, mName=battery, mStatus=0}
\tTemperature{mValue=100.0, mType=8, mName=soc, mStatus=0}
Current cooling devices from HAL:
\tCoolingDevice{mValue=0, mType=1, mName=fan}
"""
BATTERY = "Current Battery Service state:\n  AC powered: false\n  level: 92\n  temperature: 281\n  technology: Li-ion\n"


def test_what_android_prints_is_read() -> None:
    """Samples after the documented formats, written by hand: no phone printed them."""
    found = _android.identity(_android.properties(PROPERTIES))
    assert found == {"cpu": "Google Pixel 8, Google Tensor G3", "system": "Android 14 (UQ1A.240205.004)"}
    assert _android.identity(_android.properties("/bin/sh: getprop: not found\n")) == {}
    assert _android.heat(THERMAL + BATTERY) == _android.Heat((41.5, 30.25), 2)
    assert _android.heat(BATTERY) == _android.Heat((28.1,), 0)
    assert _android.heat("Can't find service: thermalservice\n") == _android.Heat()
    told = _android.with_heat({"temperatures_c": [], "throttled": 0, "at_s": 1.0}, _android.Heat((41.5,), 2))
    assert told == {"temperatures_c": [41.5], "throttled": 2, "at_s": 1.0}
    own = {"temperatures_c": [50.0], "throttled": 4}
    assert _android.with_heat(own, _android.Heat((41.5,), 2)) == own


# --- parts alone


def test_needed_libraries_are_those_that_the_linker_wrote(tmp_path: Path) -> None:
    if not shutil.which("readelf"):
        pytest.skip("readelf is missing: apt install binutils")
    python = Path(sys.executable).resolve()
    shown = subprocess.run(["readelf", "-d", str(python)], capture_output=True, text=True, check=True).stdout
    expected = [line.partition("[")[2].rstrip("]") for line in shown.splitlines() if "(NEEDED)" in line]
    assert expected and _bundle.needed(python) == expected
    broken = tmp_path / "broken.so"
    for content in (b"", b"\x7fELF\x02\x01", python.read_bytes()[:200], b"\x7fELF\x02\x01" + b"\xff" * 100):
        broken.write_bytes(content)
        assert _bundle.needed(broken) == []


def test_a_keeper_listens_where_no_socket_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Android does not let it; here a folder is in the way."""
    if not sys.platform.startswith("linux"):
        pytest.skip("names without a file are Linux'")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "socket").mkdir()
    monkeypatch.setattr(_keeper, "ABSTRACT", f"\0{tmp_path}")
    assert _keeper.reach() is None
    with _keeper.listen() as listener:
        near = _keeper.reach()
        assert near is not None
        far, _ = listener.accept()
        with near, far:
            assert _keeper.is_own(far)
            near.sendall(b"x")
            assert far.recv(1) == b"x"


def test_a_bundle_needs_nothing_of_a_device(client: None, tmp_path: Path) -> None:
    """Every library that its files need is in it."""
    import tarfile

    try:
        made = _bundle.bundle(engines.path("litert"))
    except EdgekdError as error:
        pytest.skip(f"a bundle cannot be made here: {error}")
    with tarfile.open(made.archive) as tar:
        # Python 3.11 has filters from 3.11.4 on; the archive is our own
        tar.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    names = {file.name for file in tmp_path.rglob("*")}
    wanted = {name for file in tmp_path.rglob("*") if file.is_file() for name in _bundle.needed(file)}
    assert wanted and wanted <= names
    assert json.loads((made.archive.parent / "edgekd.json").read_text())["bytes"] == made.bytes
    assert not [name for name in names if name.endswith((".h", ".a", ".pyi")) or name == "tests"]


def test_every_verb_of_android_ends(handy: Phone) -> None:
    """On a device that has neither getprop nor dumpsys nothing is told."""
    session: Any = adb._Session(_adb.Place(handy.serial), PATIENCE_S)
    for command in (_android.COMMAND, _android.THERMAL_COMMAND):
        printed = asyncio.run(session.inquire(command))
        assert printed.strip() == "edgekd end"
