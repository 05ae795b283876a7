"""What is imported, and when: the command line answers without the heavy libraries."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import edgekd

HEAVY = (
    "torch", "tensorflow", "onnx", "onnxruntime", "openvino", "coremltools", "ai_edge_litert", "litert_torch", "PIL",
    "jinja2", "altair", "safetensors",
)  # fmt: skip


def loaded_by(code: str) -> set[str]:
    """The heavy libraries that a fresh Python has loaded after executing the code."""
    script = f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return {name.partition(".")[0] for name in json.loads(ended.stderr.splitlines()[-1])} & set(HEAVY)


@pytest.mark.parametrize(
    "code",
    [
        "import edgekd",
        "import edgekd.cli",
        "import edgekd; edgekd.Budget, edgekd.EdgekdError, edgekd.load_target('raspberry-pi-4')",
        *(
            f"import edgekd.{name}"
            for name in (
                "specs",
                "errors",
                "files",
                "plugins",
                "runs",
                "workers",
                "environments",
                "compat",
                "shipped",
                "caches",
                "emulation",
            )
        ),
    ],
)
def test_the_core_is_light(code: str) -> None:
    assert loaded_by(code) == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["targets"],
        ["targets", "--json"],
        ["targets", "raspberry-pi-4"],
        ["targets", "zzz"],
        ["recipes", "--json"],
        ["recipes"],
        ["engines"],
        ["device", "list"],
        ["cache", "list"],
        ["cache", "clear", "--json"],
        ["doctor", "--json"],
        ["run", "digits"],
    ],
    ids=" ".join,
)
def test_a_verb_that_works_nothing_out_is_light(arguments: list[str]) -> None:
    assert loaded_by(f"from edgekd.cli import main; main({arguments!r})") == set()


def test_the_command_line_is_light_as_a_program() -> None:
    script = (
        "import sys, runpy; sys.argv = ['edgekd', '--help']\ntry: runpy.run_module('edgekd', run_name='__main__')\n"
    )
    assert loaded_by(f"{script}except SystemExit as end: assert not end.code") == set()


@pytest.mark.parametrize("name", edgekd.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(edgekd, name) is not None
    assert getattr(edgekd, name).__doc__


def test_names_are_sorted_and_no_other_is_there() -> None:
    assert sorted(edgekd.__all__) == edgekd.__all__
    with pytest.raises(AttributeError, match="module 'edgekd' has no attribute 'runn'"):
        _ = edgekd.runn


def test_the_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert version("edgekd").count(".") == 2


def test_every_module_says_what_it_is_for() -> None:
    folder = Path(edgekd.__file__).parent
    names = [".".join(path.relative_to(folder.parent).with_suffix("").parts) for path in folder.rglob("*.py")]
    guests = ("edgekd.__main__", "edgekd.engines._guest")  # execute when they are imported
    for name in names:
        if name not in guests:
            assert importlib.import_module(name.removesuffix(".__init__")).__doc__, name
