"""What each rung of the accuracy ladder brings, alone, on students that static int8 spoils in ways of their own.

usage: python benchmarks/ladder.py [EXPORT ENGINE]

The students are those of tests/hard_toys.py. Every artifact is executed on the engine, over the whole test split.
"""

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from edgekd.data import load
from edgekd.ladder import REMEDIES, Slope, climb
from edgekd.nets import Net
from edgekd.specs import Agreement, Choice, Rung, Training
from tests.hard_ground import HERE, Ground, described, ground
from tests.hard_toys import unevened
from tests.test_ladder import slope


def students(folder: Path) -> Iterator[tuple[str, Ground]]:
    """Each with what is wrong with it."""
    clean = ground(made(folder / "sensor"), "residual", {"pixels": False}, data="toys.py:spectra")
    broken = Choice(name=f"{HERE / 'hard_toys.py'}:broken_sensor")
    yield (
        "a sensor that failed on two training examples",
        replace(clean, data=clean.run.step("broken", load, broken, "classification", "")),
    )
    whole = ground(made(folder / "streamed"), "residual", {})
    for times in (20.0, 50.0, 100.0):
        module = whole.module(whole.student)
        unevened(module, times)
        net = Net(module, whole.student.preprocessing)
        student = described(whole.run, whole.data, whole.student.choice, net, f"uneven-{times:.0f}")
        yield f"a residual stream with channels up to {times:.0f}² times apart", replace(whole, student=student)
    for times in (100.0, 300.0):
        uneven = ground(made(folder / f"uneven-{times:.0f}"), "uneven", {"times": times})
        lesson = msgspec.structs.replace(uneven.lesson, training=Training(epochs=100, batch=16))
        yield f"channels {times:.0f}² times apart behind a hard-swish", replace(uneven, lesson=lesson)


def made(folder: Path) -> Path:
    """The folder, once it is there."""
    folder.mkdir(parents=True)
    return folder


def rows(start: Slope, agreement: Agreement) -> Iterator[tuple[str, Rung]]:
    """Each remedy as if it were the only one."""
    for remedy in REMEDIES:
        first, rung = climb(start, agreement, [remedy]).rungs
        if remedy is REMEDIES[0]:
            yield "first try", first
        yield remedy.name, rung


def main() -> None:
    """Print the table, row by row as it is measured."""
    export, engine = sys.argv[1:3] if len(sys.argv) > 2 else ("onnx-int8", "onnxruntime")
    torch.set_num_threads(1)
    print(f"| {export} on {engine} | accuracy | SQNR | bytes | holds | how |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for title, start in students(Path(folder)):
            print(f"| **{title}**, {start.student.metrics['accuracy']:.4f} in float | | | | | |")
            for name, rung in rows(*slope(start, export, engine)):
                artifact, agreement = rung.tried.artifact, rung.agreement
                if artifact is None or agreement is None:
                    print(f"| {name} | | | | no | failed |")
                    continue
                way = artifact.quantization
                how = [f"{way.ranges} ranges"] + ["equalized"] * way.equalization + ["biases"] * way.bias_correction
                how += [f"{', '.join(way.in_float)} in float"] * bool(way.in_float)
                print(
                    f"| {name} | {agreement.metrics['accuracy']:.4f} | {agreement.sqnr_db:.1f} dB "
                    f"| {artifact.model.size_bytes} | {'yes' if rung.holds_accuracy else 'no'} | {', '.join(how)} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
