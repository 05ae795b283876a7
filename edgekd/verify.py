"""Hold an artifact, executed by the runtime that a device has, against the student in float32."""

from collections.abc import Sequence
from functools import partial

import msgspec
import numpy as np
from torch import Tensor

from edgekd import devices, engines, heads, parity
from edgekd.devices import Connection, Device
from edgekd.errors import MeasureError
from edgekd.fronts import seen
from edgekd.lessons import build
from edgekd.nets import load
from edgekd.plugins import find
from edgekd.progress import tell
from edgekd.runs import Work
from edgekd.specs import Agreement, Artifact, Context, Data, File, Student, Subject
from edgekd.tensors import Array, read_arrays, write_array, write_inputs
from edgekd.training import in_layout, in_layouts, labels_of, predict, viewer_of
from edgekd.workers import call
from edgekd.writing import drafted, settle, written_by

VERSION = 3

CHUNK = 500
"""Examples that travel to the engine at once."""
CHUNK_OF_CONTEXTS = 50
"""The same, where a context is made of each."""
RUN_TIMEOUT_S = 600.0


def engine_for(artifact: Artifact, wanted: tuple[str, ...]) -> str | None:
    """The first of a target's engines that executes the artifact and is installed here; None where there is none."""
    able = engines.able(artifact.model.path)
    return next((name for name in wanted if name in able), None)


def verify(work: Work, student: Student, data: Data, artifact: Artifact, engine: str) -> Agreement:
    """Agreement over the whole test split.

    Raises:
        MeasureError: the engine cannot load or execute the artifact.
    """
    return call(_verify, work, student, data, artifact, engine, threads=1, log=work.out / "worker.log")


def _verify(work: Work, student: Student, data: Data, artifact: Artifact, engine: str) -> Agreement:
    net = build(student.choice, data.subject)
    load(net.module, work.path(student.weights))
    viewer = viewer_of(work, data, "test", student.preprocessing)
    labels, subject = labels_of(work, data, "test"), data.subject
    expected, found, ours_alone, theirs_alone = [], [], [], []
    host: Device = find(devices, "host")
    with (
        seen(work, data, "test", net) as (behind, shown),
        host.start("", engines.GUEST, engines.path(engine), work.out) as connection,
    ):
        if artifact.context is None:  # else the two models take turns
            _load(work, connection, artifact.model)
        for chunk in _chunks(len(viewer), artifact):
            tell(f"verifying {artifact.export}", int(chunk[0]), len(viewer))
            expected.append(predict(net.module, viewer, examples=chunk))
            asked = Asked(work, connection, artifact, subject, viewer.inputs(chunk))
            found.append(asked.answers())
            if subject.written is not None:
                ours_alone.append(written_by(behind, shown, subject, chunk))
                theirs_alone.append(settle(asked.about, drafted(asked.texts, ours_alone[-1], subject), subject))
    tell(f"verifying {artifact.export}", len(viewer), len(viewer))
    ours, theirs = _joined(expected), _joined(found)
    alone = None if subject.written is None else (_joined(ours_alone), _joined(theirs_alone))
    agreement = compare(artifact, engine, ours, theirs, labels, subject, alone)
    files = [work.out / f"output-{index}.npy" for index in range(len(theirs))]
    for path, answer in zip(files, theirs, strict=True):
        write_array(path, answer)
    return msgspec.structs.replace(agreement, outputs=tuple(map(work.keep, files)))


def _chunks(examples: int, artifact: Artifact) -> list[Array]:
    """Examples that are asked about together; what a context is made of is large."""
    size = CHUNK if artifact.context is None else CHUNK_OF_CONTEXTS
    return [np.arange(start, min(start + size, examples)) for start in range(0, examples, size)]


def _joined(chunks: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
    return tuple(np.concatenate(one) for one in zip(*chunks, strict=True))


class Asked:
    """An artifact on an engine, and examples that it is asked about. It is loaded; where it has a context, that is made
    first, by a model of its own, and the artifact is loaded behind it."""

    def __init__(
        self, work: Work, connection: Connection, artifact: Artifact, subject: Subject, examples: Sequence[Tensor]
    ) -> None:
        self._work, self._connection, self._artifact = work, connection, artifact
        self._text, self._examples = subject.text, examples
        self._contexts = self._made(artifact.context) if artifact.context else ()

    @property
    def texts(self) -> Array:
        """Those of the examples, where there are such."""
        return self._examples[self._text].numpy()

    def answers(self) -> tuple[Array, ...]:
        """For each output the answers (examples, ...)."""
        return execute(self._work, self._connection, self._artifact, self._given(), self._contexts)

    def about(self, texts: Array, which: Array) -> tuple[Array, ...]:
        """The answers to other texts of some of the examples."""
        given = [one[which] for one in self._given()]
        given[self._text if len(given) > 1 else 0] = texts.astype(np.int32)
        contexts = tuple(one[which] for one in self._contexts)
        return execute(self._work, self._connection, self._artifact, given, contexts)

    def _given(self) -> list[Array]:
        """What the model takes that answers; a step is led through the texts alone."""
        return [self.texts] if self._artifact.steps else [one.numpy() for one in self._examples]

    def _made(self, context: Context) -> tuple[Array, ...]:
        _load(self._work, self._connection, context.model)
        others = [one for index, one in enumerate(self._examples) if index != self._text]
        made = _ask(self._work, self._connection, "run", in_layouts(others, context.inputs))
        _load(self._work, self._connection, self._artifact.model)
        return made


def _load(work: Work, connection: Connection, model: File) -> None:
    connection.ask({"do": "load", "model": connection.put(work.path(model)), "threads": 1}, RUN_TIMEOUT_S)


def execute(
    work: Work,
    connection: Connection,
    artifact: Artifact,
    examples: Sequence[Array],
    contexts: Sequence[Array] = (),
) -> tuple[Array, ...]:
    """For each output the answers (examples, ...) of a loaded artifact; one that is a step is led through texts."""
    if artifact.steps:
        answers = _ask(work, connection, "unroll", (examples[0].astype(np.int32), *contexts))
    else:
        given = [in_layout(one, spec) for one, spec in zip(examples, artifact.inputs, strict=True)]
        answers = _ask(work, connection, "run", given)
    return tuple(answer[:, 0] for answer in answers)


def _ask(work: Work, connection: Connection, what: str, inputs: Sequence[Array]) -> tuple[Array, ...]:
    """What a loaded model answers, an array (examples, 1, ...) for each output."""
    given, answered = work.out / "inputs.npz", work.out / "outputs.npz"
    try:
        write_inputs(given, *inputs)
        connection.ask({"do": what, "inputs": connection.put(given), "outputs": str(answered)}, RUN_TIMEOUT_S)
        return read_arrays(answered)
    finally:
        given.unlink(missing_ok=True)
        answered.unlink(missing_ok=True)


def compare(
    artifact: Artifact,
    engine: str,
    expected: Sequence[Array],
    found: Sequence[Array],
    labels: Sequence[Array],
    subject: Subject,
    alone: tuple[Sequence[Array], Sequence[Array]] | None = None,
) -> Agreement:
    """Hold what an artifact answers against the student's answers: for each output (examples, ...).

    Metrics are of these answers, or of those that both gave to what they wrote `alone`.

    Raises:
        MeasureError: the number of outputs or the shapes differ.
    """
    shapes, wanted = [one.shape for one in found], [one.shape for one in expected]
    if shapes != wanted:
        raise MeasureError(
            f"{artifact.export} answers {', '.join(map(str, shapes))}, the student {', '.join(map(str, wanted))}"
        )
    ours, theirs = (heads.counts(subject, answers, labels) for answers in alone or (expected, found))
    score = partial(heads.score, subject)
    drop = score(ours) - score(theirs)
    low, high = parity.drop_interval(score, ours, theirs)
    close = parity.closeness(expected, found)
    precision = engines.arithmetic(engine) or artifact.precision
    least, most = parity.least_db(artifact.precision, precision), parity.most_drop(precision, len(ours[0]))
    reasons = []
    if not close.sqnr_db >= least:
        reasons.append(f"SQNR {close.sqnr_db:.1f} dB is below the {least:.0f} dB that {precision} explains")
    if drop > most + 1e-9:
        reasons.append(f"{subject.metric} drops by {drop:.4f}, more than {most:.3g}")
    return Agreement(
        artifact=artifact.export,
        engine=engine,
        provenance="host",
        max_abs=close.max_abs,
        sqnr_db=close.sqnr_db,
        top1_agreement=heads.top1_agreement(subject, expected, found),
        metrics=heads.metrics(subject, theirs),
        metric_drop=drop,
        metric_drop_low=low,
        metric_drop_high=high,
        ok=not reasons,
        reason="; ".join(reasons),
    )
