"""Quantization-aware training: teach the student again, rounded as int8 rounds it, by the same teacher.

The net learns behind fake quantization (edgekd/fake_quant.py), with the losses of its lesson, distillation among them.
What leaves is plain float weights under the student's own names, which every converter takes as it takes any others:
there is one training for all formats, and what a format quantizes otherwise it may. The ranges of activations are set
by calibration anew. Handing over those that training ended with would need a switch in the net for each format, and
brings nothing: six trainings of a net with channels 60 or 100 times apart were right in 0.963 to 0.990 of the test
examples by the ranges of the training, and in 0.980 to 0.993 by those of calibration (simulated, the worst first).
"""

from typing import Final

import msgspec
import torch
from torch import nn

from edgekd import heads
from edgekd.corrections import equalize
from edgekd.export import calibration_indices
from edgekd.fake_quant import FakeQuantized
from edgekd.lessons import Lesson, build, objective_of
from edgekd.nets import load, save
from edgekd.runs import Work
from edgekd.specs import Data, Knowledge, Student, Training
from edgekd.traces import trace
from edgekd.training import fit, labels_of, predict, viewer_of
from edgekd.workers import call

VERSION = 1

TIMEOUT_S: Final = 86_400.0
EPOCHS_SHARE: Final = 0.2
"""Of the recipe's epochs."""
LEAST_EPOCHS: Final = 2
LEARNING_RATE_SHARE: Final = 0.1
LARGEST_LEARNING_RATE: Final = 2e-3
OBSERVED_AT_ONCE: Final = 64
"""Examples that ranges are taken of together, for the sake of memory."""
MOMENTUM: Final = 0.1
"""By which ranges follow what each batch needs."""


def train_rounded(work: Work, lesson: Lesson, student: Student, data: Data, knowledge: Knowledge) -> Student:
    """The student with the weights of a short training behind fake quantization, and its metrics in float32.

    Raises:
        ConvertError: the net cannot be followed.
        TrainingDiverged: the loss is not finite.
    """
    log = work.out / "worker.log"
    trained = call(_train, work, lesson, student, data, knowledge, threads=1, log=log, timeout_s=TIMEOUT_S, trains=True)
    (work.out / "student.checkpoint").unlink(missing_ok=True)
    return trained


def short(training: Training) -> Training:
    """A fifth of a recipe's epochs at a tenth of its learning rate, by AdamW.

    AdamW because its steps do not depend on how a net's channels are scaled, and nets that integers break are often
    scaled badly: on one with channels a hundredfold apart, SGD at a tenth of the recipe's rate ends at chance.
    """
    return msgspec.structs.replace(
        training,
        epochs=max(LEAST_EPOCHS, round(EPOCHS_SHARE * training.epochs)),
        learning_rate=min(LARGEST_LEARNING_RATE, LEARNING_RATE_SHARE * training.learning_rate),
        optimiser="adamw",
        autocast=False,  # bfloat16 has 8 bits of its own, which would hide the rounding that is to be learned
    )


def _train(work: Work, lesson: Lesson, student: Student, data: Data, knowledge: Knowledge) -> Student:
    torch.manual_seed(lesson.seed)
    net = build(student.choice, data.subject)
    load(net.module, work.path(student.weights))
    viewer = viewer_of(work, data, "train", student.preprocessing, lesson.views, lesson.views_seed)
    calibration = viewer.batch(calibration_indices(len(viewer)))
    # From where int8 does the least harm: a net that starts at chance has little to learn from.
    rounded = FakeQuantized(trace(equalize(net.module, [calibration]), [calibration]), momentum=MOMENTUM)
    rounded.observe(torch.split(calibration, OBSERVED_AT_ONCE))
    fit(
        rounded,
        viewer,
        objective_of(work, lesson, lesson.all_stages()[-1], data, knowledge, None),
        short(lesson.training),
        views=lesson.views.count,
        seed=lesson.seed,
        checkpoint=work.out / "student.checkpoint",
        what="training for integers",
    )
    _take_weights(net.module, rounded)
    weights = work.out / "student.safetensors"
    save(net.module, weights)
    answers = predict(net.module, viewer_of(work, data, "test", student.preprocessing))
    metrics = heads.judged(data.subject, answers, labels_of(work, data, "test"))
    return msgspec.structs.replace(student, weights=work.keep(weights), metrics=metrics)


def _take_weights(module: nn.Module, rounded: FakeQuantized) -> None:
    """Into the student's own module, under its own names; what the graph does not use stays."""
    learned = rounded.net.state_dict()
    own = {name: learned.get(name, tensor).contiguous() for name, tensor in module.state_dict().items()}
    module.load_state_dict(own)
