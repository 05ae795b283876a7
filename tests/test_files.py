"""Reading and writing nouns: strict, stable, whole or not at all."""

import doctest
import errno
import importlib
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.errors import ConfigError, StorageError
from edgekd.files import (
    LARGEST_TEXT,
    decode,
    decode_json,
    digest,
    dumps,
    file_digest,
    load_toml,
    read_text,
    replacing,
    storage_errors,
    write_text,
)
from edgekd.runs import Run, Work
from edgekd.shipped import RECIPES, TARGETS
from edgekd.specs import Budget, Choice, Recipe, Spec, Target
from tests import strategies

RECIPE = (RECIPES / "digits.toml").read_text(encoding="utf-8")
TARGET = (TARGETS / "raspberry-pi-4.toml").read_text(encoding="utf-8")


# --- values and their text


@pytest.mark.parametrize("kind", strategies.kinds(), ids=lambda kind: kind.__name__)
def test_a_noun_comes_back_from_its_text(kind: type[Spec]) -> None:
    @settings(max_examples=15)
    @given(strategies.nouns(kind))
    def check(made: Spec) -> None:
        text = dumps(made)
        again = decode_json(kind, text, "file")
        assert again == made
        assert dumps(again) == text
        assert digest(again) == digest(made)

    check()


@given(st.dictionaries(strategies.TEXT, strategies.PLAIN, max_size=5), st.randoms())
@settings(max_examples=50)
def test_the_order_in_which_options_are_given_does_not_matter(options: dict[str, Any], random: Any) -> None:
    items = list(options.items())
    random.shuffle(items)
    assert dumps(Choice(name="a", options=dict(items))) == dumps(Choice(name="a", options=options))


def test_the_text_is_the_same_in_every_version() -> None:
    made = Choice(name="é", options={"b": [1, 2.0, True, None], "a": {}})
    text = '{\n "name": "é",\n "options": {\n  "a": {},\n  "b": [\n   1,\n   2.0,\n   true,\n   null\n  ]\n }\n}'
    assert dumps(made) == text
    assert digest(made) == "b218ed052786c67f77ab9741a779b3a95270d4c29fb6a12074dd77146fd707bd"


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_numbers_that_json_has_not_are_not_written(number: float) -> None:
    with pytest.raises(ConfigError, match="cannot be written as JSON"):
        dumps({"a": [number]})


def test_text_that_is_no_unicode_is_not_written() -> None:
    with pytest.raises(ConfigError, match="cannot be written as JSON"):
        digest(Choice(name="folder-\udce9"))  # a file name in Latin-1, as Python reads it on Linux


# --- what is wrong with a file is said by place


def edited(text: str, path: tuple[Any, ...], value: Any = None) -> dict[str, Any]:
    """The TOML text as plain data, with the value at a path set, or taken away where it is None."""
    plain: Any = tomllib.loads(text)
    inner = plain
    for part in path[:-1]:
        inner = inner[part]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return plain  # type: ignore[no-any-return]  # TOML is a table on top


UNKNOWN: list[tuple[type[Spec], tuple[Any, ...], str, str]] = [
    (Recipe, ("prefere",), "unknown key 'prefere'", "did you mean 'prefer'?"),
    (Recipe, ("dataset", "option"), "dataset: unknown key 'option'", "did you mean 'options'?"),
    (Recipe, ("teacher", "training", "epoch"), "teacher.training: unknown key 'epoch'", "did you mean 'epochs'?"),
    (Recipe, ("student", "spaces"), "student: unknown key 'spaces'", "did you mean 'space'?"),
    (Recipe, ("views", "rotate"), "views: unknown key 'rotate'", "did you mean 'rotate_degrees'?"),
    (Recipe, ("losses", 0, "wieght"), "losses[0]: unknown key 'wieght'", "did you mean 'weight'?"),
    (Recipe, ("views", "qqq"), "views: unknown key 'qqq'", "known keys: brightness, count, elastic, flip, "),
    (Target, ("buget",), "unknown key 'buget'", "did you mean 'budget'?"),
    (Target, ("budget", "latency"), "budget: unknown key 'latency'", "did you mean 'latency_ms'?"),
    (Target, ("device", "ram"), "device: unknown key 'ram'", "known keys: "),
    (Target, ("device", "clusters", 0, "cores"), "device.clusters[0]: unknown key 'cores'", "did you mean 'core'?"),
]


@pytest.mark.parametrize(("kind", "path", "message", "hint"), UNKNOWN, ids=[case[2] for case in UNKNOWN])
def test_an_unknown_key_is_named_with_the_likely_one(
    kind: type[Spec], path: tuple[Any, ...], message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as error:
        decode(kind, edited(RECIPE if kind is Recipe else TARGET, path, 1), "mine.toml")
    assert str(error.value) == f"mine.toml: {message}"
    assert error.value.hint.startswith(hint)


def test_an_unknown_key_below_an_optional_noun_has_its_likely_one() -> None:
    with pytest.raises(ConfigError, match=re.escape("teacher.views: unknown key 'flp'")) as error:
        decode(Recipe, edited(RECIPE, ("teacher", "views"), {"flp": True}), "mine.toml")
    assert error.value.hint == "did you mean 'flip'?"


WRONG: list[tuple[type[Spec], tuple[Any, ...], Any, str]] = [
    (Recipe, ("name",), 7, "name: expected 'str', got 'int'"),
    (Recipe, ("seed",), "0", "seed: expected 'int', got 'str'"),
    (Recipe, ("seed",), 0.5, "seed: expected 'int', got 'float'"),
    (Recipe, ("seed",), -1, "seed: expected 'int' >= 0"),
    (Recipe, ("prefer",), "the best", "prefer: Invalid enum value 'the best'"),
    (Recipe, ("losses",), [], "losses: expected 'array' of length >= 1"),
    (Recipe, ("losses",), "labels", "losses: expected 'array', got 'str'"),
    (Recipe, ("views", "flip"), 1, "views.flip: expected 'bool', got 'int'"),
    (Recipe, ("student", "space", "width"), 0.5, "student.space[...]: expected 'array', got 'float'"),
    (Target, ("device",), [], "device: expected 'object', got 'array'"),
    (Target, ("device", "clusters"), [], "device.clusters: expected 'array' of length >= 1"),
    (Target, ("device", "ram_bytes"), True, "device.ram_bytes: expected 'int', got 'bool'"),
    (Target, ("budget", "latency_ms"), "33", "budget.latency_ms: expected 'float', got 'str'"),
    (Target, ("exports", 0), "../int8", "exports[0]: expected 'str' matching regex"),
    (Target, ("schema",), 0, "schema: Invalid enum value 0"),
]


@pytest.mark.parametrize(("kind", "path", "value", "message"), WRONG, ids=[case[3] for case in WRONG])
def test_a_wrong_value_is_named_by_its_place(kind: type[Spec], path: tuple[Any, ...], value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"mine.toml: {message}")):
        decode(kind, edited(RECIPE if kind is Recipe else TARGET, path, value), "mine.toml")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("dataset",), "missing key 'dataset'"),
        (("teacher", "training", "epochs"), "teacher.training: missing key 'epochs'"),
        (("losses", 1, "name"), "losses[1]: missing key 'name'"),
    ],
)
def test_a_missing_key_is_named(path: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"mine.toml: {message}")):
        decode(Recipe, edited(RECIPE, path), "mine.toml")


@pytest.mark.parametrize("schema", ["2", "0x" + "f" * 5000])
def test_a_newer_schema_asks_for_an_upgrade(schema: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TARGET.replace("schema = 1", f"schema = {schema}"), encoding="utf-8")
    with pytest.raises(ConfigError, match="is newer than this edgekd knows") as error:
        load_toml(Target, path)
    assert error.value.hint == "upgrade edgekd"


UNREADABLE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "missing key 'schema'"),
    "not TOML": (b"[", "not TOML: "),
    "Latin-1": ('title = "é"'.encode("latin-1"), "not UTF-8 text"),
    "binary": (bytes(range(256)), "not UTF-8 text"),
    "lists in lists": (b"a = " + b"[" * 100_000, "nested too deep"),
    "tables in tables": (b"a = " + b"{b=" * 100_000, "nested too deep"),
    "a number of 5000 digits": (b"seed = " + b"9" * 5000, "not TOML: "),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_that_is_no_recipe_is_refused(case: str, tmp_path: Path) -> None:
    content, message = UNREADABLE[case]
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: {message}")):
        load_toml(Recipe, path)


def test_a_small_file_does_not_take_all_memory(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("a" + ".a" * 40_000 + " = 1", encoding="utf-8")  # tomllib keeps every beginning of a dotted key
    script = (
        "import pathlib, resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))\n"
        "from edgekd.files import load_toml; from edgekd.specs import Target; from edgekd.errors import ConfigError\n"
        "try: load_toml(Target, pathlib.Path(sys.argv[1]))\n"
        "except ConfigError: print('refused')"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert ended.stdout == "refused\n", ended.stderr[-300:]


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    with path.open("wb") as opened:
        opened.truncate(LARGEST_TEXT + 1)
    with pytest.raises(ConfigError, match=f"larger than {LARGEST_TEXT} bytes"):
        read_text(path)


@pytest.mark.parametrize("make", ["nothing", "folder", "pipe", "lost link", "looped link"])
def test_what_is_no_file_is_not_read(make: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    if make == "folder":
        path.mkdir()
    elif make == "pipe":
        os.mkfifo(path)
    elif make == "lost link":
        path.symlink_to(tmp_path / "lost")
    elif make == "looped link":
        path.symlink_to(path)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: no such file")):
        read_text(path)


@pytest.mark.parametrize("name", ["a" * 5000 + ".toml", "a\0b.toml", "\udcff.toml"])
def test_a_name_that_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        load_toml(Recipe, Path(name))


def test_text_that_is_no_json_is_refused() -> None:
    for text in ("", "{", "[" * 100_000, "1" * 5000, b"\xff"):
        with pytest.raises(ConfigError, match="result.json: "):
            decode_json(Budget, text, "result.json")


# --- writing: whole, or not at all


def test_a_file_is_replaced_when_the_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with replacing(path) as part:
        part.write_text("new", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(KeyError), replacing(path) as part:
        part.write_text("half", encoding="utf-8")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_killed_while_it_writes_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    script = (
        "import os, sys, pathlib; from edgekd.files import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as part:\n"
        "    part.write_text('ha'); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_text(encoding="utf-8") == "old"


# --- disks that refuse


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "no space left on the disk of out"),
        (errno.EDQUOT, "no space left on the disk of out"),
        (errno.EACCES, "cannot write out: Permission denied"),
        (errno.EPERM, "cannot write out: Operation not permitted"),
        (errno.EROFS, "cannot write out: Read-only file system"),
        (errno.ENOTDIR, "cannot write out: Not a directory"),
        (errno.ENAMETOOLONG, "cannot write out: File name too long"),
    ],
)
def test_refusals_to_write_become_storage_errors(number: int, message: str) -> None:
    with pytest.raises(StorageError, match=f"^{message}$"), storage_errors(Path("out")):
        raise OSError(number, "x")


def test_other_errors_of_the_system_pass() -> None:
    with pytest.raises(FileNotFoundError), storage_errors(Path("out")):
        Path("/nonexistent/file").read_text(encoding="utf-8")


def test_the_device_that_is_always_full_is_full() -> None:
    with pytest.raises(StorageError, match="no space left") as error, storage_errors(Path("out")):
        Path("/dev/full").write_text("a", encoding="utf-8")
    assert error.value.hint == "free some space and run the same command again; it goes on from there"


class Filled(Spec, frozen=True, kw_only=True):
    """What the step below made."""

    size: int


def fill(work: Work, size: int) -> Filled:
    """A step that writes `size` bytes."""
    with replacing(work.out / "data") as part:
        part.write_bytes(b"\1" * size)
    return Filled(size=size)


def test_a_full_disk_is_said_and_the_step_goes_on_when_there_is_room(tiny_disk: Path) -> None:
    filler = tiny_disk / "filler"
    filler.write_bytes(b"\0" * 40_000)
    run = Run(tiny_disk / "run")
    with pytest.raises(StorageError, match="no space left on the disk of"):
        run.step("step", fill, 30_000)
    assert not list(tiny_disk.rglob("*.part")) and not list(tiny_disk.rglob("result.json"))
    filler.unlink()
    assert run.step("step", fill, 30_000) == Filled(size=30_000)


def test_a_disk_that_is_read_only_is_said(tiny_disk: Path) -> None:
    run = Run(tiny_disk / "run")
    write_text(tiny_disk / "old", "old")
    remount(tiny_disk, "ro")
    for attempt in (
        lambda: write_text(tiny_disk / "old", "new"),
        lambda: Run(tiny_disk / "other"),
        lambda: run.step("step", fill, 1),
        lambda: run.lock().__enter__(),
    ):
        with pytest.raises(StorageError, match="cannot write .*: Read-only file system") as error:
            attempt()
        assert error.value.hint == "choose another folder with -o"
    assert (tiny_disk / "old").read_text(encoding="utf-8") == "old"


def test_a_file_where_the_run_folder_should_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/run"):
        with pytest.raises(StorageError, match=re.escape(f"cannot write {folder}: ")):
            Run(folder)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Any:
    """A disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a tiny disk cannot be mounted here: {error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def test_a_hash_of_a_file_is_that_of_its_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_what_docstrings_show_is_true() -> None:
    names = ("edgekd.parity", "edgekd.convert", "edgekd.cli._common", "edgekd.converters._modules")
    results = [doctest.testmod(importlib.import_module(name)) for name in names]
    assert [result.failed for result in results] == [0] * len(names)
    assert sum(result.attempted for result in results) >= 3


def test_a_value_and_its_plain_form_have_one_text() -> None:
    choice = Choice(name="a", options={"b": 1})
    assert dumps(choice) == dumps(msgspec.to_builtins(choice))
