"""Arrays that grow shard by shard: what is whole stays, what is not is written again, and rows are read as they are."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekd.columns import MOST_SHARDS, Column, shards_of
from edgekd.errors import CorruptStep
from edgekd.rows import RESIDENT_BYTES, Rows

ROWS = 23
VALUES = np.arange(ROWS * 6, dtype=np.float16).reshape(ROWS, 2, 3)
SHARDS = shards_of(ROWS, at_least=5)
ALL = [0, 1, 2, 3, 4]


def column(folder: Path) -> Column:
    return Column(folder, "values", SHARDS)


def write(folder: Path, values: NDArray[np.float16] = VALUES) -> list[int]:
    """Write what is lacking, two rows at a time; the shards that were."""
    growing = column(folder)
    lacking = sorted(growing.lacks())
    for number in lacking:
        rows = SHARDS[number]
        for first in range(rows.start, rows.stop, 2):
            growing.write(first, values[first : min(first + 2, rows.stop)])
        growing.finish(number)
    if lacking:
        growing.seal()
    return lacking


def damage(path: Path, offset: int) -> None:
    path.chmod(0o644)
    with path.open("rb+") as opened:
        opened.seek(offset)
        byte = opened.read(1)
        opened.seek(offset)
        opened.write(bytes([byte[0] ^ 1]))


@given(st.integers(1, 10**7), st.integers(1, 300))
def test_shards_are_all_rows_in_order_and_not_too_many(rows: int, at_least: int) -> None:
    shards = shards_of(rows, at_least)
    assert shards[0].start == 0 and shards[-1].stop == rows and len(shards) <= MOST_SHARDS
    assert all(one.stop == other.start for one, other in zip(shards, shards[1:], strict=False))
    assert all(len(one) % at_least == 0 for one in shards[:-1])


def test_a_column_is_a_plain_array(tmp_path: Path) -> None:
    assert not column(tmp_path).intact() and write(tmp_path) == [0, 1, 2, 3, 4]
    assert column(tmp_path).intact() and not column(tmp_path).lacks()
    read = np.load(tmp_path / "values.npy")
    assert read.dtype == np.float16 and np.array_equal(read, VALUES)


def test_a_killed_writer_goes_on_after_its_last_whole_shard(tmp_path: Path) -> None:
    """In the middle of the third; and the line of the second was cut."""
    growing = column(tmp_path)
    for number in (0, 1):
        growing.write(SHARDS[number].start, VALUES[SHARDS[number].start : SHARDS[number].stop])
        growing.finish(number)
    growing.write(SHARDS[2].start, VALUES[10:12] + 1)
    sums = tmp_path / "values.sha256"
    sums.write_bytes(sums.read_bytes()[:-10])
    assert write(tmp_path) == [1, 2, 3, 4]
    assert column(tmp_path).intact() and np.array_equal(np.load(tmp_path / "values.npy"), VALUES)


@pytest.mark.parametrize("shard", range(len(SHARDS)))
def test_a_damaged_shard_is_written_again_it_alone(tmp_path: Path, shard: int) -> None:
    write(tmp_path)
    damage(tmp_path / "values.npy", 128 + SHARDS[shard].start * 12 + 7)
    assert not column(tmp_path).intact() and write(tmp_path) == [shard]
    assert column(tmp_path).intact() and np.array_equal(np.load(tmp_path / "values.npy"), VALUES)


@pytest.mark.parametrize(
    ("lost", "again"),
    [("end", [3, 4]), ("header", ALL), ("type", ALL), ("sums", ALL), ("everything", ALL)],
)
def test_what_is_lost_is_written_again(tmp_path: Path, lost: str, again: list[int]) -> None:
    write(tmp_path)
    path = tmp_path / "values.npy"
    path.chmod(0o644)
    if lost == "end":
        with path.open("rb+") as opened:
            opened.truncate(128 + 19 * 12)
    elif lost == "header":
        damage(path, 0)
    elif lost == "type":  # of the numbers, which are as many bytes as before
        path.write_bytes(path.read_bytes().replace(b"<f2", b"<i2"))
    elif lost == "sums":
        (tmp_path / "values.sha256").unlink()
    else:
        path.write_bytes(b"")
    assert not column(tmp_path).intact() and write(tmp_path) == again
    assert column(tmp_path).intact() and np.array_equal(np.load(path), VALUES)


@given(st.lists(st.integers(0, ROWS - 1), max_size=40))
def test_rows_are_those_of_the_array(tmp_path_factory: pytest.TempPathFactory, indices: list[int]) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.npy"
    if not path.exists():
        np.save(path, VALUES)
    rows, wanted = Rows(path), np.array(indices, np.int64)
    assert len(rows) == ROWS and rows.shape == VALUES.shape and rows.dtype == VALUES.dtype
    assert np.array_equal(rows[wanted], VALUES[wanted])


def test_rows_of_a_large_file_are_right_after_its_pages_were_given_back(tmp_path: Path) -> None:
    size = RESIDENT_BYTES // 2**20 + 1
    large = np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.float16, (size, 2**19))
    large[:, 0] = np.arange(size)
    large.flush()
    rows = Rows(tmp_path / "large.npy")
    for first in range(0, size - 2, 2):
        assert np.array_equal(rows[np.array([first, first + 2])][:, 0], [first, first + 2])


@pytest.mark.parametrize("content", [b"", b"not an array", b"\x93NUMPY\x01\x00"])
def test_what_is_no_array_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(CorruptStep, match=r"x\.npy"):
        Rows(tmp_path / "x.npy")


def test_a_part_that_is_lost_is_said(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", VALUES)
    with (tmp_path / "x.npy").open("rb+") as opened:
        opened.truncate(150)
    with pytest.raises(CorruptStep, match=r"x\.npy"):
        Rows(tmp_path / "x.npy")
