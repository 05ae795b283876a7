"""How many candidates a second of one core a search costs; beside it each candidate alone, answered by torch.

usage: python benchmarks/searching.py [FAMILY ...]

A sample of the space is costed both ways, and has to cost the same to the last bit. What torch loads when it first
answers for the meta device, about a second, is not counted.
"""

import itertools
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from edgekd import cost, remembered
from edgekd.costing import costs
from edgekd.lessons import build
from edgekd.nets import anatomy_executed
from edgekd.shipped import load_target
from edgekd.specs import Choice, Cost, Output, StudentChoice, Subject, Target, Training
from tests.subjects import output, story, subject, text

SCENE = Subject(
    shape=(3, 96, 160),
    kind="images",
    outputs=(
        output(),
        Output(name="seg", task="segmentation", shape=(5, 24, 40), classes=tuple("abcde"), metric="miou"),
    ),
)
SPACES: dict[str, tuple[Subject, dict[str, list[Any]]]] = {
    "mobile": (
        subject((3, 64, 64)),
        {
            "width": [round(0.25 + 0.05 * step, 2) for step in range(20)],
            "depth": [0.5, 1.0, 1.5, 2.0],
            "expansion": [2, 3, 4, 6],
            "resolution": [32, 48, 64, 80, 96],
            "squeeze_excite": [False, True],
        },
    ),
    "ds_cnn": (
        subject((1, 32, 49), kind="numbers"),
        {
            "channels": [*range(16, 144, 4)],
            "blocks": [*range(1, 9)],
            "kernel": [[3, 3], [4, 10], [5, 5]],
            "stride": [[1, 1], [2, 1], [2, 2]],
        },
    ),
    "encoder": (
        text(32),
        {
            "width": [*range(48, 336, 48)],
            "layers": [1, 2, 3, 4, 6],
            "heads": [2, 3, 4, 6],
            "feed_forward": [1.0, 1.5, 2.0, 3.0, 4.0],
            "embedding": [None, 32, 64, 128],
        },
    ),
    "decoder": (
        story(32),
        {
            "width": [*range(48, 336, 48)],
            "layers": [1, 2, 3, 4, 6],
            "heads": [2, 3, 4],
            "feed_forward": [1.0, 1.5, 2.0, 8 / 3],
            "base": [1e4, 3e4, 1e5],
        },
    ),
    "multitask_mobile": (
        SCENE,
        {
            "width": [round(0.25 + 0.05 * step, 2) for step in range(24)],
            "depth": [0.5, 1.0, 1.5, 2.0],
            "expansion": [2, 3, 4, 6],
            "head": [None, 16, 24, 32, 48],
        },
    ),
}
SAMPLE = 40


def alone(name: str, point: dict[str, Any], wanted: Subject, target: Target) -> dict[str, Cost]:
    """A candidate's costs, with nothing known of others."""
    with patch.object(remembered, "key", lambda *_: None):
        with torch.device("meta"):
            net = build(Choice(name=name, options=point), wanted)
        described = anatomy_executed(net, wanted)
    model = cost.model_of(target)
    return {one: model.estimate(described, target, one.rpartition("-")[2]) for one in target.exports}


def main() -> None:
    """Print the table, row by row as it is measured."""
    torch.set_num_threads(1)
    target = load_target("raspberry-pi-5")
    print("| family | candidates | a second | alone, a second | times | equal |\n|---|---|---|---|---|---|")
    for name in sys.argv[1:] or SPACES:
        wanted, space = SPACES[name]
        points = [dict(zip(space, point, strict=True)) for point in itertools.product(*space.values())]
        student = StudentChoice(name=name, training=Training(epochs=1))
        alone(name, points[0], wanted, target)
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            found = costs(student, points, wanted, target, Path(folder) / "log")
            together = len(points) / (time.process_time() - start)
        sample = random.Random(0).sample(range(len(points)), SAMPLE)
        start = time.process_time()
        expected = [alone(name, points[index], wanted, target) for index in sample]
        each = SAMPLE / (time.process_time() - start)
        equal = sum(found[index] == one for index, one in zip(sample, expected, strict=True))
        print(
            f"| {name} | {len(points)} | {together:.0f} | {each:.0f} | {together / each:.0f} | {equal} of {SAMPLE} |",
            flush=True,
        )
        if equal < SAMPLE:
            sys.exit(1)


if __name__ == "__main__":
    main()
