"""A search costs candidates by the thousand, each as it would be costed alone."""

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from edgekd import cost, costing, remembered, repeats
from edgekd.costing import costs
from edgekd.errors import ConfigError, Disagreement
from edgekd.lessons import build
from edgekd.nets import Anatomy, anatomy, anatomy_executed, parameters
from edgekd.plugins import find
from edgekd.shipped import load_target
from edgekd.specs import Choice, Cost, Output, StudentChoice, Subject, Training
from tests.subjects import output, speech, story, subject, text

TARGET = msgspec.structs.replace(load_target("raspberry-pi-5"), cost_profile="profiles")
SCENE = Subject(
    shape=(3, 48, 80),
    kind="images",
    outputs=(
        output(),
        Output(name="seg", task="segmentation", shape=(5, 12, 20), classes=tuple("abcde"), metric="miou"),
    ),
)
SPACES: dict[str, tuple[Subject, dict[str, list[Any]]]] = {
    "mobile": (
        subject((3, 40, 40)),
        {
            "width": [0.25, 0.35, 0.5, 1.0, 1.25],
            "depth": [0.5, 1.0, 2.0],
            "resolution": [None, 24, 64],
            "expansion": [1, 4, 6],
            "activation": ["relu6", "relu", "hardswish"],
            "squeeze_excite": [False, True],
        },
    ),
    "ds_cnn": (
        subject((1, 32, 49), kind="numbers"),
        {"channels": [16, 24, 64], "blocks": [1, 2, 5], "kernel": [[3, 3], [4, 10]], "stride": [[2, 2], [1, 2]]},
    ),
    "encoder": (
        text(),
        {"width": [64, 96], "layers": [1, 3], "heads": [2, 4], "feed_forward": [1.0, 4.0], "embedding": [None, 48]},
    ),
    "decoder": (story(), {"width": [48, 96], "layers": [1, 2], "heads": [1, 3], "feed_forward": [2.0, 8 / 3]}),
    "multitask_mobile": (
        SCENE,
        {"width": [0.25, 0.5, 1.0], "depth": [0.5, 1.0, 2.0], "expansion": [2, 4], "head": [None, 16]},
    ),
    "whisper": (speech(), {"decoder_layers": [1, 2], "encoder_layers": [1], "width": [32, 64], "heads": [2, 4]}),
}
SAMPLE = 24


def points(name: str) -> list[dict[str, Any]]:
    _, space = SPACES[name]
    every = [dict(zip(space, point, strict=True)) for point in itertools.product(*space.values())]
    return random.Random(0).sample(every, min(SAMPLE, len(every)))


def student(name: str) -> StudentChoice:
    return StudentChoice(name=name, training=Training(epochs=1))


def plain(name: str, point: dict[str, Any], wanted: Subject) -> Anatomy:
    """A net's, without anything that is known of others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remembered, "key", lambda *_: None)
        with torch.device("meta"):
            net = build(Choice(name=name, options=point), wanted)
        return anatomy_executed(net, wanted)


def alone(described: Anatomy) -> dict[str, Cost]:
    model = find(cost, "profiles")
    return {one: model.estimate(described, TARGET, one.rpartition("-")[2]) for one in TARGET.exports}


@pytest.mark.parametrize("name", SPACES)
def test_a_candidate_costs_among_others_what_it_costs_alone(name: str, tmp_path: Path) -> None:
    wanted, chosen = SPACES[name][0], points(name)
    seen: list[Anatomy] = []
    examine = costing._examine

    def watched(*given: Any) -> Anatomy:
        seen.append(examine(*given))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costing, "_examine", watched)
        found = costs(student(name), chosen, wanted, TARGET, tmp_path / "log")
    expected = [plain(name, point, wanted) for point in chosen]
    assert seen == expected
    assert found == [alone(one) for one in expected]
    assert len({one.macs for one in expected}) > 1


def test_a_large_space_is_shared_among_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, chosen = SPACES["ds_cnn"][0], points("ds_cnn")[:7]
    here = costs(student("ds_cnn"), chosen, wanted, TARGET, tmp_path / "log")
    monkeypatch.setattr(costing, "WORTH_A_WORKER", 3)
    monkeypatch.setattr(costing, "cores", lambda: 2)
    assert costs(student("ds_cnn"), chosen, wanted, TARGET, tmp_path / "log") == here


def test_options_of_another_family_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="options of student ds_cnn"):
        costs(student("ds_cnn"), [{"channels": 16}, {"chanels": 16}], SPACES["ds_cnn"][0], TARGET, tmp_path / "log")


# --- a user's own


def weighed(width: int = 4) -> nn.Module:
    """Computes with its weights, which a net without memory has not."""
    made = nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, 3))
    return made if made[0].weight.abs().sum().item() > 0 else nn.Sequential()  # type: ignore[operator]


@repeats.repeated
def signed(width: int) -> nn.Module:
    made = nn.Linear(8, width)
    assert made.weight.abs().sum().item() > 0
    return made


def shared(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Flatten(), tail(64, 8), signed(width), tail(width, 3))


tail = repeats.repeated(nn.Linear)


def unwilling(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(width, 4, 3))


def test_a_function_that_needs_numbers_is_costed_with_numbers(tmp_path: Path) -> None:
    wanted = subject((1, 8, 8), kind="numbers")
    for make in (weighed, shared):
        own = student(f"{Path(__file__)}:{make.__name__}")
        found = costs(own, [{"width": 4}, {"width": 6}], wanted, TARGET, tmp_path / "log")
        assert found == [alone(anatomy(make(width), (1, 8, 8))) for width in (4, 6)]


def test_a_net_that_does_not_take_the_data_is_refused_each_time(tmp_path: Path) -> None:
    name, wanted = f"{Path(__file__)}:unwilling", subject((1, 8, 8), kind="numbers")
    for _ in range(2):
        with pytest.raises(Disagreement, match="the net does not take an input of shape"):
            costs(student(name), [{"width": 1}, {"width": 2}], wanted, TARGET, tmp_path / "log")


# --- what is repeated


class Twice(nn.Module):
    """One part in two places, another one called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.again = part(4), part(4), part(6)

    def forward(self, given: Tensor) -> Tensor:
        out: Tensor = self.again(self.again(self.second(self.first(given) + given)))
        return out


def wide(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 8))


part = repeats.repeated(wide)


def test_a_part_counts_once_for_each_time_that_it_was_made() -> None:
    expected = anatomy(Twice(), (8,))
    with repeats.sharing(), torch.device("meta"):
        net = Twice()
        assert isinstance(net.first, repeats.StandIn) and net.first is not net.second
        assert net.first.part is net.second.part is not net.again.part
        assert parameters(net) == expected.parameters
        assert anatomy(net, (8,)) == anatomy(net, (8,)) == expected
    assert not isinstance(part(4), repeats.StandIn)


def test_a_part_alone_is_a_net() -> None:
    with repeats.sharing(), torch.device("meta"):
        assert anatomy(part(4), (8,)) == anatomy(wide(4), (8,))


class Branches(nn.Module):
    """Answers with what it is given, a view of it, and two results of which one is of another type."""

    def forward(self, given: Tensor, other: Tensor) -> tuple[Tensor, ...]:
        return given, other.transpose(1, 2), given + other, (given @ other.transpose(1, 2)).to(torch.float16)


class Branched(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.parts = nn.ModuleList([make(), make()])

    def forward(self, given: Tensor) -> Tensor:
        one, two = given.tanh(), torch.ones_like(given)
        for part in self.parts:
            same, turned, added, product = part(one, two)
            one, two = added * product.float().mean(), same + turned.transpose(1, 2)
            again, *_ = part(one, other=one)
            one = one + again
        return one + two


def test_what_a_part_passes_on_is_where_it_was() -> None:
    expected = anatomy(Branched(Branches), (6, 5))
    with repeats.sharing():
        assert anatomy(Branched(repeats.repeated(Branches)), (6, 5)) == expected


class Looking(nn.Module):
    """Computes with what its net has left for it."""

    left: list[Tensor] = []

    def forward(self, given: Tensor) -> Tensor:
        return given * self.left[-1]


class Leaving(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.map = part, nn.Linear(4, 4)

    def forward(self, given: Tensor) -> Tensor:
        Looking.left.append(given)
        first = self.part(self.map(given))
        Looking.left.append(torch.ones(4, device="meta"))
        out: Tensor = self.part(self.map(first))
        return out


def test_a_part_that_looks_at_more_than_it_is_given_is_executed_each_time() -> None:
    expected = anatomy(Leaving(Looking()), (4,))
    with repeats.sharing(), torch.device("meta"):
        assert anatomy(Leaving(repeats.repeated(Looking)()), (4,)) == expected


class Adding(nn.Module):
    """Changes what it is given."""

    def forward(self, given: Tensor, times: Any) -> Tensor:
        for _ in range(int(times)):
            given += 1
        return given.tanh()


class Changed(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.map = part, nn.Linear(4, 4)

    def forward(self, given: Tensor) -> Tensor:
        for times in (1, torch.tensor(2), torch.tensor(3), 1):
            mapped = self.map(given)
            given = mapped * self.part(mapped, times)
        return given


def test_a_part_that_changes_what_it_is_given_or_looks_at_numbers_is_executed_each_time() -> None:
    expected = anatomy(Changed(Adding()), (4,))
    assert [one.op for one in expected.layers].count("add_") == 7
    with repeats.sharing():
        assert anatomy(Changed(repeats.repeated(Adding)()), (4,)) == expected


def test_parts_of_arguments_without_a_hash_are_made_each_time() -> None:
    made = repeats.repeated(lambda sizes: nn.Linear(*sizes))
    with repeats.sharing():
        assert isinstance(made((2, 3)), repeats.StandIn)
        assert isinstance(made([2, 3]), nn.Linear)


# --- what is remembered


def answered(*operators: Any) -> None:
    """Each operator answers from memory what torch answers."""
    for operator in operators:
        expected = operator()
        for _ in range(2):
            with remembered.Remembering():
                found = operator()
            for one, other in zip(told(found), told(expected), strict=True):
                assert one == other


@pytest.mark.parametrize("size", [(2, 4, 6, 6), (1, 4, 1, 1), (2, 4, 3), (5, 4, 7, 3)])
def test_answers_of_one_size_tell_those_of_another(size: tuple[int, ...]) -> None:
    norm = nn.BatchNorm1d(4) if len(size) == 3 else nn.BatchNorm2d(4)
    norm = norm.to("meta").eval()
    for form in (torch.contiguous_format, torch.channels_last):
        if form is torch.channels_last and len(size) != 4:
            continue
        pixels = torch.empty(size, device="meta").contiguous(memory_format=form)
        answered(
            lambda pixels=pixels: norm(pixels),
            lambda pixels=pixels: torch.nn.functional.hardtanh(pixels),
            lambda pixels=pixels: pixels.clone(memory_format=torch.channels_last) if pixels.dim() == 4 else pixels,
            lambda pixels=pixels: (pixels > 0, pixels.half().sigmoid(), pixels.int().exp(), pixels.flip(0).relu()),
        )


def test_a_norm_of_other_channels_is_refused() -> None:
    norm = nn.BatchNorm2d(4).to("meta").eval()
    with remembered.Remembering():
        norm(torch.empty(1, 4, 5, 5, device="meta"))
        with pytest.raises((RuntimeError, ValueError)):
            norm(torch.empty(1, 3, 5, 5, device="meta"))


def told(results: Any) -> Sequence[Any]:
    return [
        (one.shape, one.stride(), one.dtype, one.device)
        for one in (results if isinstance(results, tuple | list) else [results])
    ]


def test_torch_and_memory_agree() -> None:
    floats, integers = torch.empty(2, 3, 4, device="meta"), torch.empty(3, 4, dtype=torch.int32, device="meta")
    answered(
        lambda: integers * 1,
        lambda: integers * 1.0,
        lambda: integers * True,
        lambda: floats + integers,
        lambda: floats.transpose(0, 2) + 1,
        lambda: floats.to(torch.float16),
        lambda: floats.max(1),
        lambda: torch.split(floats, 1, 1),
        lambda: torch.cat([floats, floats], 2),
        lambda: floats.clone().uniform_(),
        lambda: floats.clone().squeeze_().t_() if floats.dim() == 2 else floats.clone().transpose_(0, 1),
        lambda: torch.empty(4, device="meta").resize_(2, 3),
        lambda: torch.ones(2).sum().item() * floats,
        lambda: torch.arange(0, 6, 2, device="meta"),
        lambda: torch.arange(0, 6, 2, device="meta", dtype=torch.float32),
        lambda: torch.arange(0.0, 6.0, 2.0, device="meta"),
        lambda: torch.zeros(3, 2, device="meta"),
    )


def test_what_is_written_in_place_stays_the_same_tensor() -> None:
    tensor = torch.empty(3, device="meta")
    with remembered.Remembering():
        assert all(tensor.relu_() is tensor and tensor.add_(1) is tensor for _ in range(3))
        assert tensor.add_(torch.empty(3, device="meta")) is tensor


def test_numbers_are_never_answered_from_memory() -> None:
    with remembered.Remembering():
        assert [(torch.tensor(float(value)) * 2).item() for value in range(3)] == [0, 2, 4]
        assert torch.ones(3).fill_(7).tolist() == [7, 7, 7]


def test_what_torch_refuses_it_refuses_again() -> None:
    one, other = torch.empty(3, device="meta"), torch.empty(4, device="meta")
    with remembered.Remembering():
        for _ in range(2):
            with pytest.raises(RuntimeError):
                one + other
            with pytest.raises(RuntimeError):
                one.add_(other)


def test_memory_that_is_full_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "_MOST", 2)
    kept: dict[Any, int] = {}
    for value in range(3):
        remembered.keep(kept, (value,), value)
    assert kept == {(2,): 2}
