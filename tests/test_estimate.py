"""What a model costs on a device that is not here: shipped profiles, estimates, and what is said of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd import cost, fitted
from edgekd.cli import main
from edgekd.errors import ConfigError
from edgekd.fitted import SPEC_SHEET
from edgekd.shipped import load_target, target_names

onnx = pytest.importorskip("onnx", reason="the onnx package is not installed")


def net(path: Path, widths: Sequence[int] = (16, 32, 32), side: int = 32, stray: str = "") -> Path:
    """An ONNX file: convolutions with ReLUs, a global pool and a classifier; `stray` adds an operator of that kind."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, given, entering = [], [], "image", 3
    for number, width in enumerate(widths):
        weights.append(numpy_helper.from_array(np.zeros((width, entering, 3, 3), np.float32), f"w{number}"))
        nodes.append(helper.make_node("Conv", [given, f"w{number}"], [f"c{number}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        given, entering = f"r{number}", width
    if stray:
        nodes.append(helper.make_node(stray, [given], ["stray"], domain="elsewhere"))
        nodes.append(helper.make_node("Add", [given, "stray"], ["joined"]))
        given = "joined"
    weights.append(numpy_helper.from_array(np.zeros((entering, 10), np.float32), "w"))
    nodes.append(helper.make_node("ReduceMean", [given], ["pooled"], axes=[2, 3], keepdims=0))
    nodes.append(helper.make_node("MatMul", ["pooled", "w"], ["out"]))
    shape = ["batch", 3, side, side]
    extra = [helper.make_tensor_value_info("stray", TensorProto.FLOAT, [1, entering, side, side])] if stray else []
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 10])], weights, value_info=extra,
    )  # fmt: skip
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("elsewhere", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=sets, ir_version=8).SerializeToString())
    return path


# --- the shipped profiles


def test_families_are_as_good_as_is_said_of_them() -> None:
    """The figures of benchmarks/results/latency.md, which the profiles carry."""
    most = {
        ("tflite", "cpu", "fp32"): (0.086, 0.138),
        ("tflite", "cpu", "int8"): (0.108, 0.138),
        ("tflite", "gpu", "fp32"): (0.077, 0.138),
        ("ncnn", "cpu", "fp16"): (0.17, 0.20),
    }
    for key, (calibrated, anchored) in most.items():
        found = fitted.family(*key)
        assert found is not None
        assert found.held["calibrated"].mape < calibrated and found.held["anchored"].mape < anchored
        assert all(0.85 <= found.held[tier].covered <= 0.95 for tier in ("calibrated", "anchored"))
    phones = fitted.family("tflite", "cpu", "fp32")
    assert phones and phones.held["calibrated"].within_10 > 0.67


def test_profiles_are_whole() -> None:
    store = fitted.shipped()
    names = [one.name for one in store.profiles]
    assert len(names) == len(set(names))
    for one in store.profiles:
        predictor = fitted.of_profile(one)
        assert len(one.log) == len(predictor.family.features)
        assert np.linalg.eigvalsh(predictor.fit.covariance).min() > -1e-6
        assert one.sources and one.evidence and set(one.targets) <= set(target_names())
    for family in store.families:
        assert np.linalg.eigvalsh(family.prior.covariance).min() > 0 and set(family.bounds) >= {
            "calibrated",
            "anchored",
        }


# --- estimates


@pytest.mark.parametrize("target", target_names())
def test_more_work_takes_longer_on_every_target(target: str, tmp_path: Path) -> None:
    small, large = net(tmp_path / "s.onnx"), net(tmp_path / "l.onnx", (32, 64, 64, 64))
    for engine in (None, "litert", "ncnn"):
        one, other = (cost.estimate(path, load_target(target), engine=engine) for path in (small, large))
        assert 0 < one.low_ms < one.latency_ms < one.high_ms and one.latency_ms < other.latency_ms
        assert one.macs == 32 * 32 * (9 * (3 * 16 + 16 * 32 + 32 * 32)) + 320
        assert one.latency_ms == pytest.approx(sum(kernel.ms for kernel in one.kernels))
        assert one.file_bytes == small.stat().st_size and one.provenance == "estimated"
        assert one.memory.arena_bytes == 4 * (3 + 32 + 32) * 32 * 32, (
            "the picture, and what a convolution reads and writes"
        )


def test_a_phone_that_was_measured_is_calibrated_and_says_on_what(tmp_path: Path) -> None:
    found = cost.estimate(net(tmp_path / "n.onnx"), load_target("android-high"), precision="int8")
    assert found.tier == "calibrated" and found.engine == "litert" and found.precision == "int8"
    assert any(one.model and one.ms and one.device == "Google Pixel 4" for one in found.evidence)
    assert any("costed as an export for litert" in note for note in found.notes)


def test_runtimes_that_nobody_measured_are_spec_sheet_only(tmp_path: Path) -> None:
    found = cost.estimate(net(tmp_path / "n.onnx"), load_target("jetson-nano"))
    assert found.engine == "onnxruntime" and found.tier == SPEC_SHEET
    assert any("nobody has measured onnxruntime" in note for note in found.notes)


def test_another_number_of_threads_widens_the_interval_and_is_said(tmp_path: Path) -> None:
    path, target = net(tmp_path / "n.onnx"), load_target("android-low")
    known, guessed = (cost.estimate(path, target, engine="litert", threads=count) for count in (4, 7))
    assert guessed.high_ms / guessed.low_ms > known.high_ms / known.low_ms
    assert any("and not 7" in note for note in guessed.notes) and not known.notes[1:]


def test_an_operator_never_seen_is_costed_and_said(tmp_path: Path) -> None:
    found = cost.estimate(net(tmp_path / "n.onnx", stray="Magic"), load_target("android-high"))
    assert any("elsewhere:Magic (1x) is not known" in note for note in found.notes)
    assert next(one for one in found.kernels if one.op == "elsewhere:Magic").kind == "other"


def test_sizes_that_a_model_leaves_open_can_be_given(tmp_path: Path) -> None:
    path, target = net(tmp_path / "n.onnx"), load_target("android-high")
    larger = cost.estimate(path, target, inputs={"image": (4, 3, 32, 32)})
    assert larger.macs == pytest.approx(4 * cost.estimate(path, target).macs)
    with pytest.raises(ConfigError, match="the model has no input 'picture'"):
        cost.estimate(path, target, inputs={"picture": (1, 3, 32, 32)})


def test_a_module_is_estimated_without_a_file(tmp_path: Path) -> None:
    code = "import torch\n\ndef net():\n    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())"
    (tmp_path / "own.py").write_text(f"{code}, torch.zeros(1, 3, 16, 16)\n")
    found = cost.estimate(f"{tmp_path / 'own.py'}:net", load_target("android-high"))
    assert found.macs == 8 * 27 * 14 * 14 and found.tier == "calibrated" and found.file_bytes > 0


BROKEN = {"nothing": b"", "no model": b"not a model", "cut": b"\x08\x08\x3a\xff\xff"}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_model_is_refused(case: str, tmp_path: Path) -> None:
    for suffix in (".onnx", ".tflite", ".xml"):
        path = tmp_path / f"broken{suffix}"
        path.write_bytes(BROKEN[case])
        with pytest.raises(ConfigError):
            cost.estimate(path, load_target("android-high"))


def test_json_has_what_is_documented(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", str(net(tmp_path / "n.onnx")), "-t", "android-high", "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["schema"] == 1 and told["provenance"] == "estimated"
    assert told["latency_ms"].keys() == {"value", "low", "high"} and told["tier"] == "calibrated"
    assert told["memory"]["arena_bytes"] > 0 and told["file_bytes"] > 0 and told["macs"] > 0
    assert told["kernels"][0].keys() >= {"op", "class", "ms"} and told["evidence"]
    assert main(["estimate", str(tmp_path / "n.onnx"), "-t", "jetson-nano", "--json"]) == 0
    roofline = json.loads(capsys.readouterr().out)
    assert roofline["tier"] == SPEC_SHEET and roofline["latency_ms"].keys() == {"value", "low", "high"}
    assert main(["estimate", str(tmp_path / "n.onnx"), "-t", "android-high"]) == 0
    out = capsys.readouterr().out
    assert "[estimated]" in out and "calibrated" in out and "conv" in out
