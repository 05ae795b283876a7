"""Every file in edgekd/compilers is checked here; a new file needs no new test."""

from pathlib import Path

import msgspec
import pytest

from edgekd import compilers, environments
from edgekd.errors import ConfigError, ConvertError, PluginUnavailable
from edgekd.plugins import find, names
from edgekd.shipped import load_target, target_names
from edgekd.specs import Choice
from tests.models import int8_dense

NPUS = {one.npu.name: one.npu for one in map(load_target, target_names()) if one.npu}


@pytest.mark.parametrize("name", names(compilers))
def test_what_it_takes_and_needs_is_known_without_it(name: str) -> None:
    compiler = find(compilers, name)
    assert compiler.title and all(suffix.startswith(".") for suffix in compiler.suffixes)
    assert all("==" in package for package in environments.packages_of(compilers.path(name)))
    assert compilers.installed(name) in {True, False} and name in compilers.how_to_install(name)


@pytest.mark.parametrize("name", names(compilers))
def test_a_target_names_it_and_options_of_another_are_refused(name: str) -> None:
    compilers.check(NPUS[name])
    with pytest.raises(ConfigError, match="unknown key 'nonsense'"):
        compilers.check(Choice(name=name, options={**NPUS[name].options, "nonsense": 1}))


@pytest.mark.parametrize("name", names(compilers))
def test_without_its_environment_the_hint_makes_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path))
    with pytest.raises(PluginUnavailable, match="needs an environment of its own") as missing:
        compilers.compile_model(NPUS[name], tmp_path / "model.tflite", tmp_path)
    assert missing.value.hint == f"edgekd engines install {name}"


def here(name: str) -> str:
    """The name of a compiler that is on this machine."""
    if not compilers.installed(name):
        pytest.skip(f"{name} is not installed: {compilers.how_to_install(name)}")
    return name


@pytest.mark.parametrize("name", names(compilers))
def test_it_compiles_and_equal_files_give_equal_bytes(name: str, tmp_path: Path) -> None:
    model = int8_dense(tmp_path / "dense.tflite")
    made = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        made.append(compilers.compile_model(NPUS[here(name)], model, folder))
    first, second = made
    assert first.file.read_bytes() == second.file.read_bytes() != model.read_bytes()
    assert first.npu_operators > 0 and first.cpu_operators == ()
    assert first.cycles > 0 and first.latency_ms > 0 and first.macs >= 64
    assert first.sram_bytes >= 20, "its input and its output"


@pytest.mark.parametrize("name", names(compilers))
def test_a_file_that_is_no_model_is_an_error_of_that_file(name: str, tmp_path: Path) -> None:
    model = tmp_path / "bad.tflite"
    model.write_bytes(b"TFL3" * 100)
    with pytest.raises(ConvertError):
        compilers.compile_model(NPUS[here(name)], model, tmp_path)


def test_a_system_that_it_does_not_know_is_told(tmp_path: Path) -> None:
    npu = NPUS[here("vela")]
    odd = msgspec.structs.replace(npu, options={**npu.options, "system": "Nothing_Of_Arms"})
    with pytest.raises(ConvertError, match="Nothing_Of_Arms"):
        compilers.compile_model(odd, int8_dense(tmp_path / "dense.tflite"), tmp_path)
