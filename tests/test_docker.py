"""docker/: what its files say fits the project; `pytest -m slow tests/test_docker.py` builds an image."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekd import engines
from edgekd.emulation import wheels

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "docker" / "build"
DOCKERFILES = sorted((ROOT / "docker").rglob("Dockerfile"))


def build(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({} if path is None else {"PATH": path})}
    command = [sys.executable, str(BUILD), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=1500)


def copied(dockerfile: Path) -> set[str]:
    words = [line.split() for line in dockerfile.read_text().splitlines() if line.startswith("COPY ")]
    return {source.removesuffix("/") for one in words for source in one[1:-1]}


def argument(dockerfile: Path, name: str) -> str:
    found = re.search(rf'^ARG {name}="?([^"\n]*)"?$', dockerfile.read_text(), re.MULTILINE)
    assert found, name
    return found[1]


# --- Dockerfiles


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_what_is_copied_is_there_and_reaches_the_builder(dockerfile: Path) -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for source in copied(dockerfile):
        assert (ROOT / source).exists(), source
        assert source.partition("/")[0] in let_through, source


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_images_stand_on_debian_alone(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    assert re.findall(r"^FROM (.*)$", text, re.MULTILINE) == ["${BASE}"]
    assert argument(dockerfile, "BASE") == "debian:bookworm-slim"


def test_what_the_wheel_takes_in_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    wanted = {*wheel["packages"], *wheel["force-include"], project["project"]["readme"], "pyproject.toml", "LICENSE"}
    assert wanted <= copied(ROOT / "docker" / "Dockerfile")


@pytest.mark.parametrize(
    ("image", "name", "architecture", "wanted"),
    [
        ("arm64", "PACKAGES", "aarch64", ["litert", "onnxruntime", "openvino"]),
        ("arm64", "PACKAGES_OF_TFLITE_RUNTIME", "aarch64", ["tflite_runtime"]),
        ("armv7", "PACKAGES", "arm", ["tflite_runtime"]),
    ],
)
def test_devices_have_what_the_engine_files_list(image: str, name: str, architecture: str, wanted: list[str]) -> None:
    listed = {package for one in wanted for package in wheels.packages_of(engines.path(one), architecture)}
    assert set(argument(ROOT / "docker" / image / "Dockerfile", name).split()) == listed


def test_commands_of_the_readme_are_understood() -> None:
    text = (ROOT / "docker" / "README.md").read_text()
    assert len(text.splitlines()) <= 60
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    commands = [shlex.split(line) for line in lines]
    assert {command[0] for command in commands} == {"docker/build", "docker", "ssh", "edgekd"}
    for command in commands:
        if command[0] == "docker/build":
            done = build(*command[1:], path="/nowhere")
            assert done.returncode == 4 and "is not installed" in done.stderr, done.stderr


# --- the script


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Path]:
    """A folder of commands that say how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    yield folder


def put(folder: Path, name: str, info: int = 0, build_code: int = 0, said: str = "") -> None:
    script = f"""#!/bin/sh
[ "$1" = info ] && {{ echo "no daemon" >&2; exit {info}; }}
echo "{name} $*"
echo "{said}" >&2
exit {build_code}
"""
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)


def test_the_first_engine_that_answers_is_taken(tools: Path) -> None:
    put(tools, "docker", info=1)
    put(tools, "podman")
    put(tools, "buildah")
    done = build("toolkit", "--build-arg", "EXTRAS=onnx", "--", "--network", "host", path=str(tools))
    assert done.returncode == 0, done.stderr
    called = done.stdout.splitlines()[0]
    assert called.startswith("podman build ") and "--build-arg EXTRAS=onnx" in called and "--network host" in called
    assert called.endswith(f"--file {ROOT / 'docker/Dockerfile'} {ROOT}")


def test_the_engine_that_is_asked_for_is_taken(tools: Path) -> None:
    put(tools, "docker")
    put(tools, "buildah")
    called = build("armv7", "--engine", "buildah", path=str(tools)).stdout
    assert called.startswith("buildah bud ") and "--platform linux/arm/v7" in called and "docker/armv7/" in called


def test_engines_that_do_not_answer_are_named(tools: Path) -> None:
    put(tools, "docker", info=1)
    done = build("arm64", path=str(tools))
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.splitlines() == [
        "docker/build: docker: no daemon; podman is not installed; buildah is not installed",
        "hint: apt install podman; or start the docker daemon",
    ]


def test_a_base_of_our_own_needs_a_tool(tools: Path) -> None:
    put(tools, "podman")
    done = build("arm64", "--bootstrap", path=str(tools))
    assert done.returncode == 4 and "hint: apt install mmdebstrap" in done.stderr


def test_a_machine_that_executes_no_arm_is_told_so(tools: Path) -> None:
    put(tools, "podman", build_code=1, said="exec /bin/sh: Exec format error")
    done = build("arm64", path=str(tools))
    assert done.returncode == 8
    assert "qemu-user-static" in done.stderr.splitlines()[-1]


def test_an_image_that_is_none_is_refused() -> None:
    done = build("arm65")
    assert done.returncode == 2 and "invalid choice: 'arm65'" in done.stderr


def test_nothing_of_the_machine_is_an_argument_that_an_image_would_keep(tools: Path, tmp_path: Path) -> None:
    put(tools, "podman")
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "pip.conf").write_text("[global]\nindex-url = https://user:word@mirror.example/simple\n")
    environment = {**os.environ, "PATH": str(tools), "XDG_CONFIG_HOME": str(tmp_path)}
    command = [sys.executable, str(BUILD), "toolkit"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "id=pip,src=" in done.stdout and "mirror.example" not in done.stdout + done.stderr


def test_a_device_wants_a_public_key() -> None:
    environment = {"PATH": os.environ["PATH"], "KEY": "-----BEGIN OPENSSH PRIVATE KEY-----"}
    command = ["sh", str(ROOT / "docker" / "device")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2 and "KEY is no public key" in done.stderr


# --- an image


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_the_toolkit_is_built_and_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From Debian's packages, in a storage of its own, without extras, for they take gigabytes."""
    for tool in ("podman", "buildah", "mmdebstrap"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is missing: apt install podman buildah mmdebstrap")
    if os.geteuid() != 0:
        pytest.skip("needs root: a container that shares this machine's kernel by chroot")
    storage = tmp_path / "storage.conf"
    storage.write_text(f'[storage]\ndriver = "vfs"\nrunroot = "{tmp_path}/run"\ngraphroot = "{tmp_path}/graph"\n')
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(storage))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    light = [f"--build-arg={name}=" for name in ("EXTRAS", "TORCH_INDEX")]
    chroot = ["--", "--isolation", "chroot", "--network", "host"]
    try:
        done = build("toolkit", "--engine", "podman", "--tag", "edgekd-test", "--bootstrap", *light, *chroot)
        assert done.returncode == 0, done.stderr[-2000:]
        made = buildah("from", "--pull-never", "localhost/edgekd-test").strip()
        run = ["run", "--isolation", "chroot", "--network", "host", made, "--"]
        assert "digits" in buildah(*run, "edgekd", "recipes")
        look = "id -un; ls /run/secrets; cat /etc/pip.conf 2>/dev/null; true"
        assert buildah(*run, "sh", "-c", look).split() == ["edgekd"]
    finally:
        buildah("rm", "--all")
        buildah("rmi", "--all", "--force")


def buildah(*arguments: str) -> str:
    return subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=True, timeout=300).stdout
