"""Two runs side by side: only numbers of one machine and one provenance are held against each other."""

import copy
from typing import Any

import pytest

from edgekd.compare import Difference, compare


def summary(target: str = "pi", p90: float = 2.0) -> dict[str, Any]:
    """The keys of a report.json that a comparison reads."""
    return {
        "target": target,
        "teacher": {"metrics": {"accuracy": 0.99}},
        "student": {"metrics": {"accuracy": 0.98}, "parameters": 1000},
        "student_without_distillation": {"metrics": {"accuracy": 0.97}},
        "artifacts": [{"export": "tflite-int8", "file_bytes": 5000, "metrics": {"accuracy": 0.975}}],
        "measurements": [
            {
                "artifact": "tflite-int8",
                "engine": "litert",
                "device": "host",
                "provenance": "host",
                "machine": {"cpu": "Some CPU"},
                "latency_ms": {"p90": p90},
                "valid": True,
            }
        ],
    }


def changed(*path: Any, to: Any) -> dict[str, Any]:
    made = summary(p90=3.0)
    inner: Any = made
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = to
    return made


def timing(differences: list[Difference]) -> Difference:
    (found,) = [one for one in differences if "p90" in one.quantity]
    return found


def test_every_quantity_of_both_is_shown() -> None:
    other = summary(p90=3.0)
    other["student"]["metrics"]["accuracy"] = 0.5
    found = compare([summary()], [other])
    assert [(one.quantity, one.a, one.b) for one in found] == [
        ("teacher accuracy", 0.99, 0.99),
        ("student accuracy", 0.98, 0.5),
        ("student_without_distillation accuracy", 0.97, 0.97),
        ("student parameters", 1000, 1000),
        ("tflite-int8 file_bytes", 5000, 5000),
        ("tflite-int8 accuracy", 0.975, 0.975),
        ("tflite-int8 p90 ms on host", 2.0, 3.0),
    ]
    assert all(one.comparable and one.provenance == "host" and one.note == "" for one in found)


@pytest.mark.parametrize(
    "other",
    [
        changed("measurements", 0, "provenance", to="measured"),
        changed("measurements", 0, "provenance", to="emulated"),
        changed("measurements", 0, "machine", "cpu", to="Another CPU"),
    ],
    ids=["measured", "emulated", "machine"],
)
def test_timings_of_another_machine_or_provenance_are_not_comparable(other: dict[str, Any]) -> None:
    found = timing(compare([summary()], [other]))
    assert not found.comparable
    assert found.note == "other machine or provenance: not comparable"
    assert (found.a, found.b, found.provenance) == (2.0, 3.0, "host")


@pytest.mark.parametrize("side", [0, 1])
def test_timings_that_were_not_stable_are_said(side: int) -> None:
    pair = [summary(), summary()]
    pair[side] = changed("measurements", 0, "valid", to=False)
    assert timing(compare([pair[0]], [pair[1]])).note == "not stable"


@pytest.mark.parametrize("key", ["artifact", "engine", "device"])
def test_timings_of_another_artifact_engine_or_device_are_not_paired(key: str) -> None:
    other = changed("measurements", 0, key, to="another")
    assert not [one for one in compare([summary()], [other]) if "p90" in one.quantity]


def test_an_artifact_that_only_one_has_is_shown_alone() -> None:
    other = summary()
    other["artifacts"] = []
    found = {one.quantity: (one.a, one.b) for one in compare([summary()], [other])}
    assert found["tflite-int8 file_bytes"] == (5000, None) and found["tflite-int8 accuracy"] == (0.975, None)


def test_targets_are_paired_by_name() -> None:
    ours, theirs = [summary("pi"), summary("phone")], [summary("phone", 9.0), summary("tv")]
    assert {one.target for one in compare(ours, theirs)} == {"phone"}
    assert timing(compare(ours, theirs)).b == 9.0
    assert compare([summary("pi")], [summary("tv")]) == []


def test_what_is_compared_is_left_as_it_was() -> None:
    one, other = summary(), summary("pi", 5.0)
    before = copy.deepcopy((one, other))
    compare([one], [other])
    assert (one, other) == before


def counted(total: float, latency: float, model: str = "fitted", provenance: str = "emulated") -> dict[str, Any]:
    made = summary()
    made["measurements"] = []
    made["counts"] = [
        {
            "artifact": "tflite-int8",
            "engine": "litert",
            "device": "qemu:cortex-a72",
            "provenance": provenance,
            "instructions": {"total": total},
            "latency_ms": {"value": latency, "low": 1.0, "high": 9.0},
            "latency_model": model,
        }
    ]
    return made


def test_counts_of_one_emulated_device_are_compared() -> None:
    found = {one.quantity: one for one in compare([counted(1e6, 3.0)], [counted(2e6, 4.0)])}
    instructions = found["tflite-int8 instructions on qemu:cortex-a72"]
    latency = found["tflite-int8 latency ms on qemu:cortex-a72"]
    assert (instructions.a, instructions.b, instructions.provenance) == (1e6, 2e6, "emulated")
    assert (latency.a, latency.b) == (3.0, 4.0) and instructions.comparable and latency.comparable
    found = {one.quantity: one for one in compare([counted(1e6, 3.0)], [counted(2e6, 4.0, "another")])}
    assert found[instructions.quantity].comparable and not found[latency.quantity].comparable
    assert not any("qemu" in one.quantity for one in compare([counted(1e6, 3.0)], [summary()]))
