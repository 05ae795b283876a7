"""Two runs side by side; numbers are held against each other only where their provenance and machine are the same."""

from collections.abc import Iterator
from typing import Any

from edgekd.specs import Spec


class Difference(Spec, frozen=True, kw_only=True):
    """A quantity of two runs."""

    target: str
    quantity: str
    a: float | None
    b: float | None
    provenance: str
    comparable: bool = True
    note: str = ""


def compare(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> list[Difference]:
    """Differences of two runs' summaries, target by target; see docs/json.md for the keys of a summary."""
    theirs = {summary["target"]: summary for summary in b}
    return [
        difference for ours in a if ours["target"] in theirs for difference in _of_target(ours, theirs[ours["target"]])
    ]


def _of_target(a: dict[str, Any], b: dict[str, Any]) -> Iterator[Difference]:
    at = a["target"]
    for who in ("teacher", "student", "student_without_distillation"):
        for metric in a[who]["metrics"]:
            yield _of(at, f"{who} {metric}", a[who]["metrics"].get(metric), b[who]["metrics"].get(metric), "host")
    yield _of(at, "student parameters", a["student"]["parameters"], b["student"]["parameters"], "host")
    theirs = {artifact["export"]: artifact for artifact in b["artifacts"]}
    for artifact in a["artifacts"]:
        other = theirs.get(artifact["export"], {})
        name = artifact["export"]
        yield _of(at, f"{name} file_bytes", artifact["file_bytes"], other.get("file_bytes"), "host")
        for metric, value in artifact["metrics"].items():
            yield _of(at, f"{name} {metric}", value, other.get("metrics", {}).get(metric), "host")
    yield from _timings(at, a, b)
    yield from _counts(at, a, b)


def _timings(at: str, a: dict[str, Any], b: dict[str, Any]) -> Iterator[Difference]:
    theirs = {(one["artifact"], one["engine"], one["device"]): one for one in b["measurements"]}
    for ours in a["measurements"]:
        other = theirs.get((ours["artifact"], ours["engine"], ours["device"]))
        quantity = f"{ours['artifact']} p90 ms on {ours['device']}"
        if other is None:
            continue
        same = ours["machine"]["cpu"] == other["machine"]["cpu"] and ours["provenance"] == other["provenance"]
        stable = ours.get("valid", False) and other.get("valid", False)
        note = "" if stable else "not stable"
        yield Difference(
            target=at,
            quantity=quantity,
            a=ours["latency_ms"]["p90"],
            b=other["latency_ms"]["p90"],
            provenance=ours["provenance"],
            comparable=same,
            note=note if same else "other machine or provenance: not comparable",
        )


def _counts(at: str, a: dict[str, Any], b: dict[str, Any]) -> Iterator[Difference]:
    """What was counted on the same emulated device by the same engine; a run from before has no such key."""
    theirs = {(one["artifact"], one["engine"], one["device"]): one for one in b.get("counts", ())}
    for ours in a.get("counts", ()):
        other = theirs.get((ours["artifact"], ours["engine"], ours["device"]))
        if other is None:
            continue
        name, where, kind = ours["artifact"], f"on {ours['device']}", ours["provenance"]
        same = kind == other["provenance"]
        alike = same and ours.get("latency_model") == other.get("latency_model")
        for what, mine, its, comparable in (
            ("instructions", _total(ours), _total(other), same),
            ("latency ms", _modelled(ours), _modelled(other), alike),
        ):
            note = "" if comparable else "other provenance or model: not comparable"
            if mine is not None and its is not None:
                quantity = f"{name} {what} {where}"
                yield Difference(
                    target=at, quantity=quantity, a=mine, b=its, provenance=kind, comparable=comparable, note=note
                )


def _total(counted: dict[str, Any]) -> float | None:
    total: float | None = counted["instructions"].get("total")
    return total


def _modelled(counted: dict[str, Any]) -> float | None:
    latency = counted.get("latency_ms")
    return latency["value"] if latency else None


def _of(target: str, quantity: str, a: float | None, b: float | None, provenance: str) -> Difference:
    return Difference(target=target, quantity=quantity, a=a, b=b, provenance=provenance)
