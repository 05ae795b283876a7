"""Hold an artifact, executed by the runtime that a device has, against the student in float32."""

import math

import numpy as np
from numpy.typing import NDArray

from edgekd import devices, engines, tasks
from edgekd.devices import Connection, Device
from edgekd.errors import MeasureError
from edgekd.lessons import build
from edgekd.nets import load
from edgekd.plugins import find
from edgekd.progress import tell
from edgekd.runs import Work
from edgekd.specs import Agreement, Artifact, Data, Student
from edgekd.training import in_layout, labels_of, predict, viewer_of, write_inputs
from edgekd.workers import call

VERSION = 1

CHUNK = 500
"""Examples that travel to the engine at once."""
RUN_TIMEOUT_S = 600.0
LEAST_SQNR_DB = {"fp32": 80.0, "fp16": 40.0, "int8": 10.0}
MOST_METRIC_DROP = {"fp32": 0.001, "fp16": 0.005, "int8": 0.01}
HIGHEST_SQNR_DB = 200.0


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
    return compare(artifact, engine, np.concatenate(expected), np.concatenate(found), labels, task)


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
    metrics = plugin.metrics(found, labels)
    drop = plugin.metrics(expected, labels)[plugin.metric] - metrics[plugin.metric]
    sqnr = sqnr_db(expected, found)
    least, most = LEAST_SQNR_DB.get(artifact.precision, 10.0), MOST_METRIC_DROP.get(artifact.precision, 0.01)
    reasons = []
    if not sqnr >= least:
        reasons.append(f"SQNR {sqnr:.1f} dB is below the {least:.0f} dB that {artifact.precision} explains")
    if drop > most + 1e-9:
        reasons.append(f"{plugin.metric} drops by {drop:.4f}, more than {most}")
    return Agreement(
        artifact=artifact.export,
        engine=engine,
        provenance="host",
        max_abs=float(np.nan_to_num(np.abs(expected - found), nan=3.4e38, posinf=3.4e38).max()),
        sqnr_db=sqnr,
        top1_agreement=float(np.mean(expected.argmax(axis=1) == found.argmax(axis=1))),
        metrics=metrics,
        metric_drop=float(drop),
        ok=not reasons,
        reason="; ".join(reasons),
    )


def sqnr_db(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Signal to quantization noise ratio in decibels, -200 to 200; -200 where an output is not a number.

    >>> x = np.ones(4, np.float32)
    >>> round(sqnr_db(x, x * np.float32(0.9)), 1)
    20.0
    """
    if not np.isfinite(found).all():
        return -HIGHEST_SQNR_DB
    signal = float(np.sum(np.square(expected, dtype=np.float64)))
    noise = float(np.sum(np.square(expected.astype(np.float64) - found)))
    if noise == 0:
        return HIGHEST_SQNR_DB
    if signal == 0:
        return -HIGHEST_SQNR_DB
    return float(np.clip(10 * math.log10(signal / noise), -HIGHEST_SQNR_DB, HIGHEST_SQNR_DB))
