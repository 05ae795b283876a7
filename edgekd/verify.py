"""Hold an artifact, executed by the runtime that a device has, against the student in float32."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd import devices, engines, parity, tasks
from edgekd.devices import Connection, Device
from edgekd.errors import MeasureError
from edgekd.lessons import build
from edgekd.nets import load
from edgekd.plugins import find
from edgekd.progress import tell
from edgekd.runs import Work
from edgekd.specs import Agreement, Artifact, Data, Student
from edgekd.tensors import write_array, write_inputs
from edgekd.training import in_layout, labels_of, predict, viewer_of
from edgekd.workers import call

VERSION = 2

CHUNK = 500
"""Examples that travel to the engine at once."""
RUN_TIMEOUT_S = 600.0


def engine_for(artifact: Artifact, wanted: tuple[str, ...]) -> str | None:
    """The first of a target's engines that executes the artifact and is installed here; None where there is none."""
    able = engines.able(artifact.model.path)
    return next((name for name in wanted if name in able), None)


def verify(work: Work, student: Student, data: Data, artifact: Artifact, engine: str, task: str) -> Agreement:
    """Agreement over the whole test split.

    Raises:
        MeasureError: the engine cannot load or execute the artifact.
    """
    return call(_verify, work, student, data, artifact, engine, task, threads=1, log=work.out / "worker.log")


def _verify(work: Work, student: Student, data: Data, artifact: Artifact, engine: str, task: str) -> Agreement:
    net = build(student.choice, data)
    load(net.module, work.path(student.weights))
    viewer = viewer_of(work, data, "test", student.preprocessing)
    labels = labels_of(work, data, "test")
    expected, found = [], []
    host: Device = find(devices, "host")
    with host.start("", engines.GUEST, engines.path(engine), work.out) as connection:
        model = connection.put(work.path(artifact.model))
        connection.ask({"do": "load", "model": model, "threads": 1}, RUN_TIMEOUT_S)
        for start in range(0, len(viewer), CHUNK):
            tell(f"verifying {artifact.export}", start, len(viewer))
            chunk = np.arange(start, min(start + CHUNK, len(viewer)))
            expected.append(predict(net.module, viewer, examples=chunk))
            inputs = in_layout(viewer.batch(chunk).numpy(), artifact.inputs[0])
            found.append(_execute(work, connection, inputs))
    tell(f"verifying {artifact.export}", len(viewer), len(viewer))
    outputs = work.out / "outputs.npy"
    write_array(outputs, np.concatenate(found))
    agreement = compare(artifact, engine, np.concatenate(expected), np.concatenate(found), labels, task)
    return msgspec.structs.replace(agreement, outputs=work.keep(outputs))


def _execute(work: Work, connection: Connection, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    given, answered = work.out / "inputs.npz", work.out / "outputs.npz"
    try:
        write_inputs(given, inputs)
        request = {"do": "run", "inputs": connection.put(given), "outputs": str(answered)}
        connection.ask(request, RUN_TIMEOUT_S)
        with np.load(answered, allow_pickle=False) as outputs:
            found: NDArray[np.float32] = outputs["0"][:, 0]
            return found
    finally:
        given.unlink(missing_ok=True)
        answered.unlink(missing_ok=True)


def compare(
    artifact: Artifact,
    engine: str,
    expected: NDArray[np.float32],
    found: NDArray[np.float32],
    labels: NDArray[np.int64],
    task: str,
) -> Agreement:
    """Hold outputs of shape (examples, classes) against the student's.

    Raises:
        MeasureError: the shapes differ.
    """
    if expected.shape != found.shape:
        raise MeasureError(f"{artifact.export} answers {found.shape}, the student {expected.shape}")
    plugin = find(tasks, task)

    def score(outputs: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        return float(plugin.metrics(outputs, labels)[plugin.metric])

    metrics = plugin.metrics(found, labels)
    drop = score(expected, labels) - score(found, labels)
    low, high = parity.drop_interval(score, expected, found, labels)
    close = parity.closeness([expected], [found])
    precision = engines.arithmetic(engine) or artifact.precision
    least, most = parity.least_db(artifact.precision, precision), parity.most_drop(precision)
    reasons = []
    if not close.sqnr_db >= least:
        reasons.append(f"SQNR {close.sqnr_db:.1f} dB is below the {least:.0f} dB that {precision} explains")
    if drop > most + 1e-9:
        reasons.append(f"{plugin.metric} drops by {drop:.4f}, more than {most}")
    return Agreement(
        artifact=artifact.export,
        engine=engine,
        provenance="host",
        max_abs=close.max_abs,
        sqnr_db=close.sqnr_db,
        top1_agreement=close.top1_agreement or 0.0,
        metrics=metrics,
        metric_drop=drop,
        metric_drop_low=low,
        metric_drop_high=high,
        ok=not reasons,
        reason="; ".join(reasons),
    )
