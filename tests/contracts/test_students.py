"""Every file in edgekd/students is checked here; a new file needs no new test."""

import pytest
import torch

from edgekd import students
from edgekd.errors import Disagreement
from edgekd.nets import Net, examine, parameters
from edgekd.plugins import find, names, options
from edgekd.specs import Subject
from tests.subjects import example, speech, story, subject, text

SUBJECTS = {
    "a small grey image": subject((1, 28, 28)),
    "a small image": subject((3, 32, 32)),
    "an image": subject((3, 100, 100)),
    "numbers": subject((1, 32, 49), kind="numbers"),
    "text": text(),
    "a text to go on with": story(),
    "speech": speech(),
}


def build(name: str, wanted: Subject) -> Net:
    family = find(students, name)
    torch.manual_seed(0)
    net: Net = family.build(family.Options(), wanted)
    return net


def taken(name: str) -> list[Subject]:
    """What a family makes nets for; what it refuses, it refuses as a disagreement."""
    found = []
    for wanted in SUBJECTS.values():
        try:
            build(name, wanted)
        except Disagreement:
            continue
        found.append(wanted)
    assert found, f"{name} takes none of {', '.join(SUBJECTS)}"
    return found


@pytest.mark.parametrize("name", names(students))
def test_answers_a_value_a_class_and_learns_everywhere(name: str) -> None:
    for wanted in taken(name):
        net = build(name, wanted)
        logits = net.module(*example(net, wanted, batch=4))
        assert logits.shape == (4, *wanted.outputs[0].shape) and torch.isfinite(logits).all()
        logits.square().sum().backward()
        trained = [parameter for parameter in net.module.parameters() if parameter.requires_grad]
        assert trained and all(parameter.grad is not None for parameter in trained)
        assert net.classes in {(), wanted.classes}


@pytest.mark.parametrize("name", names(students))
def test_only_images_are_preprocessed(name: str) -> None:
    for wanted in taken(name):
        assert (build(name, wanted).preprocessing is None) == (wanted.kind != "images")


@pytest.mark.parametrize("name", names(students))
def test_can_be_examined_without_memory(name: str) -> None:
    wanted = taken(name)[-1]
    with torch.device("meta"):
        net = build(name, wanted)
        described = examine(net, wanted)
    assert described.macs > 0 and described.parameters == parameters(build(name, wanted).module)


@pytest.mark.parametrize("name", names(students))
def test_the_same_seed_gives_the_same_start(name: str) -> None:
    first, second = (build(name, taken(name)[0]).module.state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", names(students))
def test_the_whole_space_builds_from_its_smallest_to_its_largest(name: str) -> None:
    family = find(students, name)
    for wanted in taken(name):
        space = family.space(wanted)
        assert space and all(len(values) == len(set(values)) for values in space.values())
        sizes = []
        for end in (0, -1):
            chosen = options(family.Options, {option: values[end] for option, values in space.items()}, name)
            with torch.device("meta"):
                sizes.append(parameters(family.build(chosen, wanted).module))
        assert sizes[0] < sizes[1]
