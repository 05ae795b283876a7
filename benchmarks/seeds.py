"""A recipe with several seeds: teacher, student, twin without teacher, and artifacts; mean and deviation.

With --students the seeds are the students' alone: all have the same teacher, which is trained and asked once.

usage: python benchmarks/seeds.py RECIPE TARGET [SEEDS] [--students] [--into FILE.md]
"""

import argparse
import platform
from collections import defaultdict
from pathlib import Path

import msgspec
import numpy as np

import edgekd
from edgekd.pipeline import environment


def main() -> None:
    """Run each seed as far as its artifacts are verified, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("target")
    parser.add_argument("seeds", type=int, nargs="?", default=3)
    parser.add_argument("--students", action="store_true")
    parser.add_argument("--into", type=Path)
    arguments = parser.parse_args()
    scores: dict[str, list[float]] = defaultdict(list)
    recipe = edgekd.load_recipe(arguments.recipe)
    for seed in range(arguments.seeds):
        which = {"student_seed": seed} if arguments.students else {"seed": seed}
        out = Path("runs") / "seeds" / f"{recipe.name}{'-students' * arguments.students}-{seed}"
        seeded = msgspec.structs.replace(recipe, **which)
        made = edgekd.run(seeded, arguments.target, out=out, until="verify").made
        assert made.student is not None
        for name, metrics in (
            ("teacher", made.teacher.metrics),
            ("student", made.student.metrics),
            ("student without teacher", made.student.twin_metrics),
            *((one.artifact, one.metrics) for one in made.agreements),
        ):
            scores[name].append(next(iter(metrics.values())))
    text = table(recipe.name, arguments.target, scores, arguments.students)
    print(text)
    if arguments.into:
        arguments.into.write_text(text, encoding="utf-8")


def table(recipe: str, target: str, scores: dict[str, list[float]], students: bool) -> str:
    """Markdown."""
    seeds = len(next(iter(scores.values())))
    lines = [
        f"# {recipe} for {target}, seeds 0 to {seeds - 1}{' of the student' * students}",
        "",
        f"    python benchmarks/seeds.py {recipe} {target} {seeds}{' --students' * students}",
        "",
        "Accuracy on the test split, provenance `host`; "
        + platform.processor()
        + platform.machine()
        + ", "
        + ", ".join(f"{package} {number}" for package, number in environment().items())
        + ".",
        "",
        "| net | mean | deviation | each seed |",
        "|---|---|---|---|",
    ]
    for name, values in scores.items():
        each = ", ".join(f"{value:.4f}" for value in values)
        lines.append(f"| {name} | {np.mean(values):.4f} | {np.std(values, ddof=1 if seeds > 1 else 0):.4f} | {each} |")
    gain = np.mean(scores["student"]) - np.mean(scores["student without teacher"])
    lines += ["", f"Distillation {'helped' if gain > 0 else 'hurt'} by {abs(gain):.4f} in the mean.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
