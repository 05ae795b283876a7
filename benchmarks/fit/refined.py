"""Print how far a user's profile is off for nets that it has not seen, while it learns from more and more of them.

    python benchmarks/fit/refined.py DATA

DATA is a folder as described in benchmarks/fit/measured.py. Each phone is left out of what devices share; its profile
begins with the five anchors of benchmarks/fit/latency.py, and learns nets drawn at random. All others are predicted.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import latency
import msgspec
import numpy as np
from latency import Group, Run

from edgekd import fitted
from edgekd.fitted import Family, packed

LEARNT = (0, 1, 5, 10, 20, 40)


def main(data: Path) -> None:
    """A line for each runtime and precision."""
    print("| what | runs |", *(f"5 and {count} |" for count in LEARNT))
    print("|---|---|", *("---|" for _ in LEARNT))
    for group in latency.qed(data):
        known = fitted.family(group.runtime, group.unit, group.precision)
        if known:
            told = [_run(group, run, known, seed) for seed, run in enumerate(group.runs)]
            print(f"| {', '.join(known.key)} | {len(told)} |", *map(_cell, zip(*told, strict=True)))


def _run(group: Group, run: Run, known: Family, seed: int) -> list[tuple[float, float]]:
    """Mean error and share inside of the 90% interval, for each of LEARNT."""
    prior = latency._prior(group, lambda device: device != run.device, lambda _: True)
    unseen = msgspec.structs.replace(known, mean=tuple(map(float, prior.mean)), covariance=packed(prior.covariance))
    totals, ms, names = group.rows(run, lambda _: True)
    nets = [fitted.evidence(*one, "") for one in zip(names, map(float, ms), totals, strict=True)]
    order = np.random.default_rng(seed).permutation(len(names)).tolist()
    order.sort(key=lambda index: names[index] not in group.anchors)
    anchors, told = sum(name in group.anchors for name in names), []
    held = order[anchors + max(LEARNT) :]
    for count in LEARNT:
        some = [nets[index] for index in order[: anchors + count]]
        profile = fitted.own_profile("phone", run.device, unseen, 1, some)
        found = fitted.of_profile(profile).predict(totals[held])
        inside = (found.low <= ms[held]) & (ms[held] <= found.high)
        told.append((float(np.abs(found.ms / ms[held] - 1).mean()), float(inside.mean())))
    return told


def _cell(told: tuple[tuple[float, float], ...]) -> str:
    off, inside = np.mean(told, axis=0)
    return f"{off:.1%}, {inside:.0%} inside |"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
