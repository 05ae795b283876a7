"""Layers are found by their paths, paired by a map, listened to, and copied."""

import pytest
import torch
from torch import Tensor, nn

from edgekd.errors import ConfigError
from edgekd.layers import Tap, copy_layers, pairs_of, shapes_of
from edgekd.specs import LayerMap


class Block(nn.Module):
    """Answers a pair, as attention does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x), x.softmax(-1)


class Tower(nn.Module):
    """Blocks in a row, and one that nothing uses."""

    def __init__(self, blocks: int, width: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(width) for _ in range(blocks)])
        self.unused = nn.Linear(width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x, _ = block(x)
        return self.head(x)


def pairs(teacher: int, student: int, how: str, path: str = "blocks.*") -> list[tuple[str, str]]:
    wanted = LayerMap(teacher=path, student=path, map=how)  # type: ignore[arg-type]  # one of its words
    return list(pairs_of(Tower(teacher), Tower(student), [wanted]))


@pytest.mark.parametrize(
    ("how", "theirs"), [("uniform", [3, 7, 11]), ("last", [9, 10, 11]), ("first", [0, 1, 2])], ids=str
)
def test_a_map_chooses_among_the_teachers_layers(how: str, theirs: list[int]) -> None:
    assert pairs(12, 3, how) == [(f"blocks.{one}", f"blocks.{index}") for index, one in enumerate(theirs)]


def test_a_star_means_numbers_in_their_order_and_an_output_goes_along() -> None:
    assert pairs(11, 11, "same", "blocks.*:1")[10] == ("blocks.10:1", "blocks.10:1")
    assert pairs(2, 1, "last", "blocks.*.linear") == [("blocks.1.linear", "blocks.0.linear")]


def test_a_student_of_more_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the student has 3 of 'blocks.\*', the teacher 2 of"):
        pairs(2, 3, "uniform")
    with pytest.raises(ConfigError, match="the student has 2"):
        pairs(3, 2, "same")


def test_a_path_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="the net has no layer 'block.0'") as error:
        Tap(Tower(2), ["block.0"])
    assert "blocks.0" in error.value.hint
    with pytest.raises(ConfigError, match=r"the teacher has no layer 'layers\.\*'"):
        pairs(2, 2, "uniform", "layers.*")
    with pytest.raises(ConfigError, match="the student has no layer 'head.weight'") as error:
        pairs_of(Tower(2), Tower(2), [LayerMap(teacher="head", student="head.weight")])
    assert "head" in error.value.hint
    with pytest.raises(ConfigError, match="the net has no layer '1.projection'") as error:
        Tap(nn.Sequential(nn.ReLU(), nn.ReLU()), ["1.projection"])
    assert error.value.hint == "near it: 1"
    with pytest.raises(ConfigError, match="behind the colon stands .x."):
        pairs(2, 2, "uniform", "blocks.*:x")


def test_what_layers_answer_is_kept_until_the_tap_is_closed() -> None:
    module, given = Tower(2), torch.randn(5, 4)
    tap = Tap(module, ["blocks.0", "blocks.0:1", "head"])
    answer = module(given)
    assert torch.equal(tap.found["head"], answer)
    assert torch.equal(tap.found["blocks.0:1"], given.softmax(-1))
    assert torch.equal(tap.found["blocks.0"], module.blocks[0].linear(given))
    tap.close()
    module(torch.zeros(1, 4))
    assert torch.equal(tap.found["head"], answer)


def test_shapes_are_told_and_what_has_none_is_refused() -> None:
    module = Tower(1).train()
    assert shapes_of(module, ["blocks.0:1", ""], torch.zeros(1, 4)) == {"blocks.0:1": (4,), "": (3,)}
    assert module.training
    with pytest.raises(ConfigError, match="the layer 'unused' answers nothing"):
        shapes_of(module, ["unused"], torch.zeros(1, 4))
    with pytest.raises(ConfigError, match="the layer 'blocks.0:2' returns 2 values"):
        shapes_of(module, ["blocks.0:2"], torch.zeros(1, 4))
    with pytest.raises(ConfigError, match="the layer 'head:1' returns one Tensor"):
        shapes_of(module, ["head:1"], torch.zeros(1, 4))


def test_weights_are_copied_by_a_map_and_only_where_shapes_are_equal() -> None:
    teacher, student = Tower(4), Tower(2)
    assert copy_layers(teacher, student, [LayerMap(teacher="blocks.*", student="blocks.*")]) == 4
    assert torch.equal(student.blocks[0].linear.weight, teacher.blocks[1].linear.weight)
    assert torch.equal(student.blocks[1].linear.weight, teacher.blocks[3].linear.weight)
    assert not torch.equal(student.head.weight, teacher.head.weight)
    with pytest.raises(ConfigError, match=r"blocks.0.linear.weight of the student is \(6, 6\), in the teacher's"):
        copy_layers(teacher, Tower(1, 6), [LayerMap(teacher="blocks.*", student="blocks.*")])
