"""Profiles of a device of one's own: from a table of measurements, and from probes that are measured."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd import calibrate, cost, fitted, probes
from edgekd.calibrate import Row, rows_of
from edgekd.cli import main
from edgekd.errors import ConfigError
from edgekd.nets import anatomy
from edgekd.shipped import load_target
from tests.test_estimate import net

WIDTHS = {
    "a": ((16, 32, 32), 32), "b": ((32, 64, 64), 32), "c": ((8, 8, 8, 8), 64), "d": ((64, 64), 24),
    "e": ((16, 128), 16), "f": ((24, 48, 48, 48), 40), "g": ((8, 16, 32, 64), 48),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_PROFILES", str(tmp_path / "profiles"))


@pytest.fixture
def nets(tmp_path: Path) -> dict[str, Path]:
    return {name: net(tmp_path / f"{name}.onnx", *shape) for name, shape in WIDTHS.items()}


def device_ms(path: Path) -> float:
    """What a device would take that is 3 times as slow as a phone, with a noise of its own."""
    found = cost.estimate(path, load_target("android-high"), engine="litert", precision="fp32")
    return 3 * found.latency_ms * float(np.random.default_rng(len(found.kernels)).lognormal(0, 0.02))


def table(tmp_path: Path, lines: list[str], head: str = "model,latency_ms,engine") -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def test_five_nets_bring_a_device_from_its_spec_sheet_to_an_anchor(nets: dict[str, Path], tmp_path: Path) -> None:
    rows = table(tmp_path, [f"{nets[name].name},{device_ms(nets[name])},litert" for name in "abcde"])
    found = calibrate.calibrate("board", rows_of(rows))
    (profile,) = found.profiles
    assert profile.tier == "anchored on 5 measurements" and profile.rows == 5 and profile.held is not None
    for name in "fg":
        estimate = cost.estimate(nets[name], load_target("raspberry-pi-5"), engine="litert", profile="board", threads=1)
        assert estimate.latency_ms == pytest.approx(device_ms(nets[name]), rel=0.15)
        assert estimate.low_ms < device_ms(nets[name]) < estimate.high_ms
        assert estimate.tier == "anchored on 5 measurements" and estimate.evidence[0].model.endswith(".onnx")


def test_a_target_names_a_profile_of_ones_own(nets: dict[str, Path]) -> None:
    rows = [Row(model=str(nets[name]), latency_ms=device_ms(nets[name]), engine="litert") for name in "abcde"]
    calibrate.calibrate("board", rows)
    import msgspec

    target = msgspec.structs.replace(load_target("raspberry-pi-5"), cost_profile="board", threads=1)
    assert cost.estimate(nets["f"], target, engine="litert").tier == "anchored on 5 measurements"


def test_a_runtime_that_nobody_measured_can_be_calibrated(nets: dict[str, Path]) -> None:
    rows = [Row(model=str(nets[name]), latency_ms=2 * device_ms(nets[name])) for name in "abcde"]
    found = calibrate.calibrate("pc", rows)
    assert found.profiles[0].runtime == "onnxruntime" and any("nobody has measured it" in one for one in found.notes)
    estimate = cost.estimate(nets["f"], load_target("intel-n100"), engine="onnxruntime", profile="pc", threads=1)
    assert estimate.latency_ms == pytest.approx(2 * device_ms(nets["f"]), rel=0.25)


BAD = {
    "zero": (["a.onnx,0,litert"], "line 2: latency_ms is 0"),
    "negative": (["a.onnx,3,litert", "b.onnx,-1,litert"], "line 3: latency_ms is -1"),
    "no number": (["a.onnx,fast,litert"], "line 2: latency_ms is 'fast', and no number"),
    "infinite": (["a.onnx,inf,litert"], "line 2: latency_ms is inf"),
    "not a number": (["a.onnx,nan,litert"], "line 2: latency_ms is nan"),
    "no model": ([",3,litert"], "line 2: no model"),
    "too many fields": (["a.onnx,3,litert,1,2"], "line 2: more fields than columns"),
    "nothing": ([], "no rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_measurements_that_cannot_be_are_refused(case: str, tmp_path: Path) -> None:
    lines, message = BAD[case]
    with pytest.raises(ConfigError, match=message):
        rows_of(table(tmp_path, lines))


def test_columns_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no column 'latency_ms'"):
        rows_of(table(tmp_path, ["a,1"], "model,ms"))
    with pytest.raises(ConfigError, match="unknown column 'device'"):
        rows_of(table(tmp_path, ["a,1,x"], "model,latency_ms,device"))


def test_contradictions_are_refused_and_noise_is_told(nets: dict[str, Path]) -> None:
    def rows(second: float) -> list[Row]:
        return [Row(model=str(nets["a"]), latency_ms=ms, engine="litert") for ms in (1.0, second)]

    with pytest.raises(ConfigError, match=r"took 1 ms and 10 ms .*one of them must be wrong"):
        calibrate.calibrate("board", rows(10.0))
    assert any("the median counts" in note for note in calibrate.calibrate("board", rows(1.5)).notes)


def test_a_net_that_does_not_fit_the_others_is_pointed_at(nets: dict[str, Path]) -> None:
    wrong = {"c": 30.0}
    rows = [
        Row(model=str(path), latency_ms=device_ms(path) * wrong.get(name, 1.0), engine="litert")
        for name, path in nets.items()
    ]
    notes = calibrate.calibrate("board", rows).notes
    assert any("c.onnx took" in note and "is it that net?" in note for note in notes)


def test_a_model_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        calibrate.calibrate("board", rows_of(table(tmp_path, ["missing.onnx,3,litert"])))


def test_profiles_are_named_and_found_again(nets: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    rows = table(tmp_path, [f"{path},{device_ms(path)},litert" for path in nets.values()])
    assert main(["calibrate", "my-board", "--from", str(rows)]) == 0
    assert "anchored on 7 measurements" in capsys.readouterr().out and fitted.own_names() == ("my-board",)
    model = str(nets["a"])
    assert main(["estimate", model, "-t", "android-high", "--engine", "litert", "--profile", "my-bord"]) == 2
    assert "did you mean 'my-board'?" in capsys.readouterr().err
    assert main(["calibrate", "spec_sheet", "--from", str(rows)]) == 2
    assert main(["calibrate", "board"]) == 2 and main(["calibrate", "../up", "--from", str(rows)]) == 2


def test_a_damaged_profile_is_refused(tmp_path: Path, nets: dict[str, Path]) -> None:
    calibrate.calibrate("board", [Row(model=str(nets["a"]), latency_ms=1.0, engine="litert")])
    path = fitted.folder() / "board.json"
    path.write_text(path.read_text().replace('"covariance"', '"covariances"'))
    with pytest.raises(ConfigError, match="board.json"):
        fitted.own("board")


@pytest.mark.parametrize("name", calibrate.PROBES)
def test_probes_are_nets_of_their_kind(name: str) -> None:
    module, example = getattr(probes, name)()
    found = anatomy(module, tuple(example.shape[1:]))
    assert 1e5 < found.macs < 5e8 and getattr(probes, f"{name}_examples")().shape[1:] == example.shape[1:]
