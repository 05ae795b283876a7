"""What a device that was set up years ago makes of our files, executed by its own runtime."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd import devices, engines, environments
from edgekd.compat import problems
from edgekd.errors import PluginUnavailable
from edgekd.parity import sqnr_db
from edgekd.plugins import find
from edgekd.specs import Operator
from edgekd.workers import call

sys.path.insert(0, str(Path(__file__).parent))  # a worker finds functions where its parent does
zoo: Any = importlib.import_module("zoo")
conversions: Any = importlib.import_module("conversions")

RUNTIME, VERSION = "tflite_runtime", "2.14.0"


def sqnr_on(engine: str, model: Path, folder: Path) -> float:
    """How close an engine's answers are to those in PyTorch, in decibels."""
    case = zoo.ZOO["mobile_v2"]()
    np.savez(folder / "inputs.npz", **{"0": np.moveaxis(case.examples[0], 2, -1)})
    request = {"do": "run", "inputs": str(folder / "inputs.npz"), "outputs": str(folder / "outputs.npz")}
    with find(devices, "host").start("", engines.GUEST, engines.path(engine), folder) as connection:
        connection.ask({"do": "load", "model": str(model), "threads": 1}, 120)
        connection.ask(request, 120)
    with np.load(folder / "outputs.npz", allow_pickle=False) as arrays:
        return sqnr_db(zoo.answers(case)[0], arrays["0"])


@pytest.mark.slow
def test_our_files_on_the_last_tflite_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    try:
        environments.install(engines.path(RUNTIME))
    except PluginUnavailable as missing:
        if "no package index answered" in missing.hint:
            pytest.skip(f"{missing}: {missing.hint}")
        raise
    assert RUNTIME in engines.able("model.tflite")
    precisions = ("fp32", "int8", "dynamic")
    arguments = ("tflite", ("mobile_v2",), precisions, str(tmp_path / "made"))
    found = call(conversions.convert, *arguments, threads=1, log=tmp_path / "log")
    made = {precision: Path(found[f"mobile_v2-{precision}"].file) for precision in precisions}
    assert sqnr_on(RUNTIME, made["fp32"], tmp_path) > 80
    assert sqnr_on(RUNTIME, made["int8"], tmp_path) > 20
    assert sqnr_on("litert", made["dynamic"], tmp_path) > 25
    assert sqnr_on(RUNTIME, made["dynamic"], tmp_path) < 5, "as the table says"
    layer = Operator(kind="FULLY_CONNECTED", name="classifier")
    assert problems([layer], "tflite", "dynamic", RUNTIME, VERSION)
