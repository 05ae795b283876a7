"""Every file in edgekd/engines is checked here; a new file needs no new test."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from edgekd import devices, engines, environments
from edgekd.errors import MeasureError
from edgekd.plugins import find, names

NAMES = names(engines)
RUNTIMES = {"ai_edge_litert", "onnxruntime", "tflite_runtime", "openvino", "tensorflow", "coremltools", "tflite_micro"}
RUNTIMES |= {"torch", "edgekd"}  # of `mil`, which executes where edgekd is


@pytest.mark.parametrize("name", [*NAMES, "_guest", "_benchmark_model"])
def test_it_can_be_copied_to_a_device(name: str) -> None:
    tree = ast.parse(engines.path(name).read_text(encoding="utf-8"), feature_version=(3, 8))
    imported = {
        alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {
        (node.module or "").partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and not node.level
    }
    assert imported <= set(sys.stdlib_module_names) | {"numpy"} | RUNTIMES
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))


def here(name: str) -> str:
    """The name of an engine whose runtime is on this machine."""
    if not engines.installed(name):
        pytest.skip(f"{name} is not installed: {engines.how_to_install(name)}")
    return name


@pytest.mark.parametrize("name", NAMES)
def test_what_it_executes_is_known_without_its_runtime(name: str) -> None:
    code = f"""
import sys
from edgekd import engines
from edgekd.plugins import find
plugin = find(engines, {name!r})
assert plugin.suffixes and all(suffix.startswith(".") for suffix in plugin.suffixes)
assert plugin.runtime.replace(".", "").isidentifier()
assert engines.installed({name!r}) in (True, False) and engines.how_to_install({name!r})
loaded = {RUNTIMES - {"edgekd"}} & set(sys.modules)
assert not loaded, loaded
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("name", NAMES)
def test_an_environment_of_its_own_has_versions(name: str) -> None:
    assert all("==" in package for package in environments.packages_of(engines.path(name)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [b"", b"not a model", bytes(4096), b"TFL3" * 100, b"\x08\x0a" * 500], ids=range(5))
def test_a_file_that_is_no_model_is_an_error_of_that_file(name: str, content: bytes, tmp_path: Path) -> None:
    model = tmp_path / f"bad{find(engines, here(name)).suffixes[0]}"
    model.write_bytes(content)
    with (
        find(devices, "host").start("", engines.GUEST, engines.path(name), tmp_path) as connection,
        pytest.raises(MeasureError, match="the engine (failed|crashed) on `load`"),
    ):
        connection.ask({"do": "load", "model": str(model), "threads": 1}, 60)


@pytest.mark.parametrize("name", NAMES)
def test_facts_name_the_machine(name: str, tmp_path: Path) -> None:
    with find(devices, "host").start("", engines.GUEST, engines.path(here(name)), tmp_path) as connection:
        facts = connection.ask({"do": "facts"}, 60)
    assert facts["engine_version"][0].isdigit()
    assert facts["machine"]["cpu"] and facts["machine"]["cores"] >= 1
