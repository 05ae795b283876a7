"""Every file in edgekd/losses is checked here; a new file needs no new test."""

import copy
import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd import losses, tasks
from edgekd.errors import ConfigError
from edgekd.losses import Batch, Features, Pair, on_layers
from edgekd.plugins import find, names

NAMES = names(losses)
ON_OUTPUTS = [name for name in NAMES if callable(find(losses, name))]
ON_LAYERS = [name for name in NAMES if on_layers(find(losses, name))]

BOXES = torch.tensor([[[0, 0.3, 0.4, 0.5, 0.6], [math.nan] * 5], [[1, 0.9, 0.9, 0.1, 0.1], [0, 0.5, 0.5, 1, 1]]])
OUTPUTS = [
    ((4, 3), torch.tensor([0, 1, 2, 1])),
    ((2, 3, 2, 2), torch.tensor([[[0, 1], [2, -1]], [[1, 1], [-1, 0]]])),
    ((2, 4 * 17 + 3, 2, 2), BOXES),
]
"""Outputs of classes, of classes at each position, and of boxes, each with its labels."""

PAIRS = [
    [Pair((4, 5, 5), (6, 4, 4))],
    [Pair((3, 6, 5), (3, 6, 5)), Pair((4, 2, 2), (4, 2, 2))],
    [Pair((5, 48), (5, 96))],
    [Pair((5, 48), (5, 48))],
    [Pair((6,), (8,))],
    [Pair((4, 5, 5), (6, 5, 5))],
]
"""Maps, tokens, vectors, and the attention of heads. A loss on layers takes what it does not refuse."""


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fits(name: str, shape: tuple[int, ...], labels: Tensor) -> bool:
    loss = find(losses, name)
    try:
        loss(batch(numbers(0, *shape), labels, numbers(1, *shape)), loss.Options())
    except ConfigError:
        return False
    return True


def batch(student: Tensor, labels: Tensor, teacher: Tensor | None = None) -> Batch:
    return Batch(student, teacher, labels, find(tasks, "classification"), 0.0)


def outputs_of(name: str) -> tuple[tuple[int, ...], Tensor]:
    """The first that the loss can look at."""
    return next((shape, labels) for shape, labels in OUTPUTS if fits(name, shape, labels))


@pytest.mark.parametrize("name", ON_OUTPUTS)
def test_on_outputs_is_a_finite_scalar_with_a_gradient_that_finite_differences_confirm(name: str) -> None:
    loss, (shape, labels) = find(losses, name), outputs_of(name)
    student, teacher = numbers(0, *shape).requires_grad_(), numbers(1, *shape)

    def of(values: Tensor) -> Tensor:
        found: Tensor = loss(batch(values, labels, teacher), loss.Options())
        return found

    assert of(student).shape == () and torch.isfinite(of(student))
    assert torch.autograd.gradcheck(of, (student,))


@pytest.mark.parametrize("name", ON_OUTPUTS)
def test_on_outputs_agreement_is_no_worse_than_disagreement(name: str) -> None:
    loss, (shape, labels) = find(losses, name), outputs_of(name)
    right = F.one_hot(labels, 3).double() * 8 if len(shape) == 2 else numbers(2, *shape)
    same = loss(batch(right, labels, right), loss.Options())
    assert same <= loss(batch(-right, labels, right), loss.Options())


@pytest.mark.parametrize("name", [name for name in ON_OUTPUTS if not find(losses, name).needs_teacher])
def test_what_needs_no_teacher_works_without_one(name: str) -> None:
    loss, (shape, labels) = find(losses, name), outputs_of(name)
    assert torch.isfinite(loss(batch(numbers(0, *shape), labels), loss.Options()))


def test_soft_targets_are_those_of_the_paper() -> None:
    """Hinton et al. 2015: the gradient of the cross-entropy at T, times T squared, is T (q - p) over the batch."""
    loss, temperature = find(losses, "soft_targets"), 3.0
    student, teacher = numbers(2, 4, 3).requires_grad_(), numbers(3, 4, 3)
    loss(batch(student, OUTPUTS[0][1], teacher), loss.Options(temperature=temperature)).backward()
    q = torch.exp(student / temperature) / torch.exp(student / temperature).sum(1, keepdim=True)
    p = torch.exp(teacher / temperature) / torch.exp(teacher / temperature).sum(1, keepdim=True)
    assert student.grad is not None
    torch.testing.assert_close(student.grad, temperature * (q - p).detach() / 4)


# on layers


def built(name: str, pairs: Sequence[Pair]) -> nn.Module:
    torch.manual_seed(0)
    loss = find(losses, name)
    module: nn.Module = loss.build(loss.Options(), pairs)
    return module.double()


def taken(name: str, pairs: Sequence[Pair]) -> bool:
    try:
        built(name, pairs)
    except ConfigError:
        return False
    return True


TAKEN = [(name, pairs) for name in ON_LAYERS for pairs in PAIRS if taken(name, pairs)]


def features(pairs: Sequence[Pair], examples: int = 3, same: bool = False) -> list[Features]:
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] + [False] * 4])[:examples]
    found = []
    for number, pair in enumerate(pairs):
        teacher = numbers(number, examples, *pair.teacher)
        student = teacher if same else numbers(number + 10, examples, *pair.student)
        where = torch.arange(examples)
        found.append(Features(student.clone().requires_grad_(), teacher.requires_grad_(), mask, where, where + 2))
    return found


def of(module: nn.Module, given: Sequence[Features]) -> Tensor:
    """Not changing the module, and with the same negatives every time."""
    torch.manual_seed(1)
    loss: Tensor = copy.deepcopy(module)(given)
    return loss


def test_a_loss_looks_at_outputs_or_layers() -> None:
    assert set(NAMES) == {*ON_OUTPUTS, *ON_LAYERS}
    assert {name for name, _ in TAKEN} == set(ON_LAYERS)


@pytest.mark.parametrize(("name", "pairs"), TAKEN)
def test_on_layers_is_a_finite_scalar_with_a_gradient_to_the_student_alone(name: str, pairs: list[Pair]) -> None:
    module, given = built(name, pairs), features(pairs)

    def of_students(*students: Tensor) -> Tensor:
        parts = zip(students, given, strict=True)
        return of(module, [Features(one, it.teacher.detach(), it.mask, it.labels, it.indices) for one, it in parts])

    loss = of(module, given)
    assert loss.shape == () and torch.isfinite(loss)
    loss.backward()  # type: ignore[no-untyped-call]
    for one in given:
        assert one.teacher.grad is None
        assert one.student.grad is not None and torch.isfinite(one.student.grad).all() and one.student.grad.any()
    assert torch.autograd.gradcheck(of_students, tuple(one.student for one in given), fast_mode=True)


@pytest.mark.parametrize(("name", "pairs"), TAKEN)
def test_all_that_a_loss_on_layers_learns_gets_a_gradient(name: str, pairs: list[Pair]) -> None:
    module = built(name, pairs)
    module(features(pairs)).backward()
    for parameter in module.parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize(("name", "pairs"), TAKEN)
def test_on_layers_a_batch_of_one_is_finite(name: str, pairs: list[Pair]) -> None:
    given = features(pairs, examples=1)
    loss = of(built(name, pairs), given)
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert all(one.student.grad is not None and torch.isfinite(one.student.grad).all() for one in given)


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        (name, pairs)
        for name, pairs in TAKEN
        if name not in {"crd", "review"}  # what they learn starts at random
        and all(pair.student == pair.teacher for pair in pairs)
    ],
)
def test_on_layers_a_student_that_is_the_teacher_loses_nothing(name: str, pairs: list[Pair]) -> None:
    module = built(name, pairs)
    assert of(module, features(pairs, same=True)).item() == pytest.approx(0, abs=1e-12)
    assert of(module, features(pairs)) > 1e-4


@pytest.mark.parametrize(("name", "pairs"), TAKEN)
def test_a_loss_on_layers_goes_on_from_its_state(name: str, pairs: list[Pair]) -> None:
    used, fresh = built(name, pairs), built(name, pairs)
    for _ in range(2):
        used(features(pairs))
    fresh.load_state_dict(used.state_dict())
    assert torch.equal(of(fresh, features(pairs)), of(used, features(pairs)))


@pytest.mark.parametrize("name", ON_LAYERS)
@pytest.mark.parametrize("odd", [Pair((2, 3, 2, 2, 2), (7,)), Pair((5, 4), (6, 4)), Pair((), (3,))])
def test_layers_that_do_not_go_together_are_refused_with_both_shapes(name: str, odd: Pair) -> None:
    try:
        module = built(name, [odd])
    except ConfigError as error:
        assert str(odd.student) in str(error) and str(odd.teacher) in str(error) and error.hint
    else:
        assert torch.isfinite(of(module, features([odd])))
