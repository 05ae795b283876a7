"""Tell candidates apart by short distillations, examined on a part of the training split that they did not see."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import msgspec
import numpy as np

from edgekd.errors import PluginUnavailable
from edgekd.files import digest, dumps, write_text
from edgekd.lessons import Learned, Lesson, learn
from edgekd.runs import Work
from edgekd.specs import Candidate, Choice, Data, Knowledge, Training
from edgekd.workers import call, cores, together

HELD_OUT: Final = 0.125
"""Share of the training split that probes are examined on."""
MOST_PROBED: Final = 8
"""Candidates that halving begins with."""
TIMES: Final = 2
"""One of so many goes on, with so many times the epochs."""

Front = tuple[Candidate, ...]


def smallest_above(
    work: Work, floor: float, front: Front, lesson: Lesson, data: Data, knowledge: Knowledge
) -> tuple[Front, int, str]:
    """The front with what was probed, the chosen index and why: a search by halves (by thirds on two cores)."""
    seen: dict[int, float] = {}
    low, high = 0, len(front)  # everything below `low` misses the floor, `high` and above hold it
    while low < high:
        asked = _spread(low, high, cores())
        scores = together(
            [partial(_one_probe, work, front[i], lesson, data, knowledge) for i in asked], at_once=cores()
        )
        seen |= {index: score.score for index, score in zip(asked, scores, strict=True)}
        holding = [index for index in asked if seen[index] >= floor]
        missing = [index for index in asked if seen[index] < floor]
        high = min([high, *holding])
        low = max([low, *(index + 1 for index in missing if index < high)])
    probed = _scored(front, seen)
    if high < len(front):
        return (
            probed,
            high,
            f"the smallest whose probe of {lesson.training.epochs} epochs reaches the floor of {floor:.3f}",
        )
    best = max(seen, key=lambda index: (seen[index], -index))
    return (
        probed,
        best,
        f"no probe of {lesson.training.epochs} epochs reaches the floor of {floor:.3f}; the best one of the front",
    )


def _scored(front: Front, scores: Mapping[int, float]) -> Front:
    """The front, with what probes of some of it reached."""
    return tuple(msgspec.structs.replace(one, probe_accuracy=scores.get(index)) for index, one in enumerate(front))


def _spread(low: int, high: int, parts: int) -> list[int]:
    """Up to `parts` indices that cut low..high-1 into equal pieces."""
    count = min(parts, high - low)
    return sorted({low + (high - low) * (part + 1) // (count + 1) for part in range(count)})


def best_of_halves(
    work: Work, front: Front, lesson: Lesson, data: Data, knowledge: Knowledge
) -> tuple[Front, int, str]:
    """The front with what was probed, the chosen index and why.

    Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943) as Optuna decides it (Li et al. 2020,
    arXiv:1810.05934): of a handful of candidates each is trained a little, and those that Optuna does not prune twice
    as long again, until one is left or as often as halving takes.

    Raises:
        PluginUnavailable: Optuna is not installed.
    """
    parts = min(MOST_PROBED, len(front))
    running = sorted({len(front) * (part + 1) // parts - 1 for part in range(parts)})
    probed, study, seen = len(running), _study(lesson.seed), dict[int, tuple[int, float]]()
    # In no order of size: Optuna compares each with those that it was asked of before.
    trials = {index: study.ask() for index in np.random.default_rng(lesson.seed).permutation(running).tolist()}
    for times in (TIMES**rung for rung in range(math.ceil(math.log2(probed)) + 1)):
        probe = _longer(lesson, times)
        scores = together([partial(_one_probe, work, front[i], probe, data, knowledge) for i in running], cores())
        seen |= {index: (times, score.score) for index, score in zip(running, scores, strict=True)}
        for index in running:
            trials[index].report(seen[index][1], times)
        pruned = {index for index, trial in trials.items() if index in running and trial.should_prune()}
        running = [index for index in running if index not in pruned]
        if len(running) < 2:
            break
    best = max(seen, key=lambda index: (*seen[index], -index))
    found = _scored(front, {index: score for index, (_, score) in seen.items()})
    epochs = seen[best][0] * lesson.training.epochs
    return found, best, f"the best of {probed} that were probed, itself for {epochs} epochs"


def _study(seed: int) -> Any:
    try:
        import optuna
    except ModuleNotFoundError as missing:
        hint = "pip install 'edgekd[probes]'"
        raise PluginUnavailable(f"ranking by probes needs the package {missing.name!r}", hint=hint) from missing
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=TIMES)
    return optuna.create_study(direction="maximize", pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=seed))


def _longer(lesson: Lesson, times: int) -> Lesson:
    """With so many times the epochs in every stage."""

    def longer(training: Training) -> Training:
        return msgspec.structs.replace(training, epochs=training.epochs * times)

    stages = tuple(msgspec.structs.replace(one, training=longer(one.training)) for one in lesson.stages)
    return msgspec.structs.replace(lesson, training=longer(lesson.training), stages=stages)


def _one_probe(work: Work, candidate: Candidate, lesson: Lesson, data: Data, knowledge: Knowledge) -> Learned:
    name = f"probe-{digest([candidate.options, lesson.training.epochs])[:12]}"
    done = work.out / f"{name}.json"
    probe = msgspec.structs.replace(
        lesson, student=Choice(name=lesson.student.name, options=candidate.options), held_out=HELD_OUT
    )
    if not done.exists():  # a killed try's finished probes are kept
        learned = call(learn, work, probe, data, knowledge, name, threads=1, log=work.out / f"{name}.log", trains=True)
        write_text(done, dumps(learned))
        for left in (*work.out.glob(f"{name}*.checkpoint"), work.out / learned.weights):
            left.unlink(missing_ok=True)
    return msgspec.json.decode(done.read_bytes(), type=Learned)
