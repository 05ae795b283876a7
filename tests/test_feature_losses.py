"""Losses on layers are those of their papers: each against the formula, written once more in numpy."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd import losses, tasks
from edgekd.errors import ConfigError
from edgekd.losses import Batch, Features, Pair
from edgekd.plugins import find, options

BUSY = settings(deadline=None, max_examples=15)
"""Machines are busy; what an example takes says nothing."""

SEEDS = st.integers(0, 2**32 - 1)
Numbers = NDArray[np.float64]


def drawn(seed: int, *shapes: tuple[int, ...]) -> list[Numbers]:
    random = np.random.default_rng(seed)
    return [random.normal(0, 2, shape) for shape in shapes]


def built(name: str, pairs: Sequence[tuple[Numbers, Numbers]], **table: Any) -> nn.Module:
    torch.manual_seed(0)
    plugin = find(losses, name)
    shapes = [Pair(student.shape[1:], teacher.shape[1:]) for student, teacher in pairs]
    module: nn.Module = plugin.build(options(plugin.Options, table, name), shapes)
    return module.double()


def features(
    pairs: Sequence[tuple[Numbers, Numbers]], mask: Any = None, indices: Sequence[int] | None = None
) -> list[Features]:
    count = len(pairs[0][0])
    where = torch.tensor(range(count) if indices is None else indices)
    which = None if mask is None else torch.tensor(mask)
    return [Features(torch.tensor(s), torch.tensor(t), which, torch.zeros(count), where) for s, t in pairs]


def value(name: str, student: Numbers, teacher: Numbers, mask: Any = None, **table: Any) -> float:
    loss: Tensor = built(name, [(student, teacher)], **table)(features([(student, teacher)], mask))
    return loss.item()


def weights(module: nn.Module) -> list[Numbers]:
    return [parameter.detach().numpy() for parameter in module.parameters()]


def softmax(logits: Numbers) -> Numbers:
    powers: Numbers = np.exp(logits - logits.max())
    return powers / powers.sum()


def kl(p: Numbers, q: Numbers) -> float:
    return float(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))


def unit(values: Numbers) -> Numbers:
    length: float = np.sqrt((values**2).sum())
    return values / length


MASK = [[True] * 4, [True, True, False, False]]
COUNTED = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]

# The papers' formulas.


@BUSY
@given(seed=SEEDS)
def test_hints_are_those_of_fitnets(seed: int) -> None:
    """The larger map is averaged down: blocks of 2 x 2 here."""
    student, teacher = drawn(seed, (2, 3, 4, 4), (2, 5, 2, 2))
    module = built("hints", [(student, teacher)])
    w, b = weights(module)
    total = 0.0
    for example, y, x in np.ndindex(2, 2, 2):
        block = student[example, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean(axis=(1, 2))
        total += ((w @ block + b - teacher[example, :, y, x]) ** 2).sum()
    assert module(features([(student, teacher)])).item() == pytest.approx(total / teacher.size)


def test_hints_of_vectors_have_a_linear_regressor_that_starts_as_no_change() -> None:
    student, teacher = drawn(0, (3, 4), (3, 4))
    assert value("hints", student, teacher) == pytest.approx(((student - teacher) ** 2).mean())


@BUSY
@given(seed=SEEDS, p=st.sampled_from([1.0, 2.0, 4.0]))
def test_attention_transfer_is_that_of_its_paper(seed: int, p: float) -> None:
    student, teacher = drawn(seed, (2, 3, 2, 3), (2, 5, 2, 3))

    def q(activations: Numbers) -> Numbers:
        return unit((np.abs(activations) ** p).sum(axis=0).reshape(-1))

    expected = np.mean([(q(s) - q(t)) ** 2 for s, t in zip(student, teacher, strict=True)])
    assert value("attention_transfer", student, teacher, p=p) == pytest.approx(expected)


def test_attention_transfer_averages_the_larger_map_down() -> None:
    (teacher,) = drawn(1, (2, 3, 2, 2))
    assert value("attention_transfer", teacher.repeat(2, axis=2).repeat(3, axis=3), teacher) == pytest.approx(0)


@BUSY
@given(seed=SEEDS)
def test_similarity_is_that_of_its_paper(seed: int) -> None:
    student, teacher = drawn(seed, (4, 3, 2, 2), (4, 5))

    def g(activations: Numbers) -> Numbers:
        q = activations.reshape(4, -1)
        return np.array([unit(row) for row in q @ q.T])

    assert value("similarity", student, teacher) == pytest.approx(((g(teacher) - g(student)) ** 2).sum() / 16)


@BUSY
@given(seed=SEEDS)
def test_relations_of_layers_are_those_of_outputs(seed: int) -> None:
    student, teacher = drawn(seed, (4, 3, 2, 2), (4, 5))
    plugin, (s, t) = find(losses, "relations"), (torch.tensor(one).flatten(1) for one in (student, teacher))
    batch = Batch(s, t, torch.zeros(4), find(tasks, "classification"), 0.0)
    assert value("relations", student, teacher) == pytest.approx(plugin(batch, plugin.Options()).item())


@BUSY
@given(seed=SEEDS)
def test_hidden_states_are_those_of_tinybert(seed: int) -> None:
    student, teacher = drawn(seed, (2, 4, 3), (2, 4, 5))
    module = built("hidden_states", [(student, teacher)])
    w, b = weights(module)
    expected = np.mean([(w @ student[i] + b - teacher[i]) ** 2 for i in COUNTED])
    assert module(features([(student, teacher)], MASK)).item() == pytest.approx(expected)


def test_hidden_states_of_one_width_share_what_projects_them() -> None:
    one, two, other = (tuple(drawn(seed, (2, 4, 3), (2, 4, width))) for seed, width in enumerate((5, 5, 6)))
    pairs = [(s, t) for s, t in (one, two, other)]
    assert len(list(built("hidden_states", pairs).parameters())) == 4
    same = drawn(3, (2, 4, 3), (2, 4, 3))
    assert not list(built("hidden_states", [(same[0], same[1])], project=False).parameters())
    assert value("hidden_states", *same, project=False) == pytest.approx(((same[0] - same[1]) ** 2).mean())


@BUSY
@given(seed=SEEDS)
def test_attention_maps_are_those_of_tinybert(seed: int) -> None:
    """Two heads against four: each of the student's against the mean of two that stand together."""
    student, teacher = drawn(seed, (2, 2, 4, 4), (2, 4, 4, 4))
    total, count = 0.0, 0
    for example, query, key in np.ndindex(2, 4, 4):
        if MASK[example][query] and MASK[example][key]:
            a_s, a_t = student[example, :, query, key], teacher[example, :, query, key]
            total += np.mean([(a_s[0] - (a_t[0] + a_t[1]) / 2) ** 2, (a_s[1] - (a_t[2] + a_t[3]) / 2) ** 2])
            count += 1
    assert count == 20
    assert value("attention_maps", student, teacher, MASK) == pytest.approx(total / count)


def test_scores_of_what_may_not_be_looked_at_count_as_none() -> None:
    student, teacher = drawn(2, (1, 2, 3, 3), (1, 2, 3, 3))
    barred = np.triu(np.ones((3, 3), bool), 1)
    expected = value("attention_maps", np.where(barred, 0, student), np.where(barred, 0, teacher))
    for nothing in (-np.inf, -1e4):
        barred_scores = [np.where(barred, nothing, one) for one in (student, teacher)]
        assert value("attention_maps", *barred_scores) == pytest.approx(expected)


@BUSY
@given(seed=SEEDS)
def test_cosine_of_states_is_that_of_distilbert(seed: int) -> None:
    student, teacher = drawn(seed, (2, 4, 3), (2, 4, 3))
    expected = np.mean([1 - unit(student[i]) @ unit(teacher[i]) for i in COUNTED])
    assert value("cosine_states", student, teacher, MASK) == pytest.approx(expected)


@BUSY
@given(seed=SEEDS, heads=st.sampled_from([1, 2]))
def test_attention_relations_are_those_of_minilm(seed: int, heads: int) -> None:
    student, teacher = drawn(seed, (2, 4, 4), (2, 4, 6))

    def relation(states: Numbers, head: int) -> Numbers:
        width = states.shape[1] // heads
        a = states[:, head * width : (head + 1) * width]
        return a @ a.T / math.sqrt(width)

    total = 0.0
    for example, x in enumerate((4, 2)):
        for head in range(heads):
            r_s, r_t = (relation(one[example, :x], head) for one in (student, teacher))
            total += sum(kl(softmax(t), softmax(s)) for s, t in zip(r_s, r_t, strict=True)) / (heads * x)
    assert value("attention_relations", student, teacher, MASK, heads=heads) == pytest.approx(total / 2)


@BUSY
@given(seed=SEEDS, temperature=st.sampled_from([1.0, 4.0]))
def test_channel_wise_is_that_of_its_paper(seed: int, temperature: float) -> None:
    student, teacher = drawn(seed, (2, 3, 2, 3), (2, 5, 2, 3))
    module = built("channel_wise", [(student, teacher)], temperature=temperature)
    w, b = weights(module)
    projected = np.einsum("oi,biyx->boyx", w, student) + b[:, None, None]
    total = sum(
        kl(softmax(teacher[at].reshape(-1) / temperature), softmax(projected[at].reshape(-1) / temperature))
        for at in np.ndindex(2, 5)
    )
    expected = total / (2 * 5) * temperature**2
    assert module(features([(student, teacher)])).item() == pytest.approx(expected)


# Contrastive representation distillation.


def test_crd_is_that_of_its_paper() -> None:
    """The official code's NCE, from probabilities: Z is set by the first batch, the memory renewed by each."""
    examples, negatives, tau, momentum = 6, 8, 0.3, 0.5
    first, second = drawn(0, (2, 3), (2, 2, 2)), drawn(1, (2, 3), (2, 2, 2))
    module = built("crd", [(first[0], first[1])], width=4, negatives=negatives, temperature=tau)
    w_s, b_s, w_t, b_t = weights(module)
    z: list[float] = []

    def embed(batch: Sequence[Numbers]) -> list[Numbers]:
        sides = zip(batch, (w_s, w_t), (b_s, b_t), strict=True)
        return [np.array([unit(w @ one.reshape(-1) + b) for one in side]) for side, w, b in sides]

    def nce(anchors: Numbers, memory: Numbers, rows: NDArray[np.int64], which: int) -> float:
        powers = np.array([np.exp(memory[row] @ anchor / tau) for row, anchor in zip(rows, anchors, strict=True)])
        if len(z) == which:
            z.append(powers.mean() * examples)
        p, p_n = powers / z[which], 1 / examples
        d_1 = p[:, 0] / (p[:, 0] + negatives * p_n)
        d_0 = negatives * p_n / (p[:, 1:] + negatives * p_n)
        return float(-(np.log(d_1).sum() + np.log(d_0).sum()) / len(rows))

    (part,) = module.parts  # type: ignore[misc]
    part._grow(examples)
    for batch, indices in [(first, [4, 1]), (second, [0, 4])]:
        memories = [part.memory_s.numpy().copy(), part.memory_t.numpy().copy()]
        v_s, v_t = embed(batch)
        torch.manual_seed(5)
        rows = np.concatenate([np.array(indices)[:, None], torch.randint(examples, (2, negatives)).numpy()], axis=1)
        torch.manual_seed(5)
        found = module(features([(batch[0], batch[1])], indices=indices)).item()
        assert found == pytest.approx(nce(v_s, memories[1], rows, 0) + nce(v_t, memories[0], rows, 1))
        for memory, old, seen in [(part.memory_s, memories[0], v_s), (part.memory_t, memories[1], v_t)]:
            for row, one in zip(indices, seen, strict=True):
                old[row] = unit(momentum * old[row] + (1 - momentum) * one)
            np.testing.assert_allclose(memory.numpy(), old)


def test_memory_of_crd_grows_with_the_data_and_learns_in_training_only() -> None:
    student, teacher = drawn(2, (3, 4), (3, 5))
    module = built("crd", [(student, teacher)], width=4, negatives=6)
    (part,) = module.parts  # type: ignore[misc]
    module(features([(student, teacher)], indices=[0, 7, 2]))
    assert len(part.memory_s) == 8
    before = copy.deepcopy(module.state_dict())
    module.eval()(features([(student, teacher)], indices=[0, 7, 2]))
    assert all(torch.equal(one, before[name]) for name, one in module.state_dict().items())
    module.train()(features([(student, teacher)], indices=[9, 1, 2]))
    assert len(part.memory_s) == 10
    assert torch.equal(part.memory_s[7], before["parts.0.memory_s"][7])


def test_crd_teaches_which_embeddings_are_of_one_example() -> None:
    student, teacher = (torch.tensor(one) for one in drawn(3, (12, 12), (12, 9)))
    module = built("crd", [(student.numpy(), teacher.numpy())], width=16, negatives=64)
    (part,) = module.parts  # type: ignore[misc]
    student.requires_grad_()
    optimizer = torch.optim.Adam([student, *module.parameters()], lr=0.05)

    def found() -> int:
        embedded = nn.functional.normalize(part.g_t(teacher), dim=1)
        return int(((part.g_s(student) @ embedded.T).argmax(dim=1) == torch.arange(12)).sum())

    assert found() < 6
    for _ in range(60):
        optimizer.zero_grad()
        module([Features(student, teacher, None, torch.zeros(12), torch.arange(12))]).backward()
        optimizer.step()
    assert found() == 12


# Knowledge review.


@BUSY
@given(seed=SEEDS, size=st.sampled_from([(8, 8), (4, 6), (2, 4), (1, 1)]))
def test_hierarchical_context_loss_is_that_of_its_paper(seed: int, size: tuple[int, int]) -> None:
    from edgekd.losses.review import hcl

    student, teacher = drawn(seed, (2, 3, *size), (2, 3, *size))

    def pooled(maps: Numbers, level: int) -> Numbers:
        rows, columns = (
            [(math.floor(i * n / level), math.ceil((i + 1) * n / level)) for i in range(level)] for n in size
        )
        return np.array([[maps[:, :, a:b, c:d].mean(axis=(2, 3)) for c, d in columns] for a, b in rows])

    parts = [(1.0, float(((student - teacher) ** 2).mean()))]
    for level in (4, 2, 1):
        if level < min(size):
            error = float(((pooled(student, level) - pooled(teacher, level)) ** 2).mean())
            parts.append((parts[-1][0] / 2, error))
    expected = sum(w * error for w, error in parts) / sum(w for w, _ in parts)
    assert hcl(torch.tensor(student), torch.tensor(teacher)).item() == pytest.approx(expected)


def test_review_is_that_of_its_paper() -> None:
    """Two levels of 2 x 2 and 1 x 1; in evaluation, where batch normalisation is an affine map."""
    (s_1, t_1), (s_2, t_2) = drawn(0, (2, 3, 2, 2), (2, 4, 2, 2)), drawn(1, (2, 5, 1, 1), (2, 6, 1, 1))
    pairs = [(s_1, t_1), (s_2, t_2)]
    module = built("review", pairs, width=2).eval()
    state = {name: one.numpy() for name, one in module.state_dict().items()}
    shrink = 1 / math.sqrt(1 + 1e-5)

    def one_by_one(name: str, maps: Numbers) -> Numbers:
        return np.einsum("oi,biyx->boyx", state[name][:, :, 0, 0], maps)

    def three_by_three(name: str, maps: Numbers) -> Numbers:
        padded = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)))
        height, width = maps.shape[2:]
        return sum(
            np.einsum("oi,biyx->boyx", state[name][:, :, y, x], padded[:, :, y : y + height, x : x + width])
            for y in range(3)
            for x in range(3)
        )

    deep = one_by_one("levels.1.enter.0.weight", s_2) * shrink
    entered = one_by_one("levels.0.enter.0.weight", s_1) * shrink
    upsampled = deep.repeat(2, axis=2).repeat(2, axis=3)
    both = np.concatenate([entered, upsampled], axis=1)
    logits = one_by_one("levels.0.attention.0.weight", both) + state["levels.0.attention.0.bias"][:, None, None]
    z = 1 / (1 + np.exp(-logits))
    fused = entered * z[:, :1] + upsampled * z[:, 1:]
    out_1 = three_by_three("levels.0.leave.0.weight", fused) * shrink
    out_2 = three_by_three("levels.1.leave.0.weight", deep) * shrink

    means = ((out_1.mean(axis=(2, 3)) - t_1.mean(axis=(2, 3))) ** 2).mean()
    expected = (((out_1 - t_1) ** 2).mean() + means / 2) / 1.5 + ((out_2 - t_2) ** 2).mean()
    assert module(features(pairs)).item() == pytest.approx(expected)


def test_review_fuses_across_other_sizes_and_takes_a_last_batch_of_one() -> None:
    pairs = [(s, t) for s, t in (drawn(0, (1, 3, 7, 5), (1, 4, 4, 4)), drawn(1, (1, 5, 1, 1), (1, 6, 1, 1)))]
    module = built("review", pairs)
    assert math.isfinite(module(features(pairs)).item())
    only = built("review", pairs[1:])
    assert math.isfinite(only(features(pairs[1:])).item())


# What no loss on layers may stumble over.

TOKENS = ["hidden_states", "cosine_states", "attention_relations", "similarity", "relations", "crd"]
TABLES: dict[str, dict[str, Any]] = {"attention_relations": {"heads": 3}, "crd": {"width": 4, "negatives": 5}}
MAPS = ["hints", "attention_transfer", "channel_wise", "review", "similarity", "relations", "crd"]


@pytest.mark.parametrize("name", TOKENS)
def test_padding_counts_nowhere(name: str) -> None:
    student, teacher = drawn(4, (2, 4, 6), (2, 4, 6))
    mask = np.array(MASK)
    module = built(name, [(student, teacher)], **TABLES.get(name, {}))

    def of(filling: float) -> float:
        torch.manual_seed(1)
        pairs = [(np.where(mask[..., None], student, filling), np.where(mask[..., None], teacher, -filling))]
        loss: Tensor = copy.deepcopy(module)(features(pairs, MASK))
        return loss.item()

    assert of(0.0) == of(100.0)


@pytest.mark.parametrize("name", TOKENS)
def test_a_text_of_padding_alone_is_finite(name: str) -> None:
    student, teacher = drawn(5, (2, 4, 6), (2, 4, 6))
    one = Features(
        torch.tensor(student, requires_grad=True),
        torch.tensor(teacher),
        torch.tensor([[False] * 4] * 2),
        torch.zeros(2),
        torch.arange(2),
    )
    loss = built(name, [(student, teacher)], **TABLES.get(name, {}))([one])
    loss.backward()
    assert torch.isfinite(loss) and one.student.grad is not None and torch.isfinite(one.student.grad).all()


@pytest.mark.parametrize("name", sorted({*TOKENS, *MAPS}))
@BUSY
@given(
    seed=SEEDS,
    sizes=st.tuples(*[st.sampled_from([0.0, 1e-30, 1e-12, 1e-3, 1.0, 100.0, 1e6])] * 2),
    ties=st.booleans(),
    examples=st.integers(1, 3),
)
def test_any_activations_have_a_finite_loss_that_is_not_below_zero_and_a_finite_gradient(
    name: str, seed: int, sizes: tuple[float, float], ties: bool, examples: int
) -> None:
    """In float32."""
    shape = (examples, 3, 4, 4) if name in MAPS else (examples, 4, 6)
    random = np.random.default_rng(seed)
    signs = random.choice([-1.0, 1.0], (2, *shape)) if ties else random.uniform(-1, 1, (2, *shape))
    module = built(name, [(signs[0], signs[1])], **TABLES.get(name, {})).float()
    student, teacher = (torch.tensor(sign * size, dtype=torch.float32) for sign, size in zip(signs, sizes, strict=True))
    one = Features(student.requires_grad_(), teacher, None, torch.zeros(examples), torch.arange(examples))
    loss = module([one])
    loss.backward()
    assert loss.dtype == torch.float32 and math.isfinite(loss.item()) and loss.item() >= -1e-4
    assert student.grad is not None and torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", ["attention_transfer", "similarity", "cosine_states"])
@BUSY
@given(seed=SEEDS, scale=st.floats(1e-6, 1e6))
def test_size_alone_is_no_difference(name: str, seed: int, scale: float) -> None:
    (teacher,) = drawn(seed, (3, 4, 5))
    assert value(name, scale * teacher, teacher) == pytest.approx(0, abs=1e-12)


def test_pairs_are_added_up() -> None:
    one, two = drawn(6, (2, 3, 4), (2, 3, 4)), drawn(7, (2, 3, 4), (2, 3, 4))
    for name in ("cosine_states", "attention_transfer", "similarity", "hints", "hidden_states"):
        pairs = [(one[0], one[1]), (two[0], two[1])]
        expected = value(name, *one) + value(name, *two)
        assert built(name, pairs)(features(pairs)).item() == pytest.approx(expected)


REFUSED: list[tuple[str, dict[str, Any], Pair, str]] = [
    ("hints", {}, Pair((4, 8, 8), (10,)), "both vectors"),
    ("attention_transfer", {}, Pair((4,), (4,)), "positions"),
    ("channel_wise", {}, Pair((4, 8, 8), (4, 64)), "positions"),
    ("channel_wise", {}, Pair((12, 48), (12, 48), by_token=True), "positions"),
    ("review", {}, Pair((8, 4), (8, 4)), "height"),
    ("hidden_states", {}, Pair((16, 8), (12, 8)), "same positions"),
    ("hidden_states", {"project": False}, Pair((16, 8), (16, 12)), "one width"),
    ("cosine_states", {}, Pair((16, 8), (16, 12)), "one shape"),
    ("attention_maps", {}, Pair((4, 16, 16), (4, 12, 12)), "same tokens"),
    ("attention_relations", {}, Pair((16, 96), (12, 96)), "same tokens"),
    ("attention_relations", {}, Pair((16, 64), (16, 96)), "48 relation heads"),
]


@pytest.mark.parametrize(("name", "table", "pair", "why"), REFUSED)
def test_layers_that_do_not_go_together_are_refused(name: str, table: dict[str, Any], pair: Pair, why: str) -> None:
    plugin = find(losses, name)
    fine = Pair((2, 48), (2, 48)) if len(pair.student) < 3 else pair
    with pytest.raises(ConfigError, match=why) as refused:
        plugin.build(options(plugin.Options, table, name), [pair, fine])
    assert "pair 1" in str(refused.value) and str(pair.student) in str(refused.value)
