"""Environments of engines: real ones, of a wheel that is made here, without any network."""

import base64
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from edgekd import environments
from edgekd.environments import install, installed, packages_of, python_for
from edgekd.errors import ConfigError, PluginUnavailable, StorageError

NAME = "edgekd-tiny-runtime"


def wheel(folder: Path, version: str = "1.0") -> Path:
    """A package of one module."""
    made = folder / f"edgekd_tiny_runtime-{version}-py3-none-any.whl"
    info = f"edgekd_tiny_runtime-{version}.dist-info"
    files = {
        "edgekd_tiny_runtime.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{name},sha256={_digest(text)},{len(text)}" for name, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
    with zipfile.ZipFile(made, "w") as packed:
        for name, text in files.items():
            packed.writestr(name, text)
    return made


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def engine(folder: Path, *packages: str, name: str = "tiny") -> Path:
    """An engine file that wants an environment; executing it would be an error."""
    file = folder / f"{name}.py"
    file.write_text(f"ENVIRONMENT = {packages!r}\nimport no_such_runtime\n", encoding="utf-8")
    return file


def answer(python: Path, code: str) -> str:
    return subprocess.run([str(python), "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own, and pip that knows one folder of wheels."""
    for name in [one for one in os.environ if one.startswith("PIP_")]:
        monkeypatch.delenv(name)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(wheels)
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))


def left(tmp_path: Path) -> set[str]:
    """What the cache holds, without logs and locks."""
    folder = tmp_path / "cache" / "engines"
    return {one.name for one in folder.iterdir() if one.suffix not in {".lock", ".log"}} if folder.is_dir() else set()


def test_an_environment_is_made_once_and_found_again(tmp_path: Path) -> None:
    file = engine(tmp_path, f"{NAME}==1.0")
    assert not installed(file)
    with pytest.raises(PluginUnavailable, match=f"engine 'tiny' needs .* {NAME}==1.0") as missing:
        python_for(file)
    assert missing.value.hint == "edgekd engines install tiny"
    assert left(tmp_path) == set(), "nothing is made before somebody asks for it"

    python = install(file)
    assert installed(file) and python_for(file) == python
    assert python.is_relative_to(tmp_path / "cache" / "engines") and python.parts[-3].startswith("tiny-")
    assert (
        answer(python, "import edgekd_tiny_runtime as t, sys; print(t.version, sys.prefix)")
        == f"1.0 {python.parents[1]}"
    )
    assert "numpy" in answer(
        python, "import importlib.util as u; print('numpy' if u.find_spec('numpy') is None else '')"
    ), "it sees nothing of edgekd's own packages"
    made = python.parents[1] / environments.MARKER
    before = made.stat().st_mtime_ns
    assert install(file) == python and made.stat().st_mtime_ns == before
    assert list((tmp_path / "cache" / "engines").glob("*.log")) == []

    assert not installed(engine(tmp_path, f"{NAME}==1.0", name="other"))
    assert not installed(engine(tmp_path, f"{NAME}==1.0", "more")), "other packages are another environment"
    assert python_for(engine(tmp_path, f"{NAME}==1.0")) == python

    python.unlink()
    python.symlink_to(tmp_path / "uninstalled" / "python3")
    assert not installed(file), "its Python is gone"
    assert answer(install(file), "import edgekd_tiny_runtime as t; print(t.version)") == "1.0"


def test_an_engine_without_an_environment_runs_where_edgekd_does(tmp_path: Path) -> None:
    file = tmp_path / "plain.py"
    file.write_text("import no_such_runtime\n", encoding="utf-8")
    assert python_for(file) == Path(sys.executable) and installed(file) and packages_of(file) == ()
    file.write_text("this is not Python", encoding="utf-8")
    assert python_for(file) == Path(sys.executable), "the guest says what is wrong with it"
    with pytest.raises(ConfigError, match="'plain' has no environment of its own"):
        install(file)


@pytest.mark.parametrize("declared", ["'numpy'", "()", "[1]", "('a', 2)", "('a',) + f()", "{**x}", "-'a'"])
def test_a_declaration_that_is_no_tuple_of_texts_is_an_error(declared: str, tmp_path: Path) -> None:
    file = tmp_path / "odd.py"
    file.write_text(f"ENVIRONMENT = {declared}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="ENVIRONMENT is not a tuple of packages"):
        packages_of(file)


def test_a_package_that_is_not_to_be_had_leaves_nothing(tmp_path: Path) -> None:
    file = engine(tmp_path, f"{NAME}==2.0")
    with pytest.raises(PluginUnavailable, match=f"No matching distribution found for {NAME}==2.0") as failed:
        install(file)
    assert "\n" not in str(failed.value) and failed.value.hint.startswith("what was printed is in ")
    assert Path(failed.value.hint.rpartition(" ")[2]).read_text(encoding="utf-8")
    assert not installed(file) and left(tmp_path) == set()


def test_without_a_network_the_hint_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(PluginUnavailable) as failed:
        install(engine(tmp_path, "no-such-package==1.0"))
    assert failed.value.hint.startswith("no package index answered: go online")
    assert left(tmp_path) == set()


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError):
        install(engine(tmp_path, f"{NAME}==1.0"))


SCRIPT = """
import sys
from pathlib import Path
from edgekd.environments import MARKER, install
python = install(Path(sys.argv[1]))
print(python, (python.parents[1] / MARKER).stat().st_mtime_ns)
"""


def start(file: Path, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def test_of_two_at_once_one_builds_and_the_other_waits(tmp_path: Path) -> None:
    file = engine(tmp_path, f"{NAME}==1.0")
    both = [start(file) for _ in range(2)]
    said = [one.communicate(timeout=120) for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert said[0] == said[1], "the same environment, made at the same time"


def test_a_killed_installer_leaves_nothing_that_looks_ready(tmp_path: Path) -> None:
    file = engine(tmp_path, f"{NAME}==1.0")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # an index that takes the question and does not answer
        index = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        killed = start(
            file, PIP_NO_INDEX="0", PIP_INDEX_URL=index, PIP_DEFAULT_TIMEOUT="300", PIP_RETRIES="0", PIP_FIND_LINKS=""
        )
        question, _ = silent.accept()  # so pip is in the middle of it
        with question:
            killed.send_signal(signal.SIGKILL)
            killed.communicate(timeout=60)
            assert left(tmp_path) and not installed(file)
            with pytest.raises(PluginUnavailable):
                python_for(file)
            waiting = start(file)
            time.sleep(2)
            assert waiting.poll() is None, "the killed one's pip still writes there, so nobody else may"
    out, error = waiting.communicate(timeout=120)  # the index has gone, so that pip has ended
    assert waiting.returncode == 0, error
    assert answer(Path(out.split()[0]), "import edgekd_tiny_runtime as t; print(t.version)") == "1.0"
