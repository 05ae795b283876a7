"""Every command and every example of the README is run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.datasets import mnist_5k  # noqa: F401 - says early, and by name, that the checkout itself is broken

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


COMMANDS = [line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines() if line.strip()]
SHOWING = {
    "edgekd recipes",
    "edgekd targets",
    "edgekd doctor",
    "edgekd suite",
    "edgekd device list",
    "edgekd cache list",
}
QUICK = [command for command in COMMANDS if command in SHOWING]
QUICK += [command for command in COMMANDS if command.startswith("edgekd targets ")]
INSTALLING = [command for command in COMMANDS if command.startswith("pip ")]
EMULATED = [command for command in COMMANDS if "qemu:" in command]
OF_A_MODEL = [
    command for command in COMMANDS if ("exports" in command or command == "edgekd engines") and command not in EMULATED
]
LONG = [command for command in COMMANDS if command not in QUICK + INSTALLING + OF_A_MODEL + EMULATED]


def edgekd(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    _, *arguments = shlex.split(command)
    return subprocess.run(
        [sys.executable, "-m", "edgekd", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", QUICK)
def test_commands_that_show_something(command: str, tmp_path: Path) -> None:
    ended = edgekd(command, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()


def test_the_two_commands_install_what_pyproject_offers() -> None:
    assert len(INSTALLING) == 2
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for command in INSTALLING:
        extra = re.search(r"\[(\w+)\]", command)
        assert extra and f"\n{extra[1]} = [" in pyproject
    assert "pip install --quiet -e '.[dev]'" in (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert INSTALLING[1].endswith("&& pytest")


def test_links_and_pictures_are_there() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        if not link.startswith("http"):
            assert (ROOT / link).exists(), link
    for path in re.findall(r"`((?:docs|benchmarks|tests|edgekd|targets)/[\w/.-]+)`", TEXT):
        assert (ROOT / path).exists(), path


def test_the_examples_work(tmp_path: Path) -> None:
    net, python = blocks("python")
    (toml,) = blocks("toml")
    assert net.startswith("# net.py")
    (tmp_path / "own.py").write_text(python, encoding="utf-8")
    (tmp_path / "own.toml").write_text(toml, encoding="utf-8")
    target = (ROOT / "targets/raspberry-pi-4.toml").read_text(encoding="utf-8")
    mine = target.replace('name = "raspberry-pi-4"', 'name = "my-board"')
    mine = re.sub(r"^exports = .*$", 'exports = ["tflite-int8"]', mine, flags=re.MULTILINE)
    (tmp_path / "my-board.toml").write_text(mine, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "own.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("True ") and ended.stdout.strip().endswith("model.tflite")
    ended = edgekd("edgekd run own.toml --target ./my-board.toml -o file", tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "holds the budget" in ended.stdout


def test_a_model_that_one_has_is_exported_and_verified(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(blocks("python")[0], encoding="utf-8")
    assert len(OF_A_MODEL) == 6
    for command in OF_A_MODEL:
        ended = edgekd(command, tmp_path)
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
        assert ended.stdout.strip() and ended.stderr == "", "quiet where there is no terminal"


@pytest.mark.device
def test_an_emulated_device_is_made_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-user is not installed")
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "net.py").write_text(blocks("python")[0], encoding="utf-8")
    assert len(EMULATED) == 2
    for command in [OF_A_MODEL[0], *EMULATED]:
        ended = edgekd(command, tmp_path)
        assert ended.returncode == 0, f"{command}\n{ended.stderr}"


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_main_job_and_what_may_follow_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    main_job = INSTALLING[0].partition("&& ")[2]
    for command in [main_job, *LONG]:
        ended = edgekd(command, tmp_path)
        assert ended.returncode == 0, f"{command}\n{ended.stderr}"
        assert ended.stderr == "", "quiet where there is no terminal"
