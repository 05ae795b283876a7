"""Hold an artifact, executed by the runtime that a device has, against the student in float32."""

from collections.abc import Sequence
from functools import partial

import msgspec
import numpy as np
import torch
from torch import Tensor

from edgekd import devices, engines, heads, parity
from edgekd.devices import Connection, Device
from edgekd.errors import MeasureError
from edgekd.lessons import build
from edgekd.nets import load
from edgekd.plugins import find
from edgekd.progress import tell
from edgekd.runs import Work
from edgekd.specs import Agreement, Artifact, Data, Student, Subject
from edgekd.tensors import Array, read_arrays, write_array, write_inputs
from edgekd.training import in_layouts, labels_of, predict, viewer_of
from edgekd.workers import call
from edgekd.writing import drafted, settle, written_by

VERSION = 3

CHUNK = 500
"""Examples that travel to the engine at once."""
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
    labels = labels_of(work, data, "test")
    subject, text = data.subject, data.subject.written
    expected, found, ours_alone, theirs_alone = [], [], [], []
    host: Device = find(devices, "host")
    with host.start("", engines.GUEST, engines.path(engine), work.out) as connection:
        model = connection.put(work.path(artifact.model))
        connection.ask({"do": "load", "model": model, "threads": 1}, RUN_TIMEOUT_S)
        for start in range(0, len(viewer), CHUNK):
            tell(f"verifying {artifact.export}", start, len(viewer))
            chunk = np.arange(start, min(start + CHUNK, len(viewer)))
            expected.append(predict(net.module, viewer, examples=chunk))
            given = viewer.inputs(chunk)
            found.append(execute(work, connection, artifact, given))
            if text is not None:
                ours_alone.append(written_by(net.module, viewer, subject, chunk))
                drafts = drafted(given[1 + text].numpy(), ours_alone[-1], subject)
                theirs_alone.append(
                    settle(partial(_answer, work, connection, artifact, given, 1 + text), drafts, subject)
                )
    tell(f"verifying {artifact.export}", len(viewer), len(viewer))
    ours, theirs = _joined(expected), _joined(found)
    alone = None if text is None else (_joined(ours_alone), _joined(theirs_alone))
    agreement = compare(artifact, engine, ours, theirs, labels, subject, alone)
    files = [work.out / f"output-{index}.npy" for index in range(len(theirs))]
    for path, answer in zip(files, theirs, strict=True):
        write_array(path, answer)
    return msgspec.structs.replace(agreement, outputs=tuple(map(work.keep, files)))


def _joined(chunks: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
    return tuple(np.concatenate(one) for one in zip(*chunks, strict=True))


def _answer(
    work: Work,
    connection: Connection,
    artifact: Artifact,
    inputs: Sequence[Tensor],
    text: int,
    drafts: Array,
    which: Array,
) -> tuple[Array, ...]:
    """What an artifact answers to other texts of some of the examples."""
    given = [one[which] for one in inputs]
    given[text] = torch.from_numpy(drafts)
    return execute(work, connection, artifact, given)


def execute(work: Work, connection: Connection, artifact: Artifact, examples: Sequence[Tensor]) -> tuple[Array, ...]:
    """For each output the answers (examples, ...) of a loaded artifact; one that is a step is led through the texts."""
    given, answered = work.out / "inputs.npz", work.out / "outputs.npz"
    inputs = (examples[0].numpy().astype(np.int32),) if artifact.steps else in_layouts(examples, artifact.inputs)
    try:
        write_inputs(given, *inputs)
        request = {"do": "unroll" if artifact.steps else "run", "inputs": connection.put(given)}
        connection.ask({**request, "outputs": str(answered)}, RUN_TIMEOUT_S)
        return tuple(answer[:, 0] for answer in read_arrays(answered))
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
