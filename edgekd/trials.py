"""Try ways to quantize, for real: each is exported, and executed by the device's runtime on training examples.

Ways are told apart by training examples that calibration does not use, never by the test split: what wins there would
look better than it is. All trials of a step share one process, since loading converters takes longer than converting.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgekd import devices, engines, heads
from edgekd.devices import Device
from edgekd.errors import ConvertError, MeasureError
from edgekd.export import TIMEOUT_S, calibration_indices, convert, module_of, module_whole
from edgekd.files import digest, discard, dumps, write_text
from edgekd.parity import closeness
from edgekd.plugins import find
from edgekd.progress import tell
from edgekd.runs import Work
from edgekd.specs import Artifact, Data, Quantization, Spec, Student, Trial, Tried
from edgekd.tensors import Array
from edgekd.training import labels_of, predict, viewer_of
from edgekd.verify import RUN_TIMEOUT_S, execute
from edgekd.workers import call

VERSION = 1

EXAMPLES: Final = 500
"""That trials are examined on."""
TIE: Final = 0.005
"""Of the metric; a smaller difference on so few examples is chance."""


class Aim(Spec, frozen=True, kw_only=True):
    """What is quantized, and for which runtime."""

    student: Student
    data: Data
    export: str
    engine: str
    newest_set: int | None = None
    """Of operators, that the target's runtimes read."""


class Done(Spec, frozen=True, kw_only=True):
    """A trial and what it made."""

    trial: Trial
    artifact: Artifact | None = None


def try_out(work: Work, aim: Aim, ways: tuple[Quantization, ...]) -> Tried:
    """All ways; the best one's artifact is kept.

    A way that the converter or the runtime cannot go is a trial that failed, not an error.
    """
    log = work.out / "worker.log"
    return call(_try_out, work, aim, ways, threads=1, log=log, timeout_s=TIMEOUT_S * len(ways))


def _try_out(work: Work, aim: Aim, ways: tuple[Quantization, ...]) -> Tried:
    bench = Bench(work, aim)
    done = []
    for index, way in enumerate(ways):
        tell(f"quantizing {aim.export}", index, len(ways))
        done.append(bench.try_one(way))
    tell(f"quantizing {aim.export}", len(ways), len(ways))
    return bench.keep(best(done), done)


def best(done: Iterable[Done]) -> Done | None:
    """Of those as accurate as any, the one that follows the float student most closely; None where all failed."""
    good = [one for one in done if one.artifact is not None]
    highest = max((one.trial.metric for one in good), default=0.0)
    as_good = [one for one in good if one.trial.metric >= highest - TIE]
    return max(as_good, key=lambda one: one.trial.sqnr_db, default=None)


class Bench:
    """Where trials are done: the examples, and what the student in float32 answers on them.

    Each trial has a folder below the step's, and is not done again by a second try of the step.
    """

    def __init__(self, work: Work, aim: Aim) -> None:
        self._work = work
        self._aim = aim
        viewer = viewer_of(work, aim.data, "train", aim.student.preprocessing)
        chosen = held_back(len(viewer))
        self._corrected: tuple[Quantization, nn.Module] | None = None
        self.inputs: Array = viewer.batch(chosen).numpy()
        self.calibration: Array = viewer.batch(calibration_indices(len(viewer))).numpy()
        self._labels = labels_of(work, aim.data, "train", chosen)
        self._expected = predict(module_whole(work, aim.student), viewer, examples=chosen)

    def corrected(self, way: Quantization) -> nn.Module:
        """The student's module as a way corrects it; the same object as before, where the last way was as this one.

        Converters keep the float model of the last module that they saw.
        """
        in_float = way.in_float if way.bias_correction else ()
        matters = msgspec.structs.replace(way, ranges="full", in_float=in_float)
        if self._corrected is None or self._corrected[0] != matters:
            self._corrected = matters, module_of(self._work, self._aim.student, self._aim.data, matters)
        return self._corrected[1]

    def try_one(self, way: Quantization) -> Done:
        """Export and examine one way."""
        name = f"trial-{digest(way)[:12]}"
        finished = self._work.out / name / "trial.json"
        if not finished.exists():
            (self._work.out / name).mkdir(exist_ok=True)
            write_text(finished, dumps(self._do(name, way)))
        return msgspec.json.decode(finished.read_bytes(), type=Done)

    def keep(self, chosen: Done | None, done: Sequence[Done]) -> Tried:
        """What the step returns; the files of the other trials are thrown away."""
        kept = chosen.artifact if chosen else None
        for one in done:
            if one.artifact is not None and one.artifact != kept:
                discard((self._work.out / one.artifact.model.path.removeprefix(f"{self._work.name}/")).parent)
        return Tried(artifact=kept, trials=tuple(one.trial for one in done))

    def _do(self, name: str, way: Quantization) -> Done:
        work = Work(self._work.run_folder, f"{self._work.name}/{name}", str(self._work.out / name))
        aim = self._aim
        try:
            artifact = convert(work, aim.student, aim.data, aim.export, aim.newest_set, way, self.corrected(way))
            found = self._execute(work, artifact)
        except (ConvertError, MeasureError) as error:
            return Done(trial=Trial(quantization=way, failed=str(error)))
        metric, reference = map(self._score, (found, self._expected))
        trial = Trial(
            quantization=way,
            metric=metric,
            metric_drop=reference - metric,
            sqnr_db=closeness(self._expected, found).sqnr_db,
            file_bytes=artifact.file_bytes,
        )
        return Done(trial=trial, artifact=artifact)

    def _score(self, answers: tuple[Array, ...]) -> float:
        subject = self._aim.data.subject
        return heads.score(subject, heads.counts(subject, answers, self._labels))

    def _execute(self, work: Work, artifact: Artifact) -> tuple[Array, ...]:
        host: Device = find(devices, "host")
        # the artifact is not yet where its File says: the step's folder is renamed when it is done
        model = work.out / artifact.model.path.rpartition("/")[2]
        with host.start("", engines.GUEST, engines.path(self._aim.engine), work.out) as connection:
            connection.ask({"do": "load", "model": connection.put(model), "threads": 1}, RUN_TIMEOUT_S)
            found = execute(work, connection, artifact, (self.inputs,))
        shapes, wanted = ([one.shape for one in answers] for answers in (found, self._expected))
        if shapes != wanted:
            raise MeasureError(f"{artifact.export} answers {shapes}, the student {wanted}")
        return found


def held_back(examples: int) -> NDArray[np.int64]:
    """Training examples that calibration does not use, spread evenly; all there are where it uses them all.

    >>> held_back(205)[:3]
    array([26, 77, 128])
    """
    others = np.setdiff1d(np.arange(examples), calibration_indices(examples))
    if not len(others):
        return np.arange(examples)
    return others[np.linspace(0, len(others) - 1, min(EXAMPLES, len(others))).round().astype(np.int64)]
