"""Nets that answer several things about an image at once: the teacher `unet` and the student `multitask_mobile`."""

from typing import Any

import pytest
import torch
from torch import Tensor

from edgekd import students, teachers
from edgekd.errors import Disagreement
from edgekd.nets import Net, anatomy
from edgekd.plugins import find
from edgekd.specs import Output, Subject

FAMILIES = [find(teachers, "unet"), find(students, "multitask_mobile")]


def subject(size: tuple[int, int], *shapes: tuple[int, ...]) -> Subject:
    outputs = [
        Output(name=f"answer{index}", task="regression", shape=shape, metric="r2") for index, shape in enumerate(shapes)
    ]
    return Subject(shape=(3, *size), kind="images", outputs=tuple(outputs))


def answers(net: Net, size: tuple[int, int], batch: int = 2) -> tuple[Tensor, ...]:
    found: Any = net.module(torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0)))
    return found if isinstance(found, tuple) else (found,)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(96, 160), (45, 77), (32, 32)], ids=str)
def test_each_output_has_the_shape_that_is_asked_for(size: tuple[int, int], family: Any) -> None:
    height, width = size
    shapes = [(1,), (7, -(-height // 2), -(-width // 2)), (2, height, width), (1, height // 4, width // 4), (5,)]
    net = family.build(family.Options(), subject(size, *shapes))
    assert [tuple(answer.shape[1:]) for answer in answers(net, size)] == shapes
    assert anatomy(net.module, (3, *size)).outputs == tuple(shapes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "shapes", [[(3,)], [(3, 16, 16)], [(3, 8, 8), (1,)], [(3, 32, 32), (1, 32, 32), (2,)]], ids=str
)
def test_there_is_nothing_in_a_net_that_no_output_needs(shapes: list[tuple[int, ...]], family: Any) -> None:
    net = family.build(family.Options(), subject((32, 32), *shapes))
    torch.stack([answer.square().mean() for answer in answers(net, (32, 32))]).sum().backward()  # type: ignore[no-untyped-call]  # torch
    assert all(parameter.grad is not None for parameter in net.module.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_for_the_whole_image_know_where_things_are(family: Any) -> None:
    torch.manual_seed(0)
    net = family.build(family.Options(), subject((64, 64), (1,)))
    images = torch.zeros(2, 3, 64, 64)
    images[0, :, :, 8:24] = images[1, :, :, 40:56] = 1.0
    optimiser = torch.optim.Adam(net.module.parameters(), lr=3e-3)
    for _ in range(40):
        loss = (net.module(images).flatten() - torch.tensor([-1.0, 1.0])).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [(3, 7), (2, 3, 4, 5)], ids=str)
def test_what_is_neither_a_row_nor_a_grid_is_refused(shape: tuple[int, ...], family: Any) -> None:
    with pytest.raises(Disagreement, match="answer0"):
        family.build(family.Options(), subject((32, 32), shape))


def test_the_student_costs_a_small_part_of_the_teacher() -> None:
    asked = subject((96, 160), (7, 48, 80), (1, 48, 80), (1,), (1,))
    macs = []
    for family in FAMILIES:
        with torch.device("meta"):
            macs.append(anatomy(family.build(family.Options(), asked).module, asked.shape).macs)
    assert macs[1] < macs[0] / 10
