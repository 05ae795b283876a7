"""Turn the student into one file of one format and precision."""

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd import converters, decoding
from edgekd.converters import Source
from edgekd.corrections import correct_biases, equalize
from edgekd.decoding import Step
from edgekd.errors import ConvertError, WorkerDied
from edgekd.lessons import build
from edgekd.nets import Net, context_inputs, load
from edgekd.runs import Work
from edgekd.specs import Artifact, Context, Data, Quantization, Student, TensorSpec
from edgekd.tensors import Array, write_inputs
from edgekd.training import in_layouts, labels_of, viewer_of
from edgekd.workers import call

VERSION = 2

CALIBRATION_EXAMPLES = 200
SAMPLES = 32
TEXTS = 16
"""That an artifact which writes goes on with."""
TIMEOUT_S = 900.0
FIRST_TRY = Quantization()


def export(
    work: Work,
    student: Student,
    data: Data,
    wanted: str,
    newest_set: int | None = None,
    quantization: Quantization = FIRST_TRY,
) -> Artifact:
    """One artifact of the student, in operators of the newest set that a device reads.

    Raises:
        ConvertError: the converter gave up, crashed, or took longer than 15 minutes.
    """
    try:
        return call(
            make_artifact,
            work,
            student,
            data,
            wanted,
            newest_set,
            quantization,
            threads=1,
            log=work.out / "worker.log",
            timeout_s=TIMEOUT_S,
        )
    except WorkerDied as error:
        raise ConvertError(f"{wanted}: {error}", hint=error.hint) from error


def make_artifact(
    work: Work, student: Student, data: Data, wanted: str, newest_set: int | None, quantization: Quantization
) -> Artifact:
    """As `export`, in this process."""
    anywhere = msgspec.structs.replace(work, name="", out_folder="")
    module = _module(msgspec.json.encode((anywhere, student, data)), quantization)
    return convert(work, student, data, wanted, newest_set, quantization, module)


@lru_cache(maxsize=1)  # precisions follow each other in a worker, and converters know a module again
def _module(nouns: bytes, quantization: Quantization) -> nn.Module:
    return module_of(*msgspec.json.decode(nouns, type=tuple[Work, Student, Data]), quantization)


def net_of(work: Work, student: Student) -> Net:
    """The student's net in evaluation mode."""
    net = build(student.choice, student.subject)
    load(net.module, work.path(student.weights))
    for module in filter(None, (net.module, net.step, net.context)):
        module.eval()
    return net


def module_whole(work: Work, student: Student) -> nn.Module:
    """The student's net in evaluation mode, for whole examples."""
    return net_of(work, student).module


def module_of(work: Work, student: Student, data: Data, quantization: Quantization) -> nn.Module:
    """What a device executes of the student's net, in evaluation mode, corrected as it says."""
    net = net_of(work, student)
    module = net.step or net.module
    if not (quantization.equalization or quantization.bias_correction):
        return module
    examples = [torch.from_numpy(one[:, 0]) for one in _calibration(work, student, data, module)]
    if quantization.equalization:
        module = equalize(module, examples)
    if quantization.bias_correction:
        module = correct_biases(module, examples, quantization.in_float)
    return module


def convert(
    work: Work,
    student: Student,
    data: Data,
    wanted: str,
    newest_set: int | None,
    quantization: Quantization,
    module: nn.Module,
) -> Artifact:
    """The artifact of a module that is the student's, or a correction of it."""
    name, precision = converters.split(wanted)
    source = Source(
        module=module,
        inputs=student.inputs,
        outputs=student.outputs,
        calibration=_calibration(work, student, data, module) if precision in converters.CALIBRATED else (),
        properties=_properties(work, student, data, precision),
        quantization=quantization,
        newest_set=newest_set,
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
        samples=work.keep(_samples(work, student, data, module, inputs)),
        tools=tools,
        quantization=quantization,
        **_texts(work, student, data) if isinstance(module, Step) else {},
        context=_context(work, student, data, source, wanted, out),
    )


def _context(work: Work, student: Student, data: Data, step: Source, wanted: str, out: Path) -> Context | None:
    """What makes the context of a step, as another file beside it; None where there is none."""
    net = net_of(work, student)
    if net.context is None or net.step is None:
        return None
    takes = context_inputs(net, student.subject)
    train, test = (viewer_of(work, data, split, student.preprocessing) for split in ("train", "test"))
    seen = _but_text(train.inputs(calibration_indices(len(train))), data) if step.calibration else ()
    source = dataclasses.replace(
        step,
        module=net.context,
        inputs=takes,
        outputs=net.step.context,
        calibration=in_layouts(seen, takes) if seen else (),
    )
    path, samples = out.with_name(f"context{out.suffix}"), work.out / "context-samples.npz"
    inputs, outputs, _ = converters.write(source, wanted, path)
    write_inputs(samples, *in_layouts(_but_text(test.inputs(np.arange(min(SAMPLES, len(test)))), data), inputs))
    return Context(model=work.keep(path), inputs=inputs, outputs=outputs, samples=work.keep(samples))


def _but_text(inputs: Sequence[Tensor], data: Data) -> list[Tensor]:
    return [one for index, one in enumerate(inputs) if index != data.subject.text]


def _steps(work: Work, student: Student, data: Data, step: Step, examples: Sequence[Tensor]) -> tuple[Array, ...]:
    """What a step is given somewhere in each of the texts."""
    texts = examples[data.subject.text]
    return decoding.examples(step, texts, decoding.spread(texts), _contexts(work, student, data, examples))


def _contexts(work: Work, student: Student, data: Data, examples: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What stays the same in each of the texts."""
    net = net_of(work, student)
    if net.context is None:
        return ()
    with torch.no_grad():
        made: tuple[Tensor, ...] = net.context(*_but_text(examples, data))
    return made


def _calibration(work: Work, student: Student, data: Data, module: nn.Module) -> tuple[NDArray[Any], ...]:
    """For each input training examples as they are, spread evenly over the split."""
    viewer = viewer_of(work, data, "train", student.preprocessing)
    examples = viewer.inputs(calibration_indices(len(viewer)))
    if isinstance(module, Step):
        return _steps(work, student, data, module, examples)
    return in_layouts(examples, student.inputs)


def calibration_indices(examples: int) -> NDArray[np.int64]:
    """Which examples of a training split set the ranges of activations."""
    return np.linspace(0, examples - 1, min(CALIBRATION_EXAMPLES, examples)).round().astype(np.int64)


def _samples(work: Work, student: Student, data: Data, module: nn.Module, inputs: tuple[TensorSpec, ...]) -> Path:
    viewer = viewer_of(work, data, "test", student.preprocessing)
    examples = viewer.inputs(np.arange(min(SAMPLES, len(viewer))))
    path = work.out / "samples.npz"
    if isinstance(module, Step):
        write_inputs(path, *_steps(work, student, data, module, examples))
    else:
        write_inputs(path, *in_layouts(examples, inputs))
    return path


def _texts(work: Work, student: Student, data: Data) -> dict[str, Any]:
    """What an artifact that is a step of a net needs besides, to write."""
    viewer = viewer_of(work, data, "test", student.preprocessing)
    chosen = np.arange(min(TEXTS, len(viewer)))
    given = decoding.given(labels_of(work, data, "test", chosen)[0]).astype(np.int32)
    examples = viewer.inputs(chosen)
    texts = examples[data.subject.text].numpy().astype(np.int32)
    contexts = [one.numpy()[:, None] for one in _contexts(work, student, data, examples)]
    path = work.out / "texts.npz"
    write_inputs(path, texts, given, *contexts)
    return {"steps": texts.shape[1], "texts": work.keep(path), "end": data.subject.end}


def _properties(work: Work, student: Student, data: Data, precision: str) -> dict[str, str]:
    return {
        "edgekd.classes": _json(student.subject.classes),
        "edgekd.data": data.name,
        "edgekd.data_licence": data.licence,
        "edgekd.precision": precision,
        "edgekd.preprocessing": _json(student.preprocessing),
        "edgekd.run": Path(work.run_folder).resolve().name,
        "edgekd.student": _json(student.choice),
        "edgekd.weights_sha256": student.weights.sha256,
    }


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
