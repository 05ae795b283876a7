"""Devices behind SSH, through a real OpenSSH server on this machine."""

import ast
import getpass
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import edgekd
from edgekd import calibrate, devices, engines, fitted, measure
from edgekd.bench import Bench, jobs, measured
from edgekd.cli import main
from edgekd.convert import Manifest, Order, convert
from edgekd.errors import ConfigError, DeviceUnreachable, EdgekdError, MeasureError, PluginUnavailable, StorageError
from edgekd.plugins import find
from edgekd.progress import listening
from edgekd.specs import Measurement
from tests import models
from tests.held import ENGINE, HOSTILE, inputs_file, model_file, timed, wait_for

pytest.importorskip("asyncssh", reason="pip install 'edgekd[devices]'")

from edgekd.devices import _line, ssh

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
PATIENCE_S = 2.0
KEEPER = Path(ssh.__file__).with_name("_keeper.py")


# --- a server of our own


@dataclass(frozen=True)
class Server:
    """An sshd of this user on loopback."""

    folder: Path
    port: int
    pid: int

    @property
    def cache(self) -> Path:
        """What the server's sessions take for the user's cache."""
        return self.folder / "cache"

    @property
    def address(self) -> str:
        return f"//{getpass.getuser()}@127.0.0.1:{self.port}"

    def left(self) -> list[str]:
        """What lies in the cache there."""
        return sorted(one.name for one in self.cache.iterdir())

    def cut(self) -> int:
        """End the server's processes that hold a connection, and not what they started; how many there were."""
        ours = [pid for pid in _children(self.pid) if "sshd" in _name(pid)]
        ours += [below for pid in ours for below in _children(pid) if "sshd" in _name(below)]
        for pid in ours:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(ours)


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [line.split() for line in listed.splitlines()]
    return [int(own) for own, parent in pairs if int(parent) == pid]


def _name(pid: int) -> str:
    return subprocess.run(["ps", "-o", "comm=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout


def _key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def serving(folder: Path, above: str = "") -> Iterator[Server]:
    """A server whose files are in `folder`, and whose sessions' cache is `above`."""
    if SSHD is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no OpenSSH server here: apt install openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where it locks itself up before a login, made at boot
    port, cache = _free_port(), Path(above or folder / "cache")
    cache.mkdir(exist_ok=True)
    _key(folder / "host_key")
    (folder / "authorized_keys").write_text(_key(folder / "id_ed25519"))
    (folder / "sshd_config").write_text(f"""
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/authorized_keys
AuthenticationMethods publickey
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
MaxStartups 100
Subsystem sftp internal-sftp
SetEnv XDG_CACHE_HOME={cache} HOME={folder} OMP_NUM_THREADS=1
""")
    with (
        (folder / "sshd.log").open("wb") as log,
        subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log) as process,
    ):
        try:
            wait_for(lambda: _answers(port), f"sshd: {(folder / 'sshd.log').read_text()}")
            server = Server(folder, port, process.pid)
            yield server if not above else replace(server, folder=cache.parent)
            server.cut()
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("sshd")) as one:
        yield one


@pytest.fixture(autouse=True)
def home(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, with a key and the server's host key."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    know(home, server)
    shutil.copy(server.folder / "id_ed25519", home / ".ssh" / "id_ed25519")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return home


def know(home: Path, server: Server) -> None:
    """Write the server's host key to known_hosts."""
    key = (server.folder / "host_key.pub").read_text()
    (home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {key}")


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    file = tmp_path / "toy engine.py"
    file.write_text(ENGINE)
    return file


@contextmanager
def started(server: Server, engine: Path, scratch: Path, query: str = "") -> Iterator[devices.Connection]:
    """A connection that is patient for no longer than a test is."""
    plugin = ssh.Ssh(patience_s=PATIENCE_S)
    address = f"{server.address}?python={query or sys.executable}"
    with plugin.start(address, engines.GUEST, engine, scratch) as connection:
        yield connection


# --- it works


def test_it_measures_on_the_device() -> None:
    assert find(devices, "ssh").provenance == "measured"


def test_an_engine_answers_as_it_does_here(server: Server, engine: Path, tmp_path: Path) -> None:
    found = []
    host = find(devices, "host").start("", engines.GUEST, engine, tmp_path)
    for place in (host, started(server, engine, tmp_path)):
        with place as connection:
            facts = connection.ask({"do": "facts"}, 30)
            model, inputs = connection.put(model_file(tmp_path, b"toy")), connection.put(inputs_file(tmp_path))
            connection.ask({"do": "load", "model": model, "threads": 1}, 30)
            answered = tmp_path / "answered.npz"
            ran = connection.ask({"do": "run", "inputs": inputs, "outputs": str(answered)}, 30)
            connection.get(str(answered), answered)
        with np.load(answered, allow_pickle=False) as outputs:
            found.append((facts, ran, [outputs[name].tolist() for name in sorted(outputs.files)]))
        answered.unlink()
    assert found[0] == found[1]
    assert found[0][2][1] == (np.arange(12).reshape(4, 3) * 2).tolist()
    assert server.left() == []
    assert (tmp_path / "engine.log").read_text() == "loaded\n" * 2  # one of each


def test_a_runtime_answers_the_same_bits_as_here(server: Server, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'edgekd[onnx]'")
    from onnx import TensorProto, helper, save

    assert onnxruntime
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Exp", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = tmp_path / "exp.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), model)
    digests = []
    host = find(devices, "host").start("", engines.GUEST, engines.path("onnxruntime"), tmp_path)
    for place in (host, started(server, engines.path("onnxruntime"), tmp_path)):
        with place as connection:
            connection.ask({"do": "load", "model": connection.put(model), "threads": 1}, 60)
            request = {"inputs": connection.put(inputs_file(tmp_path)), "outputs": str(tmp_path / "out.npz")}
            digests.append(connection.ask({"do": "run", **request}, 60)["outputs_sha256"])
    assert digests[0] == digests[1]


def test_files_are_verified_and_measured_there(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="pip install 'edgekd[onnx]'")
    model = models.MAKERS["onnx"](tmp_path / "small.onnx")
    device = f"ssh:{server.address}?python={sys.executable}"
    found = edgekd.verify_models([model], engines=["onnxruntime"], on=device)
    (pair,) = found.pairs
    assert pair.ok and pair.sqnr_db == 200 and pair.provenance == "measured"
    assert [side.name for side in found.sides] == [f"small.onnx@onnxruntime{place}" for place in ("", f"@{device}")]
    bench = Bench(models=(str(model),), device=device, mode="rapid")
    (timed_there,) = measured(bench, jobs(bench))
    assert isinstance(timed_there, Measurement) and timed_there.provenance == "measured"
    assert timed_there.device == device and timed_there.latency_ms.p50 > 0
    assert server.left() == []


def test_a_device_is_calibrated_there_and_learns_of_what_is_measured(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With three probes, of which files are made once for this machine and that one."""
    pytest.importorskip("onnxruntime", reason="pip install 'edgekd[onnx]'")
    from tests.test_estimate import net

    monkeypatch.setenv("EDGEKD_PROFILES", str(tmp_path / "profiles"))
    monkeypatch.setattr(calibrate, "PROBES", ("dense", "pointwise", "depthwise"))
    made: dict[str, tuple[Path, Manifest]] = {}

    def convert_once(order: Order, folder: Path) -> Manifest:
        if order.model not in made:
            kept = tmp_path / str(len(made))
            made[order.model] = kept, convert(order, kept)
        shutil.copytree(made[order.model][0], folder)
        return made[order.model][1]

    monkeypatch.setattr(calibrate, "convert", convert_once)
    there = f"ssh:{server.address}?python={sys.executable}"
    for name, device in (("here", "host"), ("there", there)):
        assert main(["calibrate", name, "--on", device, "--engine", "onnxruntime", "--json"]) == 0
        (profile,) = json.loads(capsys.readouterr().out)["profiles"]
        assert (profile["device"], profile["runtime"], profile["precision"]) == (device, "onnxruntime", "fp32")
        assert profile["rows"] == 3 and profile["tier"] == "anchored on 3 measurements"
        digests = {one.sha256 for _, manifest in made.values() for one in manifest.artifacts}
        assert {one["sha256"] for one in profile["evidence"]} == digests and len(digests) == 3
    aim = tmp_path / "aim.toml"
    shipped = (Path(__file__).parents[1] / "targets" / "intel-n100.toml").read_text(encoding="utf-8")
    aim.write_text(shipped.replace("threads = 4\n", 'threads = 4\ncost_profile = "there"\n'), encoding="utf-8")
    monkeypatch.setattr(measure, "_doubts", lambda *_: ())  # however busy this machine is
    known, new = next(tmp_path.glob("0/*.onnx")), net(tmp_path / "new.onnx", (48, 64), 48)
    for file, learnt in ((known, 3), (new, 4)):
        main(["bench", str(file), "--on", there, "-t", str(aim), "--mode", "rapid", "--json"])
        told = json.loads(capsys.readouterr().out)
        (row,), (taken,) = told["estimates_against_measurements"], told["measurements"]
        assert row["provenance"] == "measured" and row["found_ms"] == taken["latency_ms"]["p50"]
        assert row["tier"] == "anchored on 3 measurements" and row["fitted"] == (learnt == 3)
        assert fitted.own("there")[0].rows == learnt and len(told["notes"]) == learnt - 3
    assert server.left() == []


def test_the_same_content_is_copied_once(server: Server, engine: Path, tmp_path: Path) -> None:
    with started(server, engine, tmp_path) as connection:
        names = [
            connection.put(model_file(tmp_path, content, name)) for content, name in [(b"a", "1.toy"), (b"a", "2.toy")]
        ]
        assert names[0] == names[1] != connection.put(model_file(tmp_path, b"b", "1.toy"))
        (folder,) = server.cache.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(list(folder.rglob("model.toy"))) == 2


def test_how_far_a_large_file_is_is_told(server: Server, engine: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    with (
        listening(lambda what, done, total: told.append((done, total)) if "copying" in what else None),
        started(server, engine, tmp_path) as connection,
    ):
        connection.put(model_file(tmp_path, bytes(1000)))
        assert not told, "a small one is there at once"
        connection.put(model_file(tmp_path, bytes(20 * 10**6), "large.toy"))
    assert told[-1] == (20, 20) and told == sorted(told) and len({done for done, _ in told}) > 3


def test_another_content_of_a_name_takes_its_place(server: Server, engine: Path, tmp_path: Path) -> None:
    """The inputs of a thousand chunks would fill a small disk."""
    with started(server, engine, tmp_path) as connection:
        first, second = (Path(connection.put(model_file(tmp_path, content))) for content in (b"a", b"b"))
        assert not first.exists() and second.read_bytes() == b"b"
        with pytest.raises(ConfigError):
            connection.get(str(first), tmp_path / "back")
        assert Path(connection.put(model_file(tmp_path, b"a"))).read_bytes() == b"a"
        assert not second.parent.exists()


def test_a_model_of_several_files_stays_together(server: Server, engine: Path, tmp_path: Path) -> None:
    model_file(tmp_path, b"<net/>", "net.xml"), model_file(tmp_path, b"weights", "net.bin")
    package = tmp_path / "net.mlpackage"
    (package / "Data" / "a b").mkdir(parents=True)
    model_file(package / "Data" / "a b", b"weights", "$(touch x)'\n")
    with started(server, engine, tmp_path) as connection:
        xml = Path(connection.put(tmp_path / "net.xml"))
        assert xml.read_bytes() == b"<net/>" and xml.with_suffix(".bin").read_bytes() == b"weights"
        copied = Path(connection.put(package))
        assert copied.suffix == ".mlpackage"
        assert (copied / "Data" / "a b" / "$(touch x)'\n").read_bytes() == b"weights"


def test_names_of_models_never_reach_a_shell(server: Server, engine: Path, tmp_path: Path) -> None:
    before = set(Path.cwd().iterdir())
    with started(server, engine, tmp_path) as connection:
        for index, name in enumerate([*HOSTILE, "a.$(touch x)", "x" * 200 + ".toy"]):
            there = connection.put(model_file(tmp_path, str(index).encode(), name))
            assert re.fullmatch(r"model(\.toy)?", Path(there).name)
            connection.ask({"do": "load", "model": there, "threads": 1}, 30)
            connection.get(there, tmp_path / "back")
            assert (tmp_path / "back").read_bytes() == str(index).encode()
    assert set(Path.cwd().iterdir()) == before and not list(tmp_path.rglob("x"))


@contextmanager
def serving_otherwise(folder: Path, home: Path, old: str, new: str) -> Iterator[Server]:
    """A server of its own with another configuration."""
    folder.mkdir()
    with serving(folder) as before:
        pass
    config = before.folder / "sshd_config"
    changed = re.sub(old, lambda _: new, config.read_text())
    assert changed != config.read_text() and SSHD
    config.write_text(changed)
    with subprocess.Popen([SSHD, "-D", "-f", str(config)]) as process:
        try:
            wait_for(lambda: _answers(before.port), "sshd")
            know(home, before)
            shutil.copy(before.folder / "id_ed25519", home / ".ssh" / "id_ed25519")
            yield before
        finally:
            process.terminate()


def test_folders_there_may_be_named_as_they_like(engine: Path, tmp_path: Path, home: Path) -> None:
    odd = tmp_path / 'it\'s $(touch x) "a" b'
    odd.mkdir()
    setting = '"XDG_CACHE_HOME={}"'.format(str(odd).replace('"', '\\"'))
    with serving_otherwise(tmp_path / "other", home, r"XDG_CACHE_HOME=\S*", setting) as server:
        with started(server, engine, tmp_path) as connection:
            assert connection.put(model_file(tmp_path, b"toy")).startswith(str(odd))
            assert timed(connection, tmp_path, 0.1)["samples_ms"]
        assert not list(odd.iterdir())


def test_a_shell_that_prints_is_understood(engine: Path, tmp_path: Path, home: Path) -> None:
    with serving_otherwise(tmp_path / "other", home, "internal-sftp", "internal-sftp ") as server:
        for name in (".bashrc", ".profile", ".zshenv"):
            (server.folder / name).write_text("echo welcome; echo '{'; echo a warning >&2\n")
        with started(server, engine, tmp_path) as connection:
            assert timed(connection, tmp_path, 0.1)["samples_ms"]
        assert server.left() == []


def test_a_server_without_sftp_is_told(engine: Path, tmp_path: Path, home: Path) -> None:
    with serving_otherwise(tmp_path / "other", home, "Subsystem", "#") as server:
        with pytest.raises(PluginUnavailable, match="no SFTP"), started(server, engine, tmp_path):
            pass
        assert server.left() == []


def test_where_no_cache_is_another_folder_serves(engine: Path, tmp_path: Path, home: Path) -> None:
    (tmp_path / "temporary").mkdir()
    setting = f"TMPDIR={tmp_path}/temporary"
    with serving_otherwise(tmp_path / "other", home, r"XDG_CACHE_HOME=\S*", setting) as server:
        with started(server, engine, tmp_path) as connection:
            assert connection.put(model_file(tmp_path, b"toy")).startswith(f"{tmp_path}/temporary/edgekd-")
        assert not list((tmp_path / "temporary").iterdir())


def test_a_python_of_its_own_is_found(engine: Path, tmp_path: Path, home: Path) -> None:
    """The one that the hint makes; and the option may start with the user's home."""
    engine = engine.rename(tmp_path / "toy.py")
    with serving_otherwise(tmp_path / "other", home, "Subsystem", "# of its own\nSubsystem") as server:
        own = server.folder / ".local" / "share" / "edgekd" / "toy" / "bin" / "python"
        own.parent.mkdir(parents=True)
        own.write_text(f'#!/bin/sh\ntouch "$HOME/used"\nexec {sys.executable} "$@"\n')
        own.chmod(0o700)
        start = ssh.Ssh(patience_s=PATIENCE_S).start
        for query in ("", "?python=~/.local/share/edgekd/toy/bin/python"):
            with start(server.address + query, engines.GUEST, engine, tmp_path) as connection:
                assert connection.ask({"do": "facts"}, 30)["engine_version"] == "1"
            (server.folder / "used").unlink()


def test_the_users_configuration_counts(server: Server, engine: Path, tmp_path: Path, home: Path) -> None:
    (home / ".ssh" / "id_ed25519").rename(home / "other_key")
    (home / ".ssh" / "config").write_text(
        f"Host kitchen\n HostName 127.0.0.1\n Port {server.port}\n User {getpass.getuser()}\n"
        f" IdentityFile {home}/other_key\n UserKnownHostsFile {home}/other_hosts\n"
    )
    (home / ".ssh" / "known_hosts").rename(home / "other_hosts")
    plugin = ssh.Ssh(patience_s=PATIENCE_S)
    with plugin.start(f"kitchen?python={sys.executable}", engines.GUEST, engine, tmp_path) as connection:
        assert connection.ask({"do": "facts"}, 30)["engine_version"] == "1"


def test_a_jump_over_another_host(server: Server, engine: Path, tmp_path: Path, home: Path) -> None:
    (home / ".ssh" / "config").write_text(
        f"Host behind\n HostName 127.0.0.1\n Port {server.port}\n ProxyJump 127.0.0.1:{server.port}\n"
    )
    start = ssh.Ssh(patience_s=PATIENCE_S).start
    with start(f"//behind?python={sys.executable}", engines.GUEST, engine, tmp_path) as connection:
        assert connection.ask({"do": "facts"}, 30)["engine_version"] == "1"
        server.cut()
        assert connection.ask({"do": "facts"}, 30)["engine_version"] == "1"


def test_an_agents_key_is_taken(
    server: Server, engine: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(tmp_path / "agent")], stdout=subprocess.DEVNULL) as agent:
        try:
            wait_for((tmp_path / "agent").exists, "the agent listens")
            monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
            subprocess.run(["ssh-add", "-q", str(home / ".ssh" / "id_ed25519")], check=True)
            (home / ".ssh" / "id_ed25519").unlink()
            with started(server, engine, tmp_path) as connection:
                assert connection.ask({"do": "facts"}, 30)["engine_version"] == "1"
        finally:
            agent.terminate()


def test_no_configuration_turns_the_check_off(server: Server, engine: Path, tmp_path: Path, home: Path) -> None:
    """`UserKnownHostsFile none` means no file to asyncssh, and with that no check."""
    (home / ".ssh" / "config").write_text("Host *\n UserKnownHostsFile none\n StrictHostKeyChecking no\n")
    (home / ".ssh" / "known_hosts").write_text("")
    with pytest.raises(DeviceUnreachable, match="is not known"), started(server, engine, tmp_path):
        pass


# --- it refuses


def test_an_unknown_host_is_refused(server: Server, engine: Path, tmp_path: Path, home: Path) -> None:
    (home / ".ssh" / "known_hosts").unlink()
    with pytest.raises(DeviceUnreachable, match="is not known") as refused, started(server, engine, tmp_path):
        pass
    assert f"ssh -p {server.port} {getpass.getuser()}@127.0.0.1" in refused.value.hint
    assert not (home / ".ssh" / "known_hosts").exists()


def test_a_wrong_host_key_is_refused(server: Server, engine: Path, tmp_path: Path, home: Path) -> None:
    entry = f"[127.0.0.1]:{server.port} {_key(tmp_path / 'another')}"
    (home / ".ssh" / "known_hosts").write_text(entry)
    with (
        pytest.raises(DeviceUnreachable, match="not the one in known_hosts") as refused,
        started(server, engine, tmp_path),
    ):
        pass
    assert f"ssh-keygen -R '[127.0.0.1]:{server.port}'" in refused.value.hint
    assert (home / ".ssh" / "known_hosts").read_text() == entry
    assert server.left() == []


def test_a_key_of_another_kind_is_a_wrong_one(server: Server, engine: Path, tmp_path: Path, home: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(tmp_path / "another")], check=True)
    key = (tmp_path / "another.pub").read_text()
    (home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {key}")
    with pytest.raises(DeviceUnreachable, match="not the one in known_hosts"), started(server, engine, tmp_path):
        pass


@pytest.mark.slow
def test_a_host_that_changes_during_a_cut_is_refused(server: Server, engine: Path, tmp_path: Path, home: Path) -> None:
    with started(server, engine, tmp_path) as connection:
        connection.ask({"do": "facts"}, 30)
        (home / ".ssh" / "known_hosts").write_text("")
        assert server.cut()
        with pytest.raises(DeviceUnreachable, match="is not known"):
            connection.ask({"do": "facts"}, 30)
    wait_for(lambda: server.left() == [], "the keeper ends by itself", PATIENCE_S * 3)


def test_a_key_that_is_not_taken_is_refused(server: Server, engine: Path, tmp_path: Path, home: Path) -> None:
    (home / ".ssh" / "id_ed25519").unlink()
    _key(home / ".ssh" / "id_ed25519")
    with pytest.raises(DeviceUnreachable, match="none of your keys") as refused, started(server, engine, tmp_path):
        pass
    assert "ssh-copy-id" in refused.value.hint


def test_nothing_is_asked_for_a_key_with_a_password(server: Server, engine: Path, tmp_path: Path, home: Path) -> None:
    key = home / ".ssh" / "id_ed25519"
    key.unlink()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(key)], check=True)
    with pytest.raises(DeviceUnreachable, match="none of your keys") as refused, started(server, engine, tmp_path):
        pass
    assert "ssh-add" in refused.value.hint


BROKEN = {
    "known_hosts": [b"garbage\n", b"\xff\xfe\x00", b"|1|a|b ssh-ed25519 AAAA\n", b"h ssh-ed25519 AAAA\n"],
    "config": [b"Port many\n", b"IdentityFile ~/no-such-key\n", b"\xff\xfe\x00", b"Host 'a\n"],
    "id_ed25519": [b"garbage\n", b"\xff\xfe\x00", b""],
}


@pytest.mark.parametrize(("name", "content"), [(name, one) for name, all_ in BROKEN.items() for one in all_])
def test_broken_files_of_the_user_are_errors(
    server: Server, engine: Path, tmp_path: Path, home: Path, name: str, content: bytes
) -> None:
    (home / ".ssh" / name).write_bytes(content)
    with pytest.raises(DeviceUnreachable) as refused, started(server, engine, tmp_path):
        pass
    assert refused.value.hint and "\n" not in str(refused.value)


def test_a_user_who_is_not_there_is_refused(server: Server, engine: Path, tmp_path: Path) -> None:
    plugin = ssh.Ssh(patience_s=PATIENCE_S)
    address = f"//nobody-of-that-name@127.0.0.1:{server.port}"
    with pytest.raises(DeviceUnreachable), plugin.start(address, engines.GUEST, engine, tmp_path):
        pass


def test_a_port_where_nothing_listens_is_refused(engine: Path, tmp_path: Path) -> None:
    address = f"//127.0.0.1:{_free_port()}"
    start = ssh.Ssh().start(address, engines.GUEST, engine, tmp_path)
    with pytest.raises(DeviceUnreachable, match="does not answer") as refused, start:
        pass
    assert refused.value.hint


def test_a_server_that_says_nothing_is_not_waited_for(
    engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_line, "LOGIN_TIMEOUT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"//127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DeviceUnreachable), ssh.Ssh().start(address, engines.GUEST, engine, tmp_path):
            pass


@pytest.mark.parametrize(
    "address",
    ["", "//", "//pi@", "//-oProxyCommand=x@h", "//pi@-h", "//pi@h:0x", "//pi@h:99999", "//pi:secret@h", "//pi@h/x"]
    + ["//pi@h?pyhton=x", "//pi@h?python", "//pi@h#x", "//pi@h;ls", "//$(x)@h", "//pi@[::1", "//p i@h", "//pi@h\n"],
)
def test_what_is_no_address_is_a_config_error(address: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ssh.Place.of(address)
    assert "ssh://user@host" in refused.value.hint


def test_addresses() -> None:
    assert ssh.Place.of("//pi@kitchen") == ssh.Place.of("pi@kitchen") == ssh.Place("kitchen", "pi")
    assert ssh.Place.of("//pi@[::1]:22/?python=%2Fa%20b") == ssh.Place("::1", "pi", 22, "/a b")
    assert ssh.Place("h", "pi", 2222).command("a b") == "ssh -p 2222 pi@h 'a b'"


# --- what the device lacks


def test_a_missing_runtime_is_told_with_the_command(server: Server, engine: Path, tmp_path: Path) -> None:
    engine.write_text(ENGINE.replace('runtime = "json"', 'runtime = "no_such_runtime.interpreter"'))
    with pytest.raises(PluginUnavailable, match="lacks no_such_runtime") as refused, started(server, engine, tmp_path):
        pass
    assert "-m pip install numpy no-such-runtime" in refused.value.hint and refused.value.hint.startswith("ssh -p")
    assert server.left() == []


def test_a_python_that_is_not_there_is_told(server: Server, engine: Path, tmp_path: Path) -> None:
    for python in ("/no/such/python", "-c", "$(touch x)", "/bin/false"):
        with pytest.raises(PluginUnavailable, match="Python 3.8"), started(server, engine, tmp_path, python):
            pass
    assert server.left() == [] and not Path("x").exists()


def test_an_engine_that_needs_more_says_so(server: Server, engine: Path, tmp_path: Path) -> None:
    engine.write_text(ENGINE.replace('runtime = "json"', 'runtime, needs = "CoreML", "a Mac"'))
    with pytest.raises(PluginUnavailable, match="needs a Mac"), started(server, engine, tmp_path):
        pass


# --- nothing stays behind


def test_a_crash_leaves_nothing(server: Server, engine: Path, tmp_path: Path) -> None:
    with started(server, engine, tmp_path) as connection:
        model, inputs = connection.put(model_file(tmp_path, b"crash")), connection.put(inputs_file(tmp_path))
        connection.ask({"do": "load", "model": model, "threads": 1}, 30)
        for _ in range(2):
            with pytest.raises(MeasureError, match="crashed") as crashed:
                connection.ask({"do": "run", "inputs": inputs, "outputs": "o.npz"}, 30)
    assert "engine.log" in crashed.value.hint
    assert server.left() == []


def test_an_engine_that_hangs_is_ended(server: Server, engine: Path, tmp_path: Path) -> None:
    with started(server, engine, tmp_path) as connection:
        model, inputs = connection.put(model_file(tmp_path, b"hang")), connection.put(inputs_file(tmp_path))
        connection.ask({"do": "load", "model": model, "threads": 1}, 30)
        with pytest.raises(MeasureError, match="hung"):
            connection.ask({"do": "run", "inputs": inputs, "outputs": "o.npz"}, 1)
        with pytest.raises(MeasureError, match="crashed"):
            connection.ask({"do": "facts"}, 30)
    assert server.left() == []
    wait_for(lambda: not _of_folder(server.cache), "the processes are gone", 5)


def test_an_error_in_the_callers_code_leaves_nothing(server: Server, engine: Path, tmp_path: Path) -> None:
    threads = threading.active_count()
    with pytest.raises(ZeroDivisionError), started(server, engine, tmp_path) as connection:
        connection.ask({"do": "facts"}, 30)
        raise ZeroDivisionError
    assert server.left() == [] and threading.active_count() == threads


def test_an_unknown_request_and_file_are_errors(server: Server, engine: Path, tmp_path: Path) -> None:
    with started(server, engine, tmp_path) as connection:
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


CLIENT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores
from pathlib import Path
from edgekd import engines
from edgekd.devices import ssh
address, engine, scratch = sys.argv[1:]
with ssh.Ssh(patience_s=2.0).start(address, engines.GUEST, Path(engine), Path(scratch)) as it:
    it.ask({"do": "facts"}, 30)
    print("ready", flush=True)
    time.sleep(600)
"""


def _client(server: Server, engine: Path, scratch: Path, code: str = CLIENT) -> "subprocess.Popen[str]":
    """Another process that has a connection."""
    address = f"{server.address}?python={sys.executable}"
    command = [sys.executable, "-c", code, address, str(engine), str(scratch)]
    environment = {**os.environ, "PYTHONPATH": str(Path(engines.__file__).parents[2])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def _of_folder(folder: Path) -> list[str]:
    """Command lines of the processes that have to do with a folder."""
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(folder) in line and not line.startswith("ps ")]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_client_that_is_killed_leaves_nothing(
    server: Server, engine: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with _client(server, engine, tmp_path) as process:
        assert len(server.left()) == 1
        (folder,) = server.cache.iterdir()
        process.send_signal(number)
        process.wait()
        if number == signal.SIGINT:
            assert server.left() == []
    wait_for(lambda: server.left() == [], "the folder is gone", 15)
    wait_for(lambda: not _of_folder(folder), "the processes are gone", 5)


SLOW_START = """
import sys, time
from pathlib import Path
from edgekd import engines
from edgekd.devices import ssh

async def wait(*_):
    print("ready", flush=True)
    time.sleep(60)

ssh._Session._find_python = wait
address, engine, scratch = sys.argv[1:]
with ssh.Ssh(patience_s=2.0).start(address, engines.GUEST, Path(engine), Path(scratch)):
    pass
"""


@pytest.mark.parametrize("cut", [False, True])
def test_a_start_that_is_cut_short_leaves_nothing(server: Server, engine: Path, tmp_path: Path, cut: bool) -> None:
    with _client(server, engine, tmp_path, SLOW_START) as process:
        assert len(server.left()) == 1
        if cut:
            server.cut()
            wait_for(lambda: server.left() == [], "the folder is gone", 5)
        process.kill()
    wait_for(lambda: server.left() == [], "the folder is gone", 5)


def test_a_keeper_that_is_ended_leaves_nothing(server: Server, engine: Path, tmp_path: Path) -> None:
    with started(server, engine, tmp_path) as connection:
        connection.ask({"do": "facts"}, 30)
        _end_keeper(server, signal.SIGTERM)
        wait_for(lambda: server.left() == [], "the keeper deletes its folder")
        with pytest.raises(MeasureError, match="was ended from outside"):
            connection.ask({"do": "facts"}, 30)


def test_a_keeper_that_is_killed_is_tidied_up_after(server: Server, engine: Path, tmp_path: Path) -> None:
    with started(server, engine, tmp_path) as connection:
        connection.ask({"do": "facts"}, 30)
        _end_keeper(server, signal.SIGKILL)
        with pytest.raises(MeasureError, match="was ended from outside"):
            connection.ask({"do": "facts"}, 30)
    assert server.left() == []


def _end_keeper(server: Server, number: signal.Signals) -> None:
    (folder,) = server.cache.iterdir()
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in listed.splitlines() if f"{folder}/keeper.py start" in line]
    os.kill(int(line.split()[0]), number)


def test_what_others_left_behind_is_swept(server: Server, engine: Path, tmp_path: Path) -> None:
    machine = re.sub("[^A-Za-z0-9]", "", os.uname().nodename)
    old, young, others = (server.cache / name for name in (f"edgekd-{machine}-a", f"edgekd-{machine}-b", "else-a"))
    for folder in (old, young, others):
        folder.mkdir()
    (server.cache / f"edgekd-{machine}-link").symlink_to(others)
    for folder in (old, others):
        os.utime(folder, (0, 0))
    try:
        with started(server, engine, tmp_path) as connection:
            (own,) = [one for one in server.cache.iterdir() if (one / "lock").exists()]
            os.utime(own, (0, 0))
            with started(server, engine, tmp_path):
                assert {*server.left()} >= {young.name, others.name, own.name, f"edgekd-{machine}-link"}
            assert not old.exists()
            connection.ask({"do": "facts"}, 30)
    finally:
        for folder in (young, others):
            folder.rmdir()
        (server.cache / f"edgekd-{machine}-link").unlink()
    assert server.left() == []


# --- cuts


def _cutting(server: Server, times: int, pause_s: float) -> tuple[threading.Thread, list[int]]:
    """Cuts the line that often, each time when it is up."""
    cuts: list[int] = []

    def cut() -> None:
        while len(cuts) < times:
            time.sleep(pause_s)
            if found := server.cut():
                cuts.append(found)

    thread = threading.Thread(target=cut)
    thread.start()
    return thread, cuts


def _time_through_cuts(server: Server, engine: Path, tmp_path: Path, times: int, pause_s: float) -> None:
    """Time while the line is cut: every inference that the engine made and counted is one sample."""
    with started(server, engine, tmp_path) as connection:
        connection.ask({"do": "facts"}, 30)
        cutting, cuts = _cutting(server, times, pause_s)
        answer = timed(connection, tmp_path, times * pause_s * 2 + 1)
        cutting.join()
        connection.ask({"do": "run", "inputs": connection.put(inputs_file(tmp_path)), "outputs": "o.npz"}, 30)
        connection.get("o.npz", tmp_path / "o.npz")
    with np.load(tmp_path / "o.npz", allow_pickle=False) as outputs:
        made = int(outputs["0"][0, 0]) - 1  # less this run's own
    assert len(cuts) == times
    assert len(answer["samples_ms"]) == made - 5  # the first, three to warm up, and the last one for its digest
    assert server.left() == []


def test_a_timing_survives_a_cut_line(server: Server, engine: Path, tmp_path: Path) -> None:
    _time_through_cuts(server, engine, tmp_path, 2, 0.4)


@pytest.mark.slow
def test_a_timing_survives_ten_cuts(server: Server, engine: Path, tmp_path: Path) -> None:
    _time_through_cuts(server, engine, tmp_path, 10, 0.8)


def test_a_long_answer_comes_through_cuts(server: Server, engine: Path, tmp_path: Path) -> None:
    engine.write_text(ENGINE.replace('return "1"', 'return "x" * 30_000_000'))
    with started(server, engine, tmp_path) as connection:
        cutting, _ = _cutting(server, 2, 0.3)
        assert connection.ask({"do": "facts"}, 60)["engine_version"] == "x" * 30_000_000
        cutting.join()
    assert server.left() == []


class Wire:
    """Passes bytes on to a server until it goes silent, as one does whose radio is switched off."""

    def __init__(self, port: int) -> None:
        self._to, self._silent = port, threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def go_silent(self) -> None:
        """Drop all that comes on the connections there are; new ones work."""
        self._silent.set()
        self._silent = threading.Event()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._ends:
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._ends += [near, far]
                for end in (near, far):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(*pair, self._silent), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket, silent: threading.Event) -> None:
        with suppress(OSError):
            while chunk := source.recv(1 << 16):
                if not silent.is_set():
                    sink.sendall(chunk)


def test_a_line_that_goes_silent_is_cut(server: Server, engine: Path, tmp_path: Path, home: Path) -> None:
    wire = Wire(server.port)
    behind = replace(server, port=wire.port)
    know(home, behind)
    try:
        with started(behind, engine, tmp_path) as connection:
            connection.ask({"do": "facts"}, 30)
            wire.go_silent()
            assert len(timed(connection, tmp_path, 0.2)["samples_ms"]) >= 10
        assert server.left() == []
    finally:
        wire.close()


def test_a_request_is_given_to_the_engine_once(server: Server, engine: Path, tmp_path: Path) -> None:
    """A cut between the answer and its arrival: the answer comes again, the work is not done again."""
    with started(server, engine, tmp_path) as connection:
        model, inputs = connection.put(model_file(tmp_path, b"toy")), connection.put(inputs_file(tmp_path))
        connection.ask({"do": "load", "model": model, "threads": 1}, 30)
        counts = []
        for _ in range(6):
            cutting, _cuts = _cutting(server, 1, 0.0)
            connection.ask({"do": "run", "inputs": inputs, "outputs": "o.npz"}, 30)
            cutting.join()
            connection.get("o.npz", tmp_path / "o.npz")
            with np.load(tmp_path / "o.npz", allow_pickle=False) as outputs:
                counts.append(outputs["0"][:, 0].astype(int).tolist())
    assert sum(counts, []) == list(range(1, 25))


def test_files_come_through_cuts(server: Server, engine: Path, tmp_path: Path) -> None:
    big = model_file(tmp_path, np.random.default_rng(0).bytes(24 << 20), "big.toy")
    with started(server, engine, tmp_path) as connection:
        cutting, _ = _cutting(server, 3, 0.15)
        there = connection.put(big)
        connection.get(there, tmp_path / "back")
        cutting.join()
        assert Path(there).read_bytes() == (tmp_path / "back").read_bytes() == big.read_bytes()
    assert server.left() == []


@pytest.mark.slow
def test_a_cut_while_nothing_is_asked_is_mended(server: Server, engine: Path, tmp_path: Path) -> None:
    with started(server, engine, tmp_path) as connection:
        connection.ask({"do": "facts"}, 30)
        assert server.cut()
        time.sleep(PATIENCE_S * 1.5)  # longer than the keeper waits for somebody who is gone
        connection.ask({"do": "facts"}, 30)
    assert server.left() == []


@pytest.mark.slow
def test_a_line_that_stays_cut_is_given_up(engine: Path, tmp_path: Path, home: Path) -> None:
    (tmp_path / "sshd").mkdir()
    with ending_server(tmp_path / "sshd") as (server, end):
        know(home, server)
        shutil.copy(server.folder / "id_ed25519", home / ".ssh" / "id_ed25519")
        with started(server, engine, tmp_path) as connection:
            connection.ask({"do": "facts"}, 30)
            end()
            with pytest.raises(DeviceUnreachable, match="did not come back in 2 s"):
                timed(connection, tmp_path, 1)
        wait_for(lambda: server.left() == [], "the keeper ends by itself", PATIENCE_S * 3)


@contextmanager
def ending_server(folder: Path) -> Iterator[tuple[Server, Callable[[], None]]]:
    """A server, and what ends it before its time."""
    with serving(folder) as server:

        def end() -> None:
            os.kill(server.pid, signal.SIGSTOP)  # else it would answer again before it ends
            server.cut()
            os.kill(server.pid, signal.SIGKILL)
            wait_for(lambda: not _answers(server.port), "sshd ends")

        yield server, end


# --- full disks


@contextmanager
def _small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "edgekd-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a full disk needs the right to mount one")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told(engine: Path, tmp_path: Path, home: Path) -> None:
    with _small_disk(tmp_path / "disk", 8 << 20) as disk:
        (tmp_path / "sshd").mkdir()
        with serving(tmp_path / "sshd", str(disk / "cache")) as server:
            (home / ".ssh" / "known_hosts").write_text(
                f"[127.0.0.1]:{server.port} {(tmp_path / 'sshd' / 'host_key.pub').read_text()}"
            )
            shutil.copy(tmp_path / "sshd" / "id_ed25519", home / ".ssh" / "id_ed25519")
            with started(server, engine, tmp_path) as connection:
                big = model_file(tmp_path, bytes(16 << 20))
                with pytest.raises(StorageError, match="is full: [0-9,]+ bytes are free, 16,777,216 are needed"):
                    connection.put(big)
                model, inputs = connection.put(model_file(tmp_path, b"fill")), connection.put(inputs_file(tmp_path))
                connection.ask({"do": "load", "model": model, "threads": 1}, 30)
                with pytest.raises(MeasureError, match="No space left on device"):
                    connection.ask({"do": "run", "inputs": inputs, "outputs": "o.npz"}, 30)
                with pytest.raises(StorageError, match="is full"):
                    connection.put(model_file(tmp_path, b"more"))
            assert server.left() == []


# --- the keeper alone


def test_the_keeper_can_be_copied_to_a_device() -> None:
    tree = ast.parse(KEEPER.read_text(encoding="utf-8"), feature_version=(3, 8))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= set(sys.stdlib_module_names)


def test_every_error_has_one_line(server: Server, engine: Path, tmp_path: Path) -> None:
    engine.write_text("raise RuntimeError('a\\nb')")
    with started(server, engine, tmp_path) as connection, pytest.raises(EdgekdError) as failed:
        connection.ask({"do": "facts"}, 30)
    assert "\n" not in str(failed.value) and "RuntimeError: a" in str(failed.value)
    assert json.dumps(server.left()) == "[]"
