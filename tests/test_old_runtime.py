"""What a device that was set up years ago makes of our files, executed by its own runtime."""

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
from tests.contracts.test_converters import available, convert

RUNTIME, VERSION = "tflite_runtime", "2.14.0"


def sqnr_on(engine: str, model: Path, folder: Path) -> float:
    """How close an engine's answers are to those in PyTorch, in decibels."""
    with np.load(folder / "expected.npz") as arrays:
        examples, expected = arrays["examples"], arrays["expected"]
    np.savez(folder / "inputs.npz", **{"0": examples.transpose(0, 2, 3, 1)[:, None]})
    request = {"do": "run", "inputs": str(folder / "inputs.npz"), "outputs": str(folder / "outputs.npz")}
    with find(devices, "host").start("", engines.GUEST, engines.path(engine), folder) as connection:
        connection.ask({"do": "load", "model": str(model), "threads": 1}, 120)
        connection.ask(request, 120)
    with np.load(folder / "outputs.npz") as arrays:
        return sqnr_db(expected, arrays["0"][:, 0])


def dynamic(model: Path) -> Path:
    """A file with int8 weights, whose activations are quantized as they come."""
    from ai_edge_quantizer import quantizer, recipe

    out = model.with_name("dynamic.tflite")
    job: Any = quantizer.Quantizer(str(model))
    job.load_quantization_recipe(recipe.dynamic_wi8_afp32())
    job.quantize().export_model(str(out), overwrite=True)
    return out


@pytest.mark.slow
def test_our_files_on_the_last_tflite_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    available("tflite-int8")
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    try:
        environments.install(engines.path(RUNTIME))
    except PluginUnavailable as missing:
        if "no package index answered" in missing.hint:
            pytest.skip(f"{missing}: {missing.hint}")
        raise
    assert RUNTIME in engines.able("model.tflite")
    made = {precision: Path(str(convert(f"tflite-{precision}", tmp_path)["file"])) for precision in ("fp32", "int8")}
    assert sqnr_on(RUNTIME, made["fp32"], tmp_path) > 80
    assert sqnr_on(RUNTIME, made["int8"], tmp_path) > 10

    wrong = dynamic(made["fp32"])
    assert sqnr_on("litert", wrong, tmp_path) > 15
    assert sqnr_on(RUNTIME, wrong, tmp_path) < 5, "as the table says"
    layer = Operator(kind="FULLY_CONNECTED", name="classifier")
    assert problems([layer], "tflite", "dynamic", RUNTIME, VERSION)
