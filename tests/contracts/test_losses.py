"""Every file in edgekd/losses is checked here; a new file needs no new test."""

import pytest
import torch
import torch.nn.functional as F

from edgekd import losses, tasks
from edgekd.losses import Batch
from edgekd.plugins import find, names

NAMES = names(losses)


def batch(student: torch.Tensor, teacher: torch.Tensor | None = None) -> Batch:
    return Batch(student, teacher, torch.tensor([0, 1, 2, 1]), find(tasks, "classification"), 0.0)


def logits(seed: int) -> torch.Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_is_a_finite_scalar_with_a_gradient_that_finite_differences_confirm(name: str) -> None:
    loss = find(losses, name)
    student, teacher = logits(0).requires_grad_(), logits(1)

    def of(values: torch.Tensor) -> torch.Tensor:
        return loss(batch(values, teacher), loss.Options())

    assert of(student).shape == () and torch.isfinite(of(student))
    assert torch.autograd.gradcheck(of, (student,))


@pytest.mark.parametrize("name", NAMES)
def test_agreement_is_no_worse_than_disagreement(name: str) -> None:
    loss = find(losses, name)
    right = F.one_hot(torch.tensor([0, 1, 2, 1]), 3).double() * 8
    assert loss(batch(right, right), loss.Options()) <= loss(batch(-right, right), loss.Options())


@pytest.mark.parametrize("name", [name for name in NAMES if not find(losses, name).needs_teacher])
def test_what_needs_no_teacher_works_without_one(name: str) -> None:
    loss = find(losses, name)
    assert torch.isfinite(loss(batch(logits(0)), loss.Options()))


def test_soft_targets_are_those_of_the_paper() -> None:
    """Hinton et al. 2015: the gradient of the cross-entropy at T, times T squared, is T (q - p) over the batch."""
    loss, temperature = find(losses, "soft_targets"), 3.0
    student, teacher = logits(2).requires_grad_(), logits(3)
    loss(batch(student, teacher), loss.Options(temperature=temperature)).backward()
    q = torch.exp(student / temperature) / torch.exp(student / temperature).sum(1, keepdim=True)
    p = torch.exp(teacher / temperature) / torch.exp(teacher / temperature).sum(1, keepdim=True)
    assert student.grad is not None
    torch.testing.assert_close(student.grad, temperature * (q - p).detach() / 4)
