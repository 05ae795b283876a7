"""A run with data and a teacher that counts how often it is asked, without the steps that would have made them."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from edgekd.data import examine
from edgekd.datasets import Arrays
from edgekd.nets import save
from edgekd.runs import Work
from edgekd.specs import Choice, Data, Teacher, Views
from tests import toys
from tests.subjects import HEADS

EXAMPLES = 1000
VIEWS = Views(count=2, shift=0.1)


def begun(run: Path, wait_s: float = 0.0) -> tuple[Work, Teacher, Data]:
    """A run with data and a teacher that writes down how often it is asked."""
    (run / "made").mkdir(parents=True)
    made = Work(str(run), "made", str(run / "made"))
    given = toys.pictures(EXAMPLES * 3 // 2)
    arrays = Arrays(**{**given, "classes": tuple(given["classes"])})
    subject, train, test = examine(arrays, HEADS, "pictures")

    def keep(name: str, array: NDArray[Any]) -> Any:
        np.save(made.out / name, array)
        return made.keep(made.out / name)

    data = Data(
        name="pictures",
        licence="CC0-1.0",
        subject=subject,
        train_inputs=keep("x.npy", arrays.train_inputs),
        train_labels=(keep("y.npy", train["logits"]),),
        test_inputs=keep("x-test.npy", arrays.test_inputs),
        test_labels=(keep("y-test.npy", test["logits"]),),
    )
    torch.manual_seed(0)
    module = toys.patient()
    save(module, made.out / "teacher.safetensors")
    teacher = Teacher(
        weights=made.keep(made.out / "teacher.safetensors"),
        choice=Choice(name=f"{toys.__file__}:patient", options={"wait_s": wait_s}),
        preprocessing=module.preprocessing,
        parameters=1,
        file_bytes=1,
        macs=1,
        metrics={"accuracy": 0.5},
    )
    (run / "knowledge").mkdir()
    return Work(str(run), "knowledge", str(run / "knowledge")), teacher, data


def wide(run: Path) -> tuple[Work, Teacher, Data]:
    """400 examples of half a million numbers, and a layer that says them again."""
    work, teacher, data = begun(run)
    shape = (400, 2**19)
    inputs = np.lib.format.open_memmap(run / "made" / "wide.npy", "w+", np.float32, shape)
    inputs[:, 0] = np.arange(400) % 251
    inputs.flush()
    subject = msgspec.structs.replace(data.subject, shape=shape[1:], kind="numbers")
    module = toys.mirror()
    save(module, run / "made" / "mirror.safetensors")
    choice = Choice(name=f"{toys.__file__}:mirror")
    file = Work(str(run), "made", str(run / "made")).keep
    return (
        work,
        msgspec.structs.replace(
            teacher, choice=choice, preprocessing=None, weights=file(run / "made" / "mirror.safetensors")
        ),
        msgspec.structs.replace(data, subject=subject, train_inputs=file(run / "made" / "wide.npy")),
    )
