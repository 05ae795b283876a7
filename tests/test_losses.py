"""Losses are those of their papers, whatever the logits: each against the formula, written once more in numpy."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from numpy.typing import NDArray
from torch import Tensor

from edgekd import losses, tasks
from edgekd.errors import ConfigError
from edgekd.losses import Batch
from edgekd.plugins import find, options

BUSY = settings(deadline=None, max_examples=25)
"""Machines are busy; what an example takes says nothing."""

Logits = NDArray[np.float64]
Labels = NDArray[np.int64]

ON_CLASSES = ["dkd", "dist", "standardised_targets", "logit_mse", "divergence", "soft_targets"]
ON_EXAMPLES = ["relations", "embedding_regression", "embedding_angle"]
OURS = [name for name in ON_CLASSES + ON_EXAMPLES if name != "soft_targets"]

# Options of each loss that together reach all its branches.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "dkd": [{}, {"alpha": 0.3, "beta": 2.0, "temperature": 1.0}],
    "dist": [{}, {"beta": 2.0, "gamma": 0.5, "temperature": 4.0}],
    "standardised_targets": [{}, {"temperature": 0.7}],
    "logit_mse": [{}],
    "divergence": [
        {},
        {"kind": "forward_kl", "temperature": 1.0},
        {"kind": "reverse_kl", "temperature": 2.5},
        {"kind": "jsd", "beta": 0.1, "temperature": 1.5},
    ],
    "relations": [{}, {"distance": 1.0, "angle": 0.0}, {"distance": 0.0, "angle": 1.0}],
    "embedding_regression": [{}, {"normalise": False}],
    "embedding_angle": [{}],
}
EVERY = [(name, table) for name, tables in VARIANTS.items() for table in tables]


def loss_of(name: str, student: Tensor, teacher: Tensor, labels: Tensor, **table: Any) -> Tensor:
    plugin = find(losses, name)
    batch = Batch(student, teacher, labels, find(tasks, "classification"), 0.0)
    loss: Tensor = plugin(batch, options(plugin.Options, table, name))
    return loss


def value(name: str, student: Logits, teacher: Logits, labels: Labels | None = None, **table: Any) -> float:
    where = np.zeros(len(student), np.int64) if labels is None else labels
    return loss_of(name, torch.tensor(student), torch.tensor(teacher), torch.from_numpy(where), **table).item()


def drawn(seed: int, examples: int = 5, classes: int = 4) -> tuple[Logits, Logits, Labels]:
    random = np.random.default_rng(seed)
    student, teacher = random.normal(0, 2, (2, examples, classes))
    return student, teacher, random.integers(0, classes, examples)


# The papers' formulas, example by example.


def softmax(logits: Logits) -> Logits:
    powers = np.exp(logits)
    return powers / powers.sum()


def kl(p: Logits, q: Logits) -> float:
    return float(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))


def paper_dkd(
    student: Logits, teacher: Logits, labels: Labels, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0
) -> float:
    """alpha TCKD + beta NCKD, from probabilities."""
    total = 0.0
    for z_s, z_t, t in zip(student, teacher, labels, strict=True):
        p_s, p_t = softmax(z_s / temperature), softmax(z_t / temperature)
        tckd = kl(np.array([p_t[t], 1 - p_t[t]]), np.array([p_s[t], 1 - p_s[t]]))
        nckd = kl(np.delete(p_t, t) / (1 - p_t[t]), np.delete(p_s, t) / (1 - p_s[t]))
        total += alpha * tckd + beta * nckd
    return total / len(labels) * temperature**2


def paper_dist(
    student: Logits, teacher: Logits, _: Labels, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0
) -> float:
    """With numpy's own Pearson correlation, of rows and of columns."""
    y_s = np.array([softmax(z / temperature) for z in student])
    y_t = np.array([softmax(z / temperature) for z in teacher])
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(y_s, y_t, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(y_s.T, y_t.T, strict=True)])
    return float(beta * inter + gamma * intra) * temperature**2


def paper_standardised_targets(student: Logits, teacher: Logits, _: Labels, temperature: float = 2.0) -> float:
    """With the standard deviation over K."""

    def q(z: Logits) -> Logits:
        return softmax((z - np.mean(z)) / np.std(z) / temperature)

    return float(np.mean([kl(q(v), q(z)) for z, v in zip(student, teacher, strict=True)])) * temperature**2


def paper_logit_mse(student: Logits, teacher: Logits, _: Labels) -> float:
    return float(((student - teacher) ** 2).sum() / student.size)


def paper_divergence(
    student: Logits, teacher: Logits, _: Labels, kind: str = "jsd", beta: float = 0.5, temperature: float = 4.0
) -> float:
    """With M the mixture of P, the teacher, and Q."""

    def of(p: Logits, q: Logits) -> float:
        if kind == "forward_kl":
            return kl(p, q)
        if kind == "reverse_kl":
            return kl(q, p)
        m = beta * p + (1 - beta) * q
        return beta * kl(p, m) + (1 - beta) * kl(q, m)

    pairs = zip(student, teacher, strict=True)
    return float(np.mean([of(softmax(t / temperature), softmax(s / temperature)) for s, t in pairs])) * temperature**2


def paper_relations(student: Logits, teacher: Logits, _: Labels, distance: float = 25.0, angle: float = 50.0) -> float:
    """Huber losses of distances over their mean, and of cosines, over tuples of different examples."""
    pairs = list(itertools.permutations(range(len(student)), 2))
    triples = list(itertools.permutations(range(len(student)), 3))

    def huber(x: float, y: float) -> float:
        gap = abs(x - y)
        return gap**2 / 2 if gap <= 1 else gap - 0.5

    def psi_d(t: Logits) -> list[float]:
        far = [math.dist(t[i], t[j]) for i, j in pairs]
        return [one / (sum(far) / len(far)) for one in far]

    def psi_a(t: Logits) -> list[float]:
        def e(i: int, j: int) -> Logits:
            return (t[i] - t[j]) / math.dist(t[i], t[j])

        return [float(np.dot(e(i, j), e(k, j))) for i, j, k in triples]

    def mean(potential: Callable[[Logits], list[float]]) -> float:
        return float(np.mean([huber(a, b) for a, b in zip(potential(teacher), potential(student), strict=True)]))

    return distance * mean(psi_d) + angle * mean(psi_a)


def cosine(one: Logits, two: Logits) -> float:
    return float(np.dot(one, two) / np.linalg.norm(one) / np.linalg.norm(two))


def paper_embedding_regression(student: Logits, teacher: Logits, _: Labels, normalise: bool = True) -> float:
    """Twice what the cosine leaves of 1, where lengths do not count."""

    def of(f_s: Logits, f_t: Logits) -> float:
        return 2 - 2 * cosine(f_t, f_s) if normalise else math.dist(f_t, f_s) ** 2

    return float(np.mean([of(f_s, f_t) for f_s, f_t in zip(student, teacher, strict=True)]))


def paper_embedding_angle(student: Logits, teacher: Logits, _: Labels) -> float:
    return float(np.mean([(1 - cosine(f_t, f_s)) ** 2 for f_s, f_t in zip(student, teacher, strict=True)]))


PAPERS: dict[str, Callable[..., float]] = {
    "dkd": paper_dkd,
    "dist": paper_dist,
    "standardised_targets": paper_standardised_targets,
    "logit_mse": paper_logit_mse,
    "divergence": paper_divergence,
    "relations": paper_relations,
    "embedding_regression": paper_embedding_regression,
    "embedding_angle": paper_embedding_angle,
}


@pytest.mark.parametrize(("name", "table"), EVERY)
@BUSY
@given(seed=st.integers(0, 2**32 - 1), examples=st.integers(3, 7), classes=st.integers(3, 6))
def test_loss_is_that_of_its_paper(name: str, table: dict[str, Any], seed: int, examples: int, classes: int) -> None:
    student, teacher, labels = drawn(seed, examples, classes)
    expected = PAPERS[name](student, teacher, labels, **table)
    assert value(name, student, teacher, labels, **table) == pytest.approx(expected, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize(("name", "table"), EVERY)
def test_gradient_is_that_of_finite_differences(name: str, table: dict[str, Any]) -> None:
    student, teacher, labels = drawn(7)

    def of(values: Tensor) -> Tensor:
        return loss_of(name, values, torch.tensor(teacher), torch.from_numpy(labels), **table)

    assert torch.autograd.gradcheck(of, (torch.tensor(student, requires_grad=True),))


@pytest.mark.parametrize(("name", "table"), [*EVERY, ("soft_targets", {})])
@BUSY
@given(
    seed=st.integers(0, 2**32 - 1),
    examples=st.integers(1, 4),
    classes=st.integers(2, 4),
    sizes=st.tuples(*[st.sampled_from([0.0, 1e-30, 1e-12, 1e-3, 1.0, 100.0, 1e4])] * 2),
    double=st.booleans(),
    ties=st.booleans(),
)
def test_any_logits_have_a_finite_loss_that_is_not_below_zero_and_a_finite_gradient(
    name: str,
    table: dict[str, Any],
    seed: int,
    examples: int,
    classes: int,
    sizes: tuple[float, float],
    double: bool,
    ties: bool,
) -> None:
    random = np.random.default_rng(seed)
    signs = random.choice([-1, 1], (2, examples, classes)) if ties else random.uniform(-1, 1, (2, examples, classes))
    kind = torch.float64 if double else torch.float32
    student, teacher = (torch.tensor(sign * size, dtype=kind) for sign, size in zip(signs, sizes, strict=True))
    labels = torch.from_numpy(random.integers(0, classes, examples))
    loss = loss_of(name, student.requires_grad_(), teacher, labels, **table)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.dtype == kind and math.isfinite(loss.item()) and loss.item() >= -1e-4
    assert student.grad is not None and torch.isfinite(student.grad).all()


@pytest.mark.parametrize(("name", "table"), EVERY)
def test_a_student_that_says_what_the_teacher_says_loses_nothing(name: str, table: dict[str, Any]) -> None:
    student, teacher, labels = drawn(1)
    assert value(name, teacher, teacher, labels, **table) == pytest.approx(0, abs=1e-12)
    assert value(name, student, teacher, labels, **table) > 1e-3


@pytest.mark.parametrize("name", [name for name in OURS if name != "relations"])
def test_a_batch_twice_is_the_batch(name: str) -> None:
    """Averages, not sums. The pairs of relational KD are others in a batch twice as large."""
    student, teacher, labels = drawn(2)
    twice = [np.concatenate([one, one]) for one in (student, teacher, labels)]
    assert value(name, *twice) == pytest.approx(value(name, student, teacher, labels))


@pytest.mark.parametrize("name", [*OURS, "soft_targets"])
def test_descent_leads_to_the_teacher(name: str) -> None:
    student, teacher, labels = (torch.tensor(part) for part in drawn(3))
    student.requires_grad_()
    optimizer = torch.optim.Adam([student], lr=0.05)

    def of() -> Tensor:
        return loss_of(name, student, teacher, labels)

    before = of().item()
    for _ in range(250):
        optimizer.zero_grad()
        of().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert of().item() < before / 20


WRONG = [
    ("dkd", {"alpha": -1}),
    ("dkd", {"beta": math.inf}),
    ("dkd", {"temperature": 0}),
    ("dist", {"gamma": -0.1}),
    ("dist", {"temperature": math.nan}),
    ("standardised_targets", {"temperature": 1e-9}),
    ("logit_mse", {"temperature": 1}),
    ("divergence", {"kind": "total_variation"}),
    ("divergence", {"beta": 0}),
    ("divergence", {"beta": 1}),
    ("relations", {"angle": -1}),
    ("embedding_regression", {"normalise": 2}),
    ("channel_wise", {"temperature": 0}),
    ("localisation", {"bins": 1}),
    ("attention_transfer", {"p": 0.5}),
    ("attention_relations", {"heads": 0}),
    ("crd", {"momentum": 1}),
    ("review", {"width": 0}),
    ("hints", {"projection": True}),
]


@pytest.mark.parametrize(("name", "table"), WRONG)
def test_options_out_of_range_are_refused(name: str, table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        options(find(losses, name).Options, table, name)


@pytest.mark.parametrize("name", OURS)
def test_options_are_frozen(name: str) -> None:
    chosen = find(losses, name).Options()
    for field in msgspec.structs.fields(chosen):
        with pytest.raises(AttributeError):
            setattr(chosen, field.name, 1)


# What each paper says of its loss.


@BUSY
@given(seed=st.integers(0, 2**32 - 1), temperature=st.floats(0.5, 10))
def test_decoupled_kd_is_kd_where_beta_is_what_the_teacher_leaves_to_the_others(seed: int, temperature: float) -> None:
    """The paper's reformulation: KD = TCKD + (1 - p_t) NCKD, of each example with its own p_t."""
    student, teacher, labels = drawn(seed, examples=1)
    beta = 1 - softmax(teacher[0] / temperature)[labels[0]]
    decoupled = value("dkd", student, teacher, labels, alpha=1.0, beta=float(beta), temperature=temperature)
    assert decoupled == pytest.approx(value("soft_targets", student, teacher, temperature=temperature), rel=1e-9)


def test_decoupled_kd_of_two_classes_is_soft_targets_whatever_beta() -> None:
    student, teacher, labels = drawn(4, classes=2)
    assert value("dkd", student, teacher, labels, beta=3.0) == pytest.approx(value("soft_targets", student, teacher))


def test_decoupled_kd_does_not_round_away_what_a_sure_student_leaves_to_the_others() -> None:
    """1 - p_t is 0 in float32 from a margin of 17 on, and its logarithm would be infinite."""
    sure = torch.tensor([[40.0, 0, 0]])
    tckd = loss_of("dkd", sure, -sure, torch.tensor([0]), alpha=1.0, beta=0.0, temperature=1.0)
    assert tckd.item() == pytest.approx(40 - math.log(2), rel=1e-6)


def test_dist_asks_for_relations_only() -> None:
    """Probabilities that are mixed with a uniform guess: a positive affine map, of which Pearson knows nothing."""
    _, teacher, _ = drawn(5)
    y_t = np.array([softmax(z) for z in teacher])
    student = np.log(0.3 * y_t + 0.7 / 4)
    assert value("dist", student, teacher) == pytest.approx(0, abs=1e-12)
    assert value("soft_targets", student, teacher) > 0.01
    assert value("dist", student + 5, teacher) == pytest.approx(0, abs=1e-12)
    opposite = np.log(0.5 - 0.5 * y_t)
    assert value("dist", opposite, teacher) == pytest.approx(4)


def test_a_correlation_with_equal_values_counts_as_none() -> None:
    student, teacher, _ = drawn(6, examples=1)
    inter = value("dist", student, teacher, gamma=0.0)
    assert value("dist", student, teacher) == pytest.approx(inter + 1)
    assert value("dist", np.zeros((3, 4)), np.tile(teacher, (3, 1))) == pytest.approx(2)


@BUSY
@given(seed=st.integers(0, 2**32 - 1), shift=st.floats(-50, 50), scale=st.floats(0.01, 100))
def test_standardised_targets_know_neither_shift_nor_scale(seed: int, shift: float, scale: float) -> None:
    student, teacher, _ = drawn(seed)
    expected = value("standardised_targets", student, teacher)
    assert value("standardised_targets", student * scale + shift, teacher) == pytest.approx(expected, rel=1e-6)
    assert value("standardised_targets", student, teacher * scale + shift) == pytest.approx(expected, rel=1e-6)
    assert value("standardised_targets", teacher * scale + shift, teacher) == pytest.approx(0, abs=1e-12)


def test_standardised_targets_of_two_classes_know_the_choice_only() -> None:
    teacher = np.array([[3.0, -1.0]])
    assert value("standardised_targets", np.array([[0.2, 0.1]]), teacher) == pytest.approx(0, abs=1e-12)
    assert value("standardised_targets", np.array([[0.1, 0.2]]), teacher) > 1


def test_gradient_of_the_squared_error_is_the_difference() -> None:
    student, teacher, labels = (torch.tensor(part) for part in drawn(8))
    loss_of("logit_mse", student.requires_grad_(), teacher, labels).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    torch.testing.assert_close(student.grad, 2 * (student - teacher).detach() / student.numel())


def test_soft_targets_tend_to_the_squared_error_of_centred_logits() -> None:
    """Hinton et al. 2015 and Kim et al. 2021, for T to infinity."""
    student, teacher, _ = (part - part.mean(axis=-1, keepdims=True) for part in drawn(9))
    hot = value("soft_targets", student, teacher, temperature=1e4)
    assert hot == pytest.approx(value("logit_mse", student, teacher) / 2, rel=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_forward_kl_is_soft_targets_and_reverse_kl_has_the_roles_swapped(temperature: float) -> None:
    student, teacher, _ = drawn(10)
    soft = value("soft_targets", student, teacher, temperature=temperature)
    assert value("divergence", student, teacher, kind="forward_kl", temperature=temperature) == pytest.approx(soft)
    swapped = value("divergence", teacher, student, kind="reverse_kl", temperature=temperature)
    assert swapped == pytest.approx(soft)


@BUSY
@given(seed=st.integers(0, 2**32 - 1), beta=st.floats(0.01, 0.99))
def test_jsd_is_symmetric_in_roles_and_beta_and_bounded(seed: int, beta: float) -> None:
    student, teacher, _ = drawn(seed)
    one = value("divergence", student, teacher, beta=beta, temperature=1.0)
    assert one == pytest.approx(value("divergence", teacher, student, beta=1 - beta, temperature=1.0), rel=1e-6)
    assert 0 <= one <= -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)


def test_jsd_tends_to_both_kl_divergences() -> None:
    """As GKD states: JSD(beta) / beta for beta to 0; from the other side for beta to 1."""
    student, teacher, _ = drawn(11)
    near = 1e-6
    forward, reverse = (value("divergence", student, teacher, kind=f"{way}_kl") for way in ("forward", "reverse"))
    assert value("divergence", student, teacher, beta=near) / near == pytest.approx(forward, rel=1e-4)
    assert value("divergence", student, teacher, beta=1 - near) / near == pytest.approx(reverse, rel=1e-4)


@BUSY
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_relations_know_neither_turn_nor_scale_nor_shift(seed: int, scale: float, shift: float) -> None:
    _, teacher, _ = drawn(seed)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(4, 4)))
    assert value("relations", scale * teacher @ turn + shift, teacher) == pytest.approx(0, abs=1e-9)


def test_relations_take_pairs_and_triples() -> None:
    student, teacher, _ = drawn(12, examples=2)
    assert value("relations", student[:1], teacher[:1]) == 0
    assert value("relations", student, teacher) == pytest.approx(0, abs=1e-12)  # the one distance is the mean
    student, teacher, _ = drawn(12, examples=3)
    assert value("relations", student, teacher, distance=0.0) > 0.01
    assert value("relations", student, teacher, angle=0.0) > 0.01


def test_equal_embeddings_have_cosine_zero_and_no_endless_gradient() -> None:
    """Two of three student embeddings are one, so of six angles two remain, whose cosine is 1."""
    teacher = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    student = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    half = 0.5**0.5
    expected = (2 * 0 + 2 * half**2 / 2 + 2 * (1 - half) ** 2 / 2) / 6
    assert value("relations", student, teacher, distance=0.0, angle=1.0) == pytest.approx(expected)
    values = torch.tensor(student, requires_grad=True)
    loss_of("relations", values, torch.tensor(teacher), torch.tensor([0, 1, 1])).backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None and values.grad.abs().max() < 1e3


# Dense outputs, (batch, classes, *positions), and what has no label.


def dense(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of two examples with 2 x 3 positions, of which some have no label."""
    random = np.random.default_rng(seed)
    student, teacher = torch.tensor(random.normal(0, 2, (2, 2, 4, 2, 3)))
    labels = torch.from_numpy(random.integers(0, 4, (2, 2, 3)))
    labels[0, 0, 1] = labels[1, 1, :] = -1
    return student, teacher, labels


@pytest.mark.parametrize("name", ON_CLASSES)
def test_each_position_with_a_label_is_an_example(name: str) -> None:
    student, teacher, labels = dense(0)
    rows = [(example, y, x) for example in range(2) for y in range(2) for x in range(3) if labels[example, y, x] >= 0]
    s, t = (torch.stack([one[example, :, y, x] for example, y, x in rows]) for one in (student, teacher))
    expected = loss_of(name, s, t, torch.tensor([labels[row] for row in rows]))
    assert loss_of(name, student, teacher, labels).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("name", [*ON_CLASSES, *ON_EXAMPLES, "channel_wise"])
def test_where_nothing_has_a_label_there_is_no_nan(name: str) -> None:
    student, teacher, labels = dense(1)
    loss_of(name, student.requires_grad_(), teacher, torch.full_like(labels, -1)).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None and torch.isfinite(student.grad).all()
    if name in ON_CLASSES:
        assert not student.grad.any()


@pytest.mark.parametrize("name", [*ON_CLASSES, *ON_EXAMPLES])
def test_examples_without_a_label_still_have_a_teacher(name: str) -> None:
    """Only decoupled KD asks for the label itself."""
    student, teacher, labels = drawn(13)
    if name == "dkd":
        expected = value(name, student[1:], teacher[1:], labels[1:])
    else:
        expected = value(name, student, teacher, labels)
    assert value(name, student, teacher, np.concatenate([[-1], labels[1:]])) == pytest.approx(expected)


def test_relations_of_dense_outputs_leave_padding_out() -> None:
    student, teacher, labels = dense(2)
    changed = torch.where(labels[:, None] < 0, 100.0, student)
    expected = loss_of("relations", student, teacher, labels).item()
    assert loss_of("relations", changed, teacher, labels).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["logit_mse", "relations"])
def test_outputs_that_are_numbers_count_whole(name: str) -> None:
    """As the boxes of a detector, whose labels are (batch, boxes, 5)."""
    student, teacher, _ = dense(3)
    expected = loss_of(name, student.flatten(1), teacher.flatten(1), torch.tensor([0, 1]))
    found = loss_of(name, student, teacher, torch.full((2, 3, 5), math.nan))
    assert found.item() == pytest.approx(expected.item())


# Embeddings.


def test_embeddings_of_zeros_have_no_direction_and_no_endless_gradient() -> None:
    student, teacher = torch.zeros(2, 3, requires_grad=True), torch.tensor([[1.0, 2, 3], [0, 0, 0]])
    for name, expected in [("embedding_angle", 1.0), ("embedding_regression", 0.5)]:
        loss = loss_of(name, student, teacher, torch.tensor([0, 1]))
        loss.backward()  # type: ignore[no-untyped-call]
        assert loss.item() == pytest.approx(expected)
        assert student.grad is not None and student.grad.abs().max() < 10


@BUSY
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-6, 1e6))
def test_embeddings_are_compared_by_direction(seed: int, scale: float) -> None:
    student, teacher, _ = drawn(seed)
    for name in ("embedding_angle", "embedding_regression"):
        assert value(name, scale * student, teacher) == pytest.approx(value(name, student, teacher))


# Localisation, (batch, 4 * bins + classes, height, width).


def boxes(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two images of 3 x 4 positions: in the first a box over four of them and a tiny one, in the second none."""
    random = np.random.default_rng(seed)
    student, teacher = torch.tensor(random.normal(0, 2, (2, 2, 4 * 5 + 2, 3, 4)))
    none = [math.nan] * 5
    labels = torch.tensor([[[0, 0.25, 2 / 3, 0.5, 2 / 3], [1, 0.99, 0.01, 0.01, 0.01]], [none, none]])
    return student, teacher, labels


SEEN = [(0, 1, 0), (0, 1, 1), (0, 2, 0), (0, 2, 1), (0, 0, 3)]


def test_localisation_is_that_of_its_paper() -> None:
    student, teacher, labels = boxes(0)
    total = 0.0
    for image, y, x in SEEN:
        for side in range(4):
            z_s, z_t = (one[image, 5 * side : 5 * side + 5, y, x].numpy() for one in (student, teacher))
            total += kl(softmax(z_t / 10), softmax(z_s / 10)) * 10**2
    assert loss_of("localisation", student, teacher, labels, bins=5).item() == pytest.approx(total / len(SEEN))


def test_localisation_teaches_where_boxes_are_and_no_classes() -> None:
    student, teacher, labels = boxes(1)
    loss_of("localisation", student.requires_grad_(), teacher, labels, bins=5).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None and not student.grad[:, 20:].any()
    taught = student.grad.abs().sum(dim=1).nonzero().tolist()
    assert sorted(map(tuple, taught)) == sorted(SEEN)
    nothing = torch.full_like(labels, math.nan)
    for none in (nothing, nothing[:, :0]):
        assert loss_of("localisation", student, teacher, none, bins=5).item() == 0


def test_a_box_on_the_edge_is_seen_by_the_last_position() -> None:
    student, teacher, _ = boxes(2)
    corner = torch.tensor([[[0, 1.0, 1.0, 0.0, 0.0]], [[0, 0.0, 0.0, 0.0, 0.0]]])
    loss_of("localisation", student.requires_grad_(), teacher, corner, bins=5).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert student.grad.abs().sum(dim=1).nonzero().tolist() == [[0, 2, 3], [1, 0, 0]]


def test_outputs_that_a_loss_can_make_nothing_of_are_refused() -> None:
    student, teacher, labels = boxes(3)
    with pytest.raises(ConfigError, match=r"\(22, 3, 4\) has no 4 sides of 17 bins"):
        loss_of("localisation", student, teacher, labels)
    with pytest.raises(ConfigError, match=r"\(4,\) has no positions"):
        value("channel_wise", *drawn(0)[:2])
