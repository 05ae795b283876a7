"""Estimates beside what was found; profiles of the user's own that learn from measurements, and what they refuse."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekd import calibrate, cost, fitted
from edgekd.calibrate import Row
from edgekd.files import content
from edgekd.fitted import CONTRADICTORY, FEW, SPEC_SHEET, Profile
from edgekd.measure import statistics
from edgekd.refine import compare, compare_files
from edgekd.runs import Run
from edgekd.shipped import load_target
from edgekd.specs import Artifact, Comparisons, File, Measurement, Quantization, Target
from tests.test_calibrate import WIDTHS, device_ms
from tests.test_estimate import net
from tests.test_imports import loaded_by
from tests.test_verdicts import CORE, counted, timed


@pytest.fixture(autouse=True)
def _own_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_PROFILES", str(tmp_path / "profiles"))


@pytest.fixture
def board(tmp_path: Path) -> Target:
    """A target with a profile of its own, of five nets, fp32 with one thread."""
    nets = [net(tmp_path / f"{name}.onnx", *WIDTHS[name]) for name in "abcde"]
    calibrate.calibrate("board", [Row(model=str(one), latency_ms=device_ms(one), engine="litert") for one in nets])
    return msgspec.structs.replace(load_target("raspberry-pi-5"), cost_profile="board")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A net that the profile has not seen."""
    return net(tmp_path / "other.onnx", *WIDTHS["f"])


def took(milliseconds: float, **changes: Any) -> Measurement:
    said = {"latency_ms": statistics(np.full(8, milliseconds)), "threads": 1, "artifact": "other.onnx", **changes}
    return timed(1.0, **said)


def profile() -> Profile:
    (one,) = fitted.own("board")
    return one


def kept() -> dict[str, bytes]:
    """What is written of profiles."""
    return {path.name: path.read_bytes() for path in fitted.folder().glob("*.json")}


def expected(path: Path, target: Target) -> cost.Estimate:
    return cost.estimate(path, target, engine="litert", precision="fp32", threads=1)


# --- what a profile learns


def test_a_refined_profile_predicts_the_measured_net_better(board: Target, other: Path) -> None:
    before = expected(other, board)
    found_ms = 1.15 * before.latency_ms
    found = compare_files(board, [(other, took(found_ms))])
    (row,) = found.rows
    assert row.estimated_ms == before.latency_ms and (row.low_ms, row.high_ms) == (before.low_ms, before.high_ms)
    assert row.found_ms == pytest.approx(found_ms) and row.ratio == pytest.approx(1.15)
    assert row.provenance == "measured" and row.tier == "anchored on 5 measurements" and not row.fitted
    assert row.inside == (row.low_ms <= row.found_ms <= row.high_ms)
    after = expected(other, board)
    assert abs(np.log(after.latency_ms / found_ms)) < 0.8 * abs(np.log(before.latency_ms / found_ms))
    assert after.high_ms / after.low_ms < before.high_ms / before.low_ms
    assert after.tier == "anchored on 6 measurements" and after.evidence[0].model == "other.onnx"
    assert found.notes == (
        "Profile board has learnt from other.onnx: for tflite fp32 with 1 thread it is anchored on 6 measurements.",
    )


def test_what_was_known_of_other_nets_stays_known(board: Target, other: Path, tmp_path: Path) -> None:
    """One net of another kind does not move a device's scale, as it would where nothing else is known."""
    probe = tmp_path / "a.onnx"
    before = expected(probe, board).latency_ms
    compare_files(board, [(other, took(1.3 * expected(other, board).latency_ms))])
    assert expected(probe, board).latency_ms == pytest.approx(before, rel=0.15)


def test_the_second_measuring_of_a_net_changes_nothing(board: Target, other: Path, tmp_path: Path) -> None:
    ms = 1.2 * expected(other, board).latency_ms
    compare_files(board, [(other, took(ms))])
    once = kept()
    shutil.copy(other, tmp_path / "copy.onnx")
    seed = net(tmp_path / "seed.onnx", *WIDTHS["f"])  # other weights would be another file of the same kernels
    seed.write_bytes(seed.read_bytes().replace(b"image", b"IMAGE"))
    assert content(seed)[1] != content(other)[1]
    for path in (other, tmp_path / "copy.onnx", seed):
        again = compare_files(board, [(path, took(1.1 * ms))])
        assert again.notes == () and again.rows[0].fitted, "the estimate is no evidence of itself"
    assert kept() == once


def test_what_was_calibrated_with_is_known(board: Target, tmp_path: Path) -> None:
    before = kept()
    (row,) = compare_files(board, [(tmp_path / "a.onnx", took(3.0, artifact="a.onnx"))]).rows
    assert row.fitted and kept() == before


def test_enough_nets_make_a_profile_calibrated(board: Target, tmp_path: Path) -> None:
    for index in range(FEW - 5):
        path = net(tmp_path / f"{index}.onnx", (8 + 2 * index, 16), 24 + index)
        compare_files(board, [(path, took(expected(path, board).latency_ms, artifact=path.name))])
    assert profile().rows == FEW and profile().tier == "calibrated" and len(profile().evidence) == FEW
    assert expected(path, board).tier == "calibrated"


def test_all_estimates_are_made_before_any_is_learnt_from(board: Target, other: Path, tmp_path: Path) -> None:
    more = net(tmp_path / "more.onnx", *WIDTHS["g"])
    estimates = [expected(path, board).latency_ms for path in (other, more)]
    found = compare_files(board, [(path, took(2 * ms)) for path, ms in zip((other, more), estimates, strict=True)])
    assert [row.estimated_ms for row in found.rows] == estimates
    assert profile().rows == 7


def test_processes_that_learn_at_once_lose_nothing(board: Target, tmp_path: Path) -> None:
    paths = [net(tmp_path / f"{index}.onnx", (8 + 4 * index, 16), 32) for index in range(8)]
    files = [(path, took(expected(path, board).latency_ms, artifact=path.name)) for path in paths]
    with ThreadPoolExecutor(8) as pool:  # a lock is of an opened file: threads wait for it as processes do
        list(pool.map(lambda one: compare_files(board, [one]), files))
    assert profile().rows == 13 and {path.name for path in paths} <= {one.model for one in profile().evidence}


# --- what it refuses


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(power=st.floats(-8, 8))
def test_a_measurement_is_learnt_from_or_refused_whole(power: float, board: Target, other: Path) -> None:
    calibrated, before, estimate = kept(), profile(), expected(other, board)
    found_ms, off = estimate.latency_ms * 10**power, 10 ** abs(power)
    try:
        notes = compare_files(board, [(other, took(found_ms))]).notes
        if off > 1.01 * max(CONTRADICTORY, estimate.high_ms / estimate.latency_ms):
            assert kept() == calibrated
            assert all(what in notes[0] for what in ("not learnt from other.onnx", "[measured]", "[estimated]"))
        elif off < CONTRADICTORY / 1.01:
            after = profile()
            assert after.rows == before.rows + 1 and np.abs(after.fit.log).max() < 50
            assert np.linalg.eigvalsh(after.fit.covariance).min() > -1e-5
            closer = abs(np.log(expected(other, board).latency_ms / found_ms))
            assert closer <= np.log(off) + 0.01
    finally:
        (fitted.folder() / "board.json").write_bytes(calibrated["board.json"])


def test_what_was_not_measured_on_the_device_teaches_nothing(board: Target, other: Path) -> None:
    before, ms = kept(), expected(other, board).latency_ms
    assert compare_files(board, [(other, took(ms, device="host", provenance="host"))]) == Comparisons()
    invalid = compare_files(board, [(other, took(ms, valid=False, reasons=("throttled",)))])
    assert not invalid.rows[0].valid and invalid.notes == ()
    assert kept() == before


def test_what_is_emulated_is_compared_where_it_stands_for_the_target(other: Path) -> None:
    pi = load_target("raspberry-pi-4")
    found = msgspec.structs.replace(counted(9.0), threads=1)
    (row,) = compare_files(pi, [(other, found)]).rows
    assert (row.provenance, row.found_ms, row.device) == ("emulated", 9.0, CORE)
    assert not compare_files(load_target("raspberry-pi-5"), [(other, found)]).rows, "another core says nothing of it"
    assert not compare_files(pi, [(other, counted(None))]).rows
    assert kept() == {}


def test_without_a_profile_of_ones_own_nothing_is_written(other: Path) -> None:
    found = compare_files(load_target("android-high"), [(other, took(9.0))])
    assert found.rows[0].tier == "calibrated" and not fitted.folder().exists()
    (note,) = found.notes
    assert "`edgekd calibrate NAME --on ssh://pi@board --engine litert --precision fp32 --threads 1`" in note
    assert 'cost_profile = "NAME"' in note
    (row,) = compare_files(load_target("jetson-nano"), [(other, took(9.0, engine="onnxruntime"))]).rows
    assert row.tier == SPEC_SHEET


@pytest.mark.parametrize("changes", [{"threads": 4}, {"engine": "onnxruntime"}])
def test_other_threads_and_runtimes_are_another_profile(board: Target, other: Path, changes: dict[str, Any]) -> None:
    before = kept()
    (note,) = compare_files(board, [(other, took(9.0, **changes))]).notes
    assert "edgekd calibrate board --on ssh://pi@board" in note and kept() == before


def test_a_damaged_profile_is_told_and_stops_nothing(board: Target, other: Path) -> None:
    path = fitted.folder() / "board.json"
    path.write_text(path.read_text().replace('"covariance"', '"covariances"'))
    before = kept()
    found = compare_files(board, [(other, took(9.0))])
    assert not found.rows and len(found.notes) == 2 and all("board.json" in note for note in found.notes)
    assert kept() == before


def test_a_profile_that_lacks_nets_it_was_fitted_on_learns_no_more(board: Target, other: Path) -> None:
    with fitted.revising("board") as profiles:
        profiles[0] = msgspec.structs.replace(profiles[0], evidence=profiles[0].evidence[:2])
    before = kept()
    (note,) = compare_files(board, [(other, took(expected(other, board).latency_ms))]).notes
    assert "it keeps 2 of the 5 nets that it was fitted on" in note and kept() == before


# --- in a run


def artifact(run: Run, path: Path, **changes: Any) -> Artifact:
    """A file as if a run had exported it."""
    shutil.copy(path, run.folder / "model.onnx")
    size_bytes, sha256 = content(path)
    file = File(path="model.onnx", size_bytes=size_bytes, sha256=sha256)
    made = {"export": "onnx-fp32", "format": "onnx", "precision": "fp32", "model": file, "samples": file}
    return Artifact(**{**made, "inputs": (), "outputs": (), "tools": {}, **changes})


def test_a_run_keeps_what_was_estimated_before_it_learnt(board: Target, other: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    made, found = artifact(run, other), took(1.3 * expected(other, board).latency_ms, artifact="onnx-fp32")
    first = compare(run, board, [made], [found])
    assert profile().rows == 6 and not first.rows[0].fitted and "anchored on 6" in first.notes[0]
    once = kept()
    assert compare(run, board, [made], [found]) == first, "or the report would be written anew"
    later = compare(run, board, [made], [took(found.latency_ms.p50 * 1.01, artifact="onnx-fp32")])
    assert later.rows[0].estimated_ms == first.rows[0].estimated_ms and later.notes == ()
    assert kept() == once


def test_what_is_partly_in_float_teaches_nothing_of_integers(board: Target, other: Path, tmp_path: Path) -> None:
    run, before = Run(tmp_path / "run"), kept()
    made = artifact(run, other, quantization=Quantization(in_float=("stem",)))
    found = compare(run, board, [made], [took(expected(other, board).latency_ms, artifact="onnx-fp32")])
    assert len(found.rows) == 1 and "partly in float" in found.notes[0] and kept() == before


def test_comparing_files_loads_nothing_that_trains(other: Path) -> None:
    code = f"""
import msgspec
from pathlib import Path
from edgekd.refine import compare_files
from edgekd.shipped import load_target
from edgekd.specs import Measurement
found = msgspec.json.decode({msgspec.json.encode(took(9.0))!r}, type=Measurement)
assert compare_files(load_target("android-high"), [(Path({str(other)!r}), found)]).rows
"""
    assert loaded_by(code) <= {"onnx"}


# --- profiles under one name


def test_what_is_calibrated_later_stands_beside_what_was(board: Target, other: Path) -> None:
    rows = [Row(model=str(other), latency_ms=1.0, engine="litert", precision="int8", threads=4)]
    calibrate.calibrate("board", rows)
    assert {one.place for one in fitted.own("board")} == {("tflite", "cpu", "fp32", 1), ("tflite", "cpu", "int8", 4)}
    calibrate.calibrate("board", [msgspec.structs.replace(rows[0], latency_ms=2.0)])
    assert [one.rows for one in fitted.own("board") if one.precision == "int8"] == [1], "calibrated anew"
    path = fitted.folder() / "board.json"
    path.write_text("damaged")
    calibrate.calibrate("board", rows)
    assert len(fitted.own("board")) == 1, "this is how to mend it"
