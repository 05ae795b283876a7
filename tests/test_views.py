"""A view belongs to its example: the same picture for every batch, net, run and process."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgekd.specs import Preprocessing, Views
from edgekd.views import Viewer

ALL = Views(count=4, rotate_degrees=20, shift=0.1, scale=0.2, shear=0.1, elastic=0.1, flip=True, brightness=0.2)
ONE_BY_ONE: dict[str, Views] = {
    "rotate": Views(rotate_degrees=30),
    "shift": Views(shift=0.3),
    "scale": Views(scale=0.4),
    "shear": Views(shear=0.3),
    "elastic": Views(elastic=0.3),
    "flip": Views(flip=True),
    "brightness": Views(brightness=0.5),
    "all": ALL,
}
AS_PIXELS = Preprocessing(size=(24, 32), mean=(0.0,) * 3, std=(1.0,) * 3)


def noise(examples: int = 12, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (examples, 3, height, width), dtype=np.uint8)


def smooth(examples: int, height: int, width: int) -> NDArray[np.float32]:
    """A slope and a bump, which look the same at every resolution."""
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    picture = 60 + 100 * x + 60 * np.exp(-((x - 0.4) ** 2 + (y - 0.6) ** 2) / 0.1)
    return np.broadcast_to(picture, (examples, 3, height, width)).astype(np.float32)


def shown(viewer: Viewer, *indices: int, view: int | None = 0) -> Tensor:
    return viewer.batch(np.array(indices), view)


@pytest.mark.parametrize("case", ONE_BY_ONE)
def test_a_view_does_not_depend_on_the_batch(case: str) -> None:
    viewer = Viewer(noise(), AS_PIXELS, ONE_BY_ONE[case])
    together = shown(viewer, *range(12), view=1)
    for index in (0, 5, 11):
        assert torch.equal(shown(viewer, index, view=1)[0], together[index])
    assert torch.equal(shown(viewer, 7, 2, view=1), together[[7, 2]])


@pytest.mark.parametrize("views", [0, 1, 2])
def test_views_are_the_same_with_and_without_room_to_keep_them(views: int, monkeypatch: pytest.MonkeyPatch) -> None:
    keeping = Viewer(noise(height=40, width=50), AS_PIXELS, ALL)
    keeping.keep(views)  # above that, the examples at the net's size are kept
    first = shown(keeping, 3, 7)  # others are made later, and these not again
    found = [shown(keeping, *range(12), view=view) for view in (0, 1)]
    monkeypatch.setattr("edgekd.views.KEPT_BYTES", 0)
    monkeypatch.setattr("edgekd.views.SHRUNK_BYTES", 0)
    afresh = Viewer(noise(height=40, width=50), AS_PIXELS, ALL)
    afresh.keep(views)
    for view in (0, 1):
        assert torch.equal(found[view], shown(afresh, *range(12), view=view))
    assert torch.equal(first, found[0][[3, 7]])


def test_a_kept_view_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    viewer = Viewer(noise(), AS_PIXELS, ALL)
    viewer.keep(2)
    first = shown(viewer, *range(12), view=1)
    first.zero_()  # what is handed out is a copy
    monkeypatch.setattr(Viewer, "_seen", None)
    assert shown(viewer, 3, 1, view=1).abs().sum() > 0
    with pytest.raises(TypeError):
        shown(viewer, 3, view=0)


@pytest.mark.parametrize("case", ONE_BY_ONE)
def test_a_view_changes_its_example_and_stays_in_range(case: str) -> None:
    raw = noise()
    seen = shown(Viewer(raw, AS_PIXELS, ONE_BY_ONE[case]), *range(12))
    assert seen.shape == (12, 3, 24, 32) and seen.dtype == torch.float32
    assert seen.min() >= -1e-3 and seen.max() <= 255 + 1e-3
    changed = (seen - torch.from_numpy(raw).float()).abs().amax((1, 2, 3)) > 1
    assert changed.any()


@pytest.mark.parametrize("case", ["rotate", "shift", "scale", "shear", "elastic", "flip", "brightness"])
def test_a_net_of_another_resolution_sees_the_same_picture(case: str) -> None:
    raw = smooth(8, 64, 64)
    pictures = []
    for size in ((32, 32), (16, 16)):
        viewer = Viewer(raw, Preprocessing(size=size, mean=(0.0,) * 3, std=(1.0,) * 3), ONE_BY_ONE[case], seed=3)
        pictures.append(F.adaptive_avg_pool2d(shown(viewer, *range(8), view=2), (8, 8)))
    apart = (pictures[0] - pictures[1]).abs().mean((1, 2, 3))
    other = (pictures[0] - pictures[0].roll(1, 0)).abs().mean((1, 2, 3))
    assert apart.max() < 2.5
    assert other.max() > 3 * apart.max()  # while the examples' views differ from one another


def test_views_differ_by_number_seed_and_example_and_by_nothing_else() -> None:
    same = np.repeat(noise(1), 4, axis=0)

    def of(seed: int, view: int, index: int) -> Tensor:
        return shown(Viewer(same, AS_PIXELS, ALL, seed), index, view=view)

    one = of(0, 0, 0)
    assert torch.equal(one, of(0, 0, 0))
    for other in (of(1, 0, 0), of(0, 1, 0), of(0, 0, 1)):
        assert (one - other).abs().max() > 1


def test_a_view_is_the_same_in_every_version() -> None:
    """Knowledge is kept for good, so the numbers may not change with a version of edgekd or of PyTorch."""
    picture = smooth(3, 8, 8)
    seen = shown(Viewer(picture, Preprocessing(size=(2, 2), mean=(0.0,) * 3, std=(1.0,) * 3), ALL, seed=7), 2, view=3)
    expected = torch.tensor([[83.55, 113.98], [94.16, 116.98]])
    torch.testing.assert_close(seen[0, 0], expected, rtol=0, atol=0.05)


@pytest.mark.parametrize("size", [(24, 32), (12, 16), (17, 9), (48, 40)])
def test_views_without_options_are_a_plain_resize(size: tuple[int, int]) -> None:
    preprocessing = Preprocessing(size=size, mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 8.0))
    raw = noise()
    viewer = Viewer(raw, preprocessing, Views())
    plain = F.interpolate(
        torch.from_numpy(raw).float(), size=size, mode="bilinear", align_corners=False, antialias=True
    )
    expected = (plain - torch.tensor([10.0, 20.0, 30.0]).view(3, 1, 1)) / torch.tensor([2.0, 4.0, 8.0]).view(3, 1, 1)
    torch.testing.assert_close(shown(viewer, *range(12), view=0), expected, rtol=0, atol=2e-2)
    torch.testing.assert_close(shown(viewer, *range(12), view=None), expected, rtol=0, atol=1e-4)


def test_flip_mirrors_some_and_leaves_the_others() -> None:
    raw = torch.from_numpy(noise(40)).float()
    seen = shown(Viewer(raw.numpy(), AS_PIXELS, Views(flip=True)), *range(40))
    as_they_are = (seen - raw).abs().amax((1, 2, 3)) < 1e-2
    mirrored = (seen - raw.flip(3)).abs().amax((1, 2, 3)) < 1e-2
    assert (as_they_are ^ mirrored).all()
    assert 8 <= mirrored.sum() <= 32


def test_shift_moves_by_at_most_its_share() -> None:
    raw = np.zeros((50, 1, 40, 40), np.uint8)
    raw[:, :, 20, 20] = 255
    seen = shown(Viewer(raw, Preprocessing(size=(40, 40), mean=(0.0,), std=(1.0,)), Views(shift=0.1)), *range(50))
    at = seen[:, 0].flatten(1).argmax(1)
    moved = torch.stack([at // 40 - 20, at % 40 - 20])
    assert moved.abs().max() <= 4  # a tenth of 40 pixels
    assert moved.min() <= -3 and moved.max() >= 3


def test_whole_numbers_and_fractions_are_seen_alike() -> None:
    raw = noise()
    as_bytes = Viewer(raw, AS_PIXELS, ALL)
    as_floats = Viewer(raw.astype(np.float32), AS_PIXELS, ALL)
    assert torch.equal(shown(as_bytes, 3, 4), shown(as_floats, 3, 4))


def test_examples_may_lie_on_disk(tmp_path: Path) -> None:
    raw = noise()
    np.save(tmp_path / "raw.npy", raw)
    mapped = Viewer(np.load(tmp_path / "raw.npy", mmap_mode="r"), AS_PIXELS, ALL)
    assert len(mapped) == 12
    for view in (None, 0):
        assert torch.equal(shown(mapped, 3, 1, view=view), shown(Viewer(raw, AS_PIXELS, ALL), 3, 1, view=view))


def test_what_is_no_picture_is_shown_as_it_is() -> None:
    numbers = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    viewer = Viewer(numbers, None, ALL)
    for view in (None, 0, 3):
        assert torch.equal(shown(viewer, 4, 0, view=view), torch.from_numpy(numbers[[4, 0]]))
