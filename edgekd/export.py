"""Turn the student into one file of one format and precision."""

from pathlib import Path

import msgspec
import numpy as np

from edgekd import converters
from edgekd.converters import Source
from edgekd.errors import ConvertError, WorkerDied
from edgekd.lessons import build
from edgekd.nets import load
from edgekd.runs import Work
from edgekd.specs import Artifact, Data, Student, TensorSpec
from edgekd.training import in_layout, viewer_of, write_inputs
from edgekd.workers import call

VERSION = 1

CALIBRATION_EXAMPLES = 200
SAMPLES = 32
TIMEOUT_S = 900.0


def export(work: Work, student: Student, data: Data, wanted: str) -> Artifact:
    """One artifact of the student.

    Raises:
        ConvertError: the converter gave up, crashed, or took longer than 15 minutes.
    """
    try:
        return call(_export, work, student, data, wanted, threads=1, log=work.out / "worker.log", timeout_s=TIMEOUT_S)
    except WorkerDied as error:
        raise ConvertError(f"{wanted}: {error}", hint=error.hint) from error


def _export(work: Work, student: Student, data: Data, wanted: str) -> Artifact:
    name, precision = converters.split(wanted)
    net = build(student.choice, data)
    load(net.module, work.path(student.weights))
    source = Source(
        module=net.module.eval(),
        inputs=student.inputs,
        outputs=student.outputs,
        calibration=(_calibration(work, student, data),),
        properties=_properties(student, data),
    )
    out = work.out / f"model{converters.check(wanted).suffix}"
    inputs, outputs, tools = converters.write(source, wanted, out)
    return Artifact(
        export=wanted,
        format=name,
        precision=precision,
        model=work.keep(out),
        inputs=inputs,
        outputs=outputs,
        samples=work.keep(_samples(work, student, data, inputs)),
        tools=tools,
    )


def _calibration(work: Work, student: Student, data: Data) -> np.ndarray:
    """Training examples as they are, spread evenly over the split."""
    viewer = viewer_of(work, data, "train", student.preprocessing)
    count = min(CALIBRATION_EXAMPLES, len(viewer))
    indices = np.linspace(0, len(viewer) - 1, count).round().astype(np.int64)
    return viewer.batch(indices).numpy()[:, None]


def _samples(work: Work, student: Student, data: Data, inputs: tuple[TensorSpec, ...]) -> Path:
    viewer = viewer_of(work, data, "test", student.preprocessing)
    examples = viewer.batch(np.arange(min(SAMPLES, len(viewer)))).numpy()
    path = work.out / "samples.npz"
    write_inputs(path, in_layout(examples, inputs[0]))
    return path


def _properties(student: Student, data: Data) -> dict[str, str]:
    return {
        "edgekd.classes": msgspec.json.encode(student.classes).decode(),
        "edgekd.data_licence": data.licence,
        "edgekd.preprocessing": msgspec.json.encode(student.preprocessing).decode(),
    }
