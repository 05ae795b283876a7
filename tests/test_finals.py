"""Candidates are made and measured before any training; a student of the wrong size is planned anew."""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgekd
from edgekd import finals
from edgekd.cli import main
from edgekd.errors import BudgetInfeasible, ConvertError
from edgekd.finals import AIM, MOST_FINALISTS, Experience, learned
from edgekd.plan import Finals, Shortlist
from edgekd.runs import Run
from edgekd.shipped import load_target
from edgekd.specs import (
    Budget,
    Candidate,
    Choice,
    Cost,
    Data,
    File,
    Finalist,
    Interval,
    Plan,
    Provenance,
    Report,
    Target,
    Verdict,
)
from tests.test_api import own, target

PI = load_target("raspberry-pi-4")
SPREAD = 1.5


def candidate(size: int) -> Candidate:
    """Of a row of candidates, each larger in every way than the one before it."""
    latency = Interval(value=float(size), low=size / SPREAD, high=size * SPREAD)
    cost = Cost(latency_ms=latency, peak_memory_bytes=size, file_bytes=size, macs=size, parameters=size, tier="by hand")
    return Candidate(options={"size": size}, cost=cost)


def listed(count: int, latency_ms: float) -> Shortlist:
    every = [candidate(size) for size in range(1, count + 1)]
    front = tuple(one for one in every if one.cost.latency_ms.high <= latency_ms)
    beyond = tuple(one for one in every if one not in front and one.cost.latency_ms.low <= latency_ms)
    return Shortlist(export="tflite-int8", considered=count, fitting=len(front), front=front, beyond=beyond)


def verdict(limit: str, found: float, allowed: float, provenance: Provenance = "measured", **more: Any) -> Verdict:
    return Verdict(limit=limit, found=found, allowed=allowed, provenance=provenance, ok=found <= allowed, **more)


def tried(truth: Mapping[int, float], latency_ms: float, patch: pytest.MonkeyPatch, device: str = "ssh://pi") -> Finals:
    """What comes of a device that takes `truth` milliseconds for each candidate."""

    def made(run: Run, aim: Target, choice: Choice, cost: Cost, *rest: Any) -> Finalist:
        size = choice.options["size"]
        return Finalist(
            options=choice.options, predicted=cost, verdicts=(verdict("latency_ms", truth[size], latency_ms),)
        )

    patch.setattr(finals, "_tried", made)  # converting and measuring is looked at below; here only the search
    aim = msgspec.structs.replace(PI, budget=Budget(latency_ms=latency_ms))
    shown = listed(len(truth), latency_ms)
    return finals.finals(
        cast(Run, None), aim, "mobile", shown, cast(Data, None), "", Experience(listed="", device=device)
    )


@given(st.integers(3, 60), st.floats(1 / SPREAD, SPREAD), st.floats(4, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_the_most_capable_that_the_device_has_within_the_budget_is_found(
    count: int, factor: float, latency_ms: float, seed: int
) -> None:
    """The device is slower or faster than the cost model has it, by a factor and a little more for each net."""
    noise = [0.98, 1.0, 1.02]
    truth = {size: size * factor * noise[(size * 7 + seed) % 3] for size in range(1, count + 1)}
    with pytest.MonkeyPatch.context() as patch:
        found = tried(truth, latency_ms, patch)
    assert len(found.finalists) <= MOST_FINALISTS
    assert len({one.options["size"] for one in found.finalists}) == len(found.finalists)
    chosen = found.front[-1].options["size"]
    assert truth[chosen] <= latency_ms
    assert all(one.options["size"] <= chosen for one in found.finalists if one.fits)
    inside = [one.options["size"] for one in found.front]
    assert inside == sorted(inside)
    offered = [one.options["size"] for one in (*listed(count, latency_ms).front, *listed(count, latency_ms).beyond)]
    surely = [size for size in offered if size * factor * 1.05 <= AIM * latency_ms]
    assert chosen >= max(surely, default=0)


def test_without_a_device_the_upper_end_of_the_estimate_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = {size: size * SPREAD for size in range(1, 31)}
    found = tried(truth, 30, monkeypatch, device="")
    assert found.front[-1].options == {"size": 20} and len(found.finalists) == 1


def test_where_nothing_holds_the_nearest_is_told_with_its_provenance(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BudgetInfeasible, match=r"nearest needs latency_ms 30 where 10 is allowed \[measured\]"):
        tried({size: 30 * size for size in range(1, 20)}, 10, monkeypatch)


def failing(monkeypatch: pytest.MonkeyPatch, verdicts: tuple[Verdict, ...]) -> Finals:
    def made(run: Run, aim: Target, choice: Choice, cost: Cost, *rest: Any) -> Finalist:
        return Finalist(options=choice.options, predicted=cost, verdicts=verdicts, failed="illegal instruction")

    monkeypatch.setattr(finals, "_tried", made)
    aim = msgspec.structs.replace(PI, budget=Budget(latency_ms=30))
    known = Experience(listed="", device="ssh://pi")
    return finals.finals(cast(Run, None), aim, "mobile", listed(30, 30), cast(Data, None), "", known)


def test_what_no_converter_takes_is_known_before_any_training(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConvertError, match="illegal instruction"):
        failing(monkeypatch, ())


def test_a_device_that_executes_none_leaves_the_plan_to_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    found = failing(monkeypatch, (verdict("file_bytes", 1, 2),))
    assert found.front[-1].options == {"size": 20} and found.shown == ""
    assert len(found.finalists) == finals.MOST_FAILED and not any(one.fits for one in found.finalists)


# --- after the training


def plan(size: int = 10) -> Plan:
    one = candidate(size)
    return Plan(
        target="pi", export="tflite-int8", student=Choice(name="mobile", options=one.options), predicted=one.cost,
        considered=1, fitting=1, front=(one,), reason="",
    )  # fmt: skip


def report(*verdicts: Verdict, artifact: str = "tflite-int8") -> Report:
    file = File(path="a", size_bytes=0, sha256="0" * 64)
    return Report(target="pi", artifact=artifact, verdicts=verdicts, findings=(), html=file, json=file)


FILE = verdict("file_bytes", 1, 10, "host")


def test_what_breaks_the_budget_on_a_device_is_learned_from() -> None:
    broken = verdict("latency_ms", 12, 10)
    found = learned(plan(), report(broken, FILE, verdict("accuracy_floor", 0, 1, "host")), grows=False)
    assert found is not None and found.trained and not found.fits
    assert found.verdicts == (broken, FILE) and found.options == {"size": 10}


def test_what_has_much_room_is_learned_from_where_a_plan_may_grow() -> None:
    small = report(verdict("latency_ms", 4, 10), FILE)
    assert learned(plan(), small, grows=True) is not None
    assert learned(plan(), small, grows=False) is None
    assert learned(plan(), report(verdict("latency_ms", 6, 10), FILE), grows=True) is None
    assert learned(plan(), report(verdict("latency_ms", 4, 10), verdict("file_bytes", 6, 10, "host")), True) is None


def test_an_estimate_is_no_reason_to_plan_anew() -> None:
    assert learned(plan(), report(verdict("latency_ms", 4, 10, "estimated"), FILE), grows=True) is None
    assert learned(plan(), report(verdict("latency_ms", 12, 10, "estimated"), FILE), grows=True) is None
    assert learned(plan(), report(verdict("latency_ms", 4, 10), FILE, artifact="onnx-int8"), grows=True) is None


def test_a_file_is_what_it_is_without_any_device() -> None:
    large = report(verdict("latency_ms", 4, 10, "estimated"), verdict("file_bytes", 11, 10, "host"))
    assert learned(plan(), large, grows=True) is not None


# --- the real thing

ROOMY = Budget(latency_ms=33, peak_memory_bytes=1e8, file_bytes=1e6, accuracy_floor=0.1)


def aim(**limits: float) -> Target:
    return target(exports=("onnx-int8",), budget=msgspec.structs.replace(ROOMY, **limits))


def test_a_candidate_is_converted_before_any_teacher_is_there(tmp_path: Path) -> None:
    made = edgekd.plan_all(own(), [aim()], out=tmp_path / "run")[0].made.plan
    assert made is not None and made.student.options == {"width": 8}
    (one,) = made.finalists
    found = {verdict.limit: verdict for verdict in one.verdicts}
    assert found["latency_ms"].provenance == "estimated" and found["file_bytes"].provenance == "host"
    (model,) = (tmp_path / "run").glob("raspberry-pi-4/1-plan/finalists/*/onnx-int8/model.onnx")
    assert found["file_bytes"].found == model.stat().st_size
    assert not (tmp_path / "run" / "teacher").exists()


def test_a_file_that_is_larger_than_was_estimated_is_not_chosen(tmp_path: Path) -> None:
    """The limit lies between the files of both candidates."""
    every = [edgekd.plan_all(own(space={"width": [width]}), [aim()], out=tmp_path / str(width))[0] for width in (4, 8)]
    small, large = (one.made.plan.finalists[0].verdicts[-1].found for one in every if one.made.plan)
    between = aim(file_bytes=(small + large) / 2)
    made = edgekd.plan_all(own(), [between], out=tmp_path / "run")[0].made.plan
    assert made is not None and made.student.options == {"width": 4}


def test_plans_of_all_targets_are_one_table_one_picture_and_documented_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("vl_convert", reason="pip install 'edgekd[report]'")
    recipe, folder = tmp_path / "toys.toml", tmp_path / "run"
    toys = Path(__file__).with_name("toys.py")
    recipe.write_text(
        f"""
schema = 1
name = "toys"
title = "toys"
task = "classification"
prefer = "most capable within the budget"
dataset = {{ name = "{toys}:pictures" }}
teacher = {{ name = "{toys}:teacher", training = {{ epochs = 1 }} }}
student = {{ name = "{toys}:student", space = {{ width = [4, 8] }}, training = {{ epochs = 1 }} }}
losses = [{{ name = "soft_targets" }}, {{ name = "labels" }}]
""",
        encoding="utf-8",
    )
    options = ["-t", "jetson-nano", "-t", "intel-n100", "-o", str(folder)]
    picture = tmp_path / "front.png"
    assert main(["plan", str(recipe), *options, "--json", "--picture", str(picture)]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert [one["target"] for one in plain["targets"]] == ["jetson-nano", "intel-n100"]
    for one in plain["targets"]:
        assert {"student", "predicted", "considered", "fitting", "front", "finalists", "limits"} <= one.keys()
        assert one["provenance"] == "estimated"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["plan", str(folder)]) == 0  # a run folder has both
    shown = capsys.readouterr().out
    assert "jetson-nano" in shown and "intel-n100" in shown and "estimated" in shown and "width 8" in shown


def test_the_whole_space_is_the_familys(tmp_path: Path) -> None:
    recipe = own(student="ds_cnn", space={})
    made = edgekd.plan_all(recipe, [aim(latency_ms=2)], out=tmp_path / "run", whole=True)[0].made.plan
    assert made is not None and made.considered > 500
    assert made.finalists[-1].fits and made.student.options == made.finalists[-1].options


def test_probes_rank_the_front(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="pip install 'edgekd[probes]'")
    recipe = own(space={"width": [4, 6, 8]}, teacher_epochs=1)
    made = edgekd.plan_all(recipe, [aim()], out=tmp_path / "run", probe=True)[0].made.plan
    assert made is not None and made.reason.startswith("the best of 3 that were probed")
    scores = {one.options["width"]: one.probe_accuracy for one in made.front}
    assert all(score is not None and 0 <= score <= 1 for score in scores.values())


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a machine that is reached by SSH: this one."""
    pytest.importorskip("asyncssh", reason="pip install 'edgekd[devices]'")
    from tests.test_ssh import know, serving

    folder = tmp_path_factory.mktemp("finals")
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True)
    with serving(folder) as server, pytest.MonkeyPatch.context() as patched:
        know(home, server)
        shutil.copy(server.folder / "id_ed25519", home / ".ssh" / "id_ed25519")
        patched.setenv("HOME", str(home))
        patched.delenv("SSH_AUTH_SOCK", raising=False)
        yield f"ssh:{server.address}?python={sys.executable}"


def steps(folder: Path, event: str) -> list[str]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if line["event"] == event]


def test_a_finalist_is_measured_on_the_device_and_a_plan_stays_where_there_is_none(board: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made = edgekd.plan_all(own(), [aim(latency_ms=1000)], out=folder, on=[board])[0].made.plan
    assert made is not None
    (latency,) = (one for one in made.finalists[-1].verdicts if one.limit == "latency_ms")
    assert latency.provenance == "measured" and "127.0.0.1" in latency.note
    assert made.reason.endswith(f"untrained it holds the budget on {board} [measured]")
    before = len(steps(folder, "done"))
    assert edgekd.plan_all(own(), [aim(latency_ms=1000)], out=folder)[0].made.plan == made
    assert len(steps(folder, "done")) == before


def slow(**limits: float) -> Target:
    """Of a hundredth of the clock: what is measured here, however busy the machine, is far below its estimate."""
    made = aim(**limits)
    clusters = tuple(msgspec.structs.replace(one, clock_mhz=one.clock_mhz / 100) for one in made.device.clusters)
    return msgspec.structs.replace(made, device=msgspec.structs.replace(made.device, clusters=clusters))


def test_a_student_with_much_room_is_planned_anew_on_what_was_measured(board: str, tmp_path: Path) -> None:
    """Chosen by the estimate of a slow board, measured on a fast one: a larger student is made, once, and kept."""
    folder, recipe = tmp_path / "run", own(space={"width": [4, 48]}, teacher_epochs=1, epochs=1)
    by_estimate = edgekd.plan_all(recipe, [slow()], out=tmp_path / "free")[0].made.plan
    assert by_estimate is not None
    small, large = (one.cost.latency_ms for one in by_estimate.front)
    tight = slow(latency_ms=(max(small.high, large.low) + large.high) / 2)
    first = edgekd.run(recipe, tight, out=folder, until="distil").made
    assert first.plan is not None and first.plan.student.options == {"width": 4}
    made = edgekd.run(recipe, tight, out=folder, on=[board], rounds=1).made
    assert made.plan is not None and made.plan.student.options == {"width": 48}
    assert made.student is not None and made.student.choice == made.plan.student
    assert steps(folder, "planned again") == ["raspberry-pi-4/1-plan"]
    assert (folder / "raspberry-pi-4" / "2-distil.old-1" / "student.safetensors").exists()  # nothing is lost
    before = len(steps(folder, "done"))
    again = edgekd.run(recipe, tight, out=folder, on=[board], rounds=1).made
    assert again.plan == made.plan and len(steps(folder, "done")) == before


def test_what_a_device_shows_to_fit_nowhere_is_not_trained(board: str, tmp_path: Path) -> None:
    """The estimate knows nothing of what a runtime takes for itself."""
    folder = tmp_path / "run"
    with pytest.raises(BudgetInfeasible, match=r"peak_memory_bytes .* where 2e\+05 is allowed \[measured\]"):
        edgekd.run(own(space={"width": [4]}), aim(peak_memory_bytes=2e5), out=folder, on=[board])
    assert not (folder / "teacher").exists()
