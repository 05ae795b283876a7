"""How close to a budget students are planned, for every shipped target, without any training.

    python benchmarks/planning.py signs OUT [TARGET ...]

Searches the whole space of the recipe's family of students. A share is what the chosen candidate, made with random
weights, was found to take of a limit: emulated where the target's emulator is prepared (`edgekd device prepare`), of a
file its very size, else the upper end of an estimate.
"""

import sys
import time
from pathlib import Path

import msgspec

import edgekd
from edgekd.errors import BudgetInfeasible
from edgekd.shipped import target_names
from edgekd.specs import Verdict

COLUMNS = ("target", "student", "considered", "made", "latency", "memory", "file", "nearest line", "seconds")


def share(verdict: Verdict | None) -> str:
    """Of a limit, with its provenance."""
    return f"{verdict.share:.0%} {verdict.provenance}" if verdict else ""


def row(recipe: str, target: str, out: Path) -> list[str]:
    """A line of the table."""
    began = time.monotonic()
    wanted = msgspec.structs.replace(edgekd.load_recipe(recipe), prefer="most capable within the budget")
    try:
        plan = edgekd.plan_all(wanted, [target], out=out / target, whole=True)[0].made.plan
    except BudgetInfeasible as error:
        return [target, str(error), *[""] * (len(COLUMNS) - 2)]
    assert plan is not None
    chosen = next(one for one in plan.finalists if one.options == plan.student.options)
    found = {one.limit: one for one in chosen.verdicts}
    shares = [share(found.get(limit)) for limit in ("latency_ms", "peak_memory_bytes", "file_bytes")]
    options = ", ".join(f"{name} {value}" for name, value in plan.student.options.items())
    nearest = max(one.share for one in chosen.verdicts)
    seconds = time.monotonic() - began
    made = str(len(plan.finalists))
    return [target, options, f"{plan.considered:,}", made, *shares, f"{nearest:.0%}", f"{seconds:.0f}"]


def main(recipe: str, out: str, *targets: str) -> None:
    """Print the table of some targets, or of all that are shipped."""
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    for target in targets or target_names():
        print("| " + " | ".join(row(recipe, target, Path(out))) + " |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
