"""Every file in edgekd/students is checked here; a new file needs no new test."""

import pytest
import torch

from edgekd import students
from edgekd.nets import Net, anatomy, input_shape, parameters
from edgekd.plugins import find, names
from tests.subjects import subject

SHAPES = [(1, 28, 28), (3, 32, 32), (3, 100, 100)]


def build(name: str, shape: tuple[int, ...]) -> Net:
    family = find(students, name)
    torch.manual_seed(0)
    net: Net = family.build(family.Options(), subject(shape))
    return net


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", names(students))
def test_answers_a_value_a_class_and_learns_everywhere(name: str, shape: tuple[int, ...]) -> None:
    net = build(name, shape)
    taken = input_shape(net, shape)
    logits = net.module(torch.randn(4, *taken))
    assert logits.shape == (4, 3) and torch.isfinite(logits).all()
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.module.parameters())
    assert net.classes in {(), ("a", "b", "c")}


@pytest.mark.parametrize("name", names(students))
def test_takes_float_planes_as_they_are(name: str) -> None:
    family = find(students, name)
    net: Net = family.build(family.Options(), subject((1, 32, 49), kind="numbers"))
    assert net.preprocessing is None
    logits = net.module(torch.randn(4, 1, 32, 49))
    assert logits.shape == (4, 3) and torch.isfinite(logits).all()


@pytest.mark.parametrize("name", names(students))
def test_can_be_examined_without_memory(name: str) -> None:
    with torch.device("meta"):
        net = build(name, (3, 64, 64))
        described = anatomy(net.module, input_shape(net, (3, 64, 64)))
    assert described.macs > 0 and described.parameters == parameters(build(name, (3, 64, 64)).module)


@pytest.mark.parametrize("name", names(students))
def test_the_same_seed_gives_the_same_start(name: str) -> None:
    first, second = (build(name, (1, 28, 28)).module.state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
