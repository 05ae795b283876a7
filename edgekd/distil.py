"""Train the planned student against the teacher, and beside it a twin that never hears of the teacher."""

from functools import partial

import msgspec
import numpy as np
import torch
from torch import nn

from edgekd.lessons import Learned, Lesson, build, learn
from edgekd.nets import anatomy_executed, inputs_of, save
from edgekd.runs import Work
from edgekd.specs import Choice, Data, Knowledge, Output, Student, TensorSpec
from edgekd.training import viewer_of
from edgekd.views import Viewer
from edgekd.workers import call, cores, together

VERSION = 3
EXAMPLES = 32
"""That set the statistics of an untrained student."""


def distil(work: Work, lesson: Lesson, data: Data, given: Data, knowledge: Knowledge) -> Student:
    """The student and its twin: same start, same batches, same number of steps.

    The student learns from `data`, the twin from `given`, whose labels are not the teacher's.

    Each trains in a process of its own on a single thread: two small nets fill two cores better that way than one
    after the other on two threads, and their sums are the same to the bit on any number of cores.
    """
    taught, alone = together(
        [
            partial(_train, work, lesson, data, knowledge, "student"),
            partial(_train, work, msgspec.structs.replace(lesson, with_teacher=False), given, knowledge, "twin"),
        ],
        at_once=cores(),
    )
    student = call(_describe, work, lesson.student, data, taught, alone, threads=1, log=work.out / "worker.log")
    for checkpoint in work.out.glob("*.checkpoint"):
        checkpoint.unlink()
    return student


def untrained(work: Work, choice: Choice, data: Data, source: str) -> Student:
    """A student with random weights, which costs on a device what a trained one does. `source` is a fingerprint of a
    user's own code."""
    return call(_untrained, work, choice, data, threads=1, log=work.out / "worker.log")


def _untrained(work: Work, choice: Choice, data: Data) -> Student:
    torch.manual_seed(0)
    net = build(choice, data.subject)
    _settle(net.module, viewer_of(work, data, "train", net.preprocessing))
    save(net.module, work.out / "student.safetensors")
    random = Learned(weights="student.safetensors", metrics={}, score=0.0)
    return _describe(work, choice, data, random, random)


def _settle(module: nn.Module, viewer: Viewer) -> None:
    """Give batch norms the statistics of some examples: without them activations of a deep net with random weights
    vanish or explode, and integers cannot stand for them."""
    norms = [one for one in module.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.momentum = None  # the mean of all batches, of which there is one
        norm.reset_running_stats()
    with torch.no_grad():
        module.train()(*viewer.inputs(np.arange(min(EXAMPLES, len(viewer)))))


def _train(work: Work, lesson: Lesson, data: Data, knowledge: Knowledge, name: str) -> Learned:
    return call(learn, work, lesson, data, knowledge, name, threads=1, log=work.out / f"{name}.log", trains=True)


def _describe(work: Work, choice: Choice, data: Data, taught: Learned, alone: Learned) -> Student:
    subject = data.subject
    net = build(choice, subject)
    described = anatomy_executed(net, subject)
    return Student(
        weights=work.keep(work.out / taught.weights),
        twin_weights=work.keep(work.out / alone.weights),
        choice=choice,
        preprocessing=net.preprocessing,
        inputs=net.step.inputs if net.step else inputs_of(net, subject),
        outputs=net.step.outputs(subject.outputs[0].name) if net.step else tuple(map(_answer, subject.outputs)),
        subject=subject,
        parameters=described.parameters,
        macs=described.macs,
        metrics=taught.metrics,
        twin_metrics=alone.metrics,
    )


def _answer(output: Output) -> TensorSpec:
    return TensorSpec(name=output.name, shape=(1, *output.shape))
