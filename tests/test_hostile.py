"""Files that somebody broke or made to break us: each is read, or refused in one line; nothing is executed."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekd.cli import main
from edgekd.errors import CorruptStep, EdgekdError
from edgekd.files import digest
from edgekd.runs import Run, Work
from edgekd.shipped import RECIPES, TARGETS, load_recipe, load_target
from edgekd.specs import File, Plan, Recipe, Spec, Target

ODD_VALUES = (
    "nan", "-inf", "inf", "1e999", "-0.0", "true", "0", "-1", "2147483648", "9" * 5000, "0x" + "f" * 5000, "1979-05-27",
    "07:32:00", "[]", "{}", "[[]]", "[1, [2, {a = 1}]]", "[" * 3000, "{a = " * 3000, '""', "'x'", '"""\na\n"""',
    '"\\u0000"', '"\\u001b[2J"', '"\\ud800"', '"é\\u202e\\U0001F600"', '"../../etc/passwd"', '"/etc/passwd:f"',
    '"evil:boom"', '"evil.py:boom"', '"..:f"', '":"', '"a\\u0000b:f"',
    '"' + "a" * 300 + ':f"', '"' + "a/" * 3000 + ':f"',
    '"' + "x" * 5000 + '"', '"[/bold] [red]"', '"%s %n {0} ${HOME} $(touch x)"',
)  # fmt: skip
ODD_JSON: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 2**70, 10**400, -1e308, float("nan"), float("inf"), "", "\0", "\ud800", "../../secret",
    "/etc/passwd", "a" * 300, "a/" * 3000, "\x1b[2J", [], {}, [[[]]], {"path": "/etc/passwd"}, "9" * 5000,
)  # fmt: skip
PARTS = (
    "\0",
    "\ufeff",
    "\u202e",
    "é",
    "\r",
    "\x1b[31m",
    "]",
    "=",
    '"',
    "'''",
    "#",
    ".a" * 200,
    "[[",
    "\\",
    "\U0010ffff",
)


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The content with one to three random accidents."""
    for _ in range(chance.randint(1, 3)):
        content = chance.choice(ACCIDENTS)(content, chance)
    return content


def _at(content: bytes, chance: random.Random) -> int:
    return chance.randrange(len(content) + 1)


def _flip(content: bytes, chance: random.Random) -> bytes:
    at = _at(content, chance)
    return content[:at] + bytes(byte ^ 1 << chance.randrange(8) for byte in content[at : at + 1]) + content[at + 1 :]


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: _at(content, chance)]


def _delete(content: bytes, chance: random.Random) -> bytes:
    at = _at(content, chance)
    return content[:at] + content[at + chance.randint(1, 60) :]


def _double(content: bytes, chance: random.Random) -> bytes:
    at = _at(content, chance)
    return content[:at] + content[at : at + chance.randint(1, 200)] * chance.randint(2, 5) + content[at:]


def _insert(content: bytes, chance: random.Random) -> bytes:
    at = _at(content, chance)
    return content[:at] + chance.choice(PARTS).encode() + content[at:]


def _value(content: bytes, chance: random.Random) -> bytes:
    lines = content.split(b"\n")
    settings = [number for number, line in enumerate(lines) if b" = " in line or b'": ' in line]
    if settings:
        number = chance.choice(settings)
        key, sign, _ = re.split(rb"( = |: )", lines[number], maxsplit=1)
        lines[number] = key + sign + chance.choice(ODD_VALUES).encode()
    return b"\n".join(lines)


def _line(content: bytes, chance: random.Random) -> bytes:
    lines = content.split(b"\n")
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[chance.choice((one, other))]
    return b"\n".join(lines)


ACCIDENTS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip, _cut, _delete, _double, _insert, _value, _value, _value, _line
)  # fmt: skip


@pytest.fixture(autouse=True)
def _trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Code beside the files, which may be named but not executed, and a secret outside of them."""
    (tmp_path / "evil.py").write_text("open('executed', 'w').close()\ndef boom(): pass\n", encoding="utf-8")
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "executed").exists()


def survives(read: Callable[[], Any], kind: type[Spec]) -> bool:
    """Whether something was read; anything but a noun or an error of ours fails the test."""
    try:
        assert isinstance(read(), kind)
    except EdgekdError as error:
        assert str(error)
        return False
    return True


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    ("load", "kind", "file"),
    [
        (load_recipe, Recipe, RECIPES / "digits.toml"),
        (load_target, Target, TARGETS / "raspberry-pi-4.toml"),
    ],
    ids=["recipe", "target"],
)
def test_a_broken_file_is_read_or_refused(
    load: Callable[[Path], Spec], kind: type[Spec], file: Path, seed: int, tmp_path: Path
) -> None:
    chance, path = random.Random(seed), tmp_path / "mine.toml"
    read = 0
    for _ in range(50):
        path.write_bytes(mutated(file.read_bytes(), chance))
        read += survives(lambda: load(path), kind)
    assert 0 < read < 50


@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: value[:12])
def test_every_odd_value_in_every_place_is_read_or_refused(value: str, tmp_path: Path) -> None:
    for load, kind, file in (
        (load_recipe, Recipe, RECIPES / "digits.toml"),
        (load_target, Target, TARGETS / "raspberry-pi-4.toml"),
    ):
        lines = file.read_text(encoding="utf-8").splitlines()
        path = tmp_path / "mine.toml"
        for number, line in enumerate(lines):
            key, sign, _ = line.partition(" = ")
            if sign and not line.startswith("#"):
                path.write_text(
                    "\n".join([*lines[:number], key + sign + value, *lines[number + 1 :]]), encoding="utf-8"
                )
                survives(lambda path=path, load=load: load(path), kind)  # type: ignore[misc]  # mypy and defaults


# --- results


class Outcome(Spec, frozen=True, kw_only=True):
    """A result with something of everything."""

    plan: Plan
    files: tuple[File, ...]


def make(work: Work, plan: Plan) -> Outcome:
    for name in ("a.bin", "b.bin"):
        (work.out / name).write_bytes(name.encode() * 100)
    return Outcome(plan=plan, files=tuple(work.keep(work.out / name) for name in ("a.bin", "b.bin")))


PLAN: dict[str, Any] = {
    "target": "pi",
    "export": "tflite-int8",
    "student": {"name": "mobile", "options": {"width": 0.5, "é": [1, {"a": True}]}},
    "predicted": {
        "latency_ms": {"value": 2.0, "low": 1.0, "high": 4.5},
        "peak_memory_bytes": 10, "file_bytes": 20, "macs": 30, "parameters": 40, "tier": "spec sheet only",
    },
    "considered": 3, "fitting": 2, "front": [], "reason": "the most capable of the front",
}  # fmt: skip


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Run, Outcome]:
    from edgekd.files import decode

    run = Run(tmp_path / "run")
    return run, run.step("step", make, decode(Plan, PLAN, ""))


@pytest.mark.parametrize("seed", range(10))
def test_a_broken_result_is_what_it_was_or_refused(seed: int, finished: tuple[Run, Outcome]) -> None:
    run, made = finished
    chance, path = random.Random(seed), run.folder / "step/result.json"
    whole = path.read_bytes()
    refused = 0
    for _ in range(50):
        path.write_bytes(mutated(whole, chance))
        try:
            assert run.result("step", Outcome) == made
        except CorruptStep as error:
            assert error.hint == f"delete {run.folder / 'step'} to redo the step"
            refused += 1
    assert refused > 40


def test_a_result_with_a_forged_seal_is_read_or_refused(finished: tuple[Run, Outcome]) -> None:
    run, _ = finished
    path = run.folder / "step/result.json"
    whole = path.read_text(encoding="utf-8")
    for place in _places(json.loads(whole)["result"]):
        for odd in ODD_JSON:
            record = json.loads(whole)
            inner = record["result"]
            for part in place[:-1]:
                inner = inner[part]
            inner[place[-1]] = odd
            try:
                record["seal"] = digest([record["key"], record["result"]])
            except (EdgekdError, ValueError):  # what our own text has no word for
                continue
            path.write_text(json.dumps(record), encoding="utf-8")
            try:
                found = run.result("step", Outcome)
            except CorruptStep:
                continue
            assert all((run.folder / file.path).resolve().is_relative_to(run.folder) for file in found.files)


def _places(plain: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    return [place for key, value in items for place in [(*above, key), *_places(value, (*above, key))]]


# --- through the command line

BY_COMMAND: dict[str, tuple[list[str], bytes, int, str]] = {
    "no TOML": (["targets", "mine.toml"], b"[[[", 2, "mine.toml: not TOML: "),
    "no text": (["targets", "mine.toml"], b"\xff\xfe", 2, "mine.toml: not UTF-8 text"),
    "deep": (["recipes", "mine.toml"], b"a = " + b"[" * 100_000, 2, "mine.toml: nested too deeply"),
    "a long number": (["recipes", "mine.toml"], b"seed = " + b"9" * 5000, 2, "mine.toml: not TOML: "),
    "an unknown key": (["recipes", "mine.toml"], b"shema = 1\n", 2, "mine.toml: unknown key 'shema'"),
    "lines in a key": (["recipes", "mine.toml"], b'"a\\nb\\u001b[2J" = 1\n', 2, "mine.toml: unknown key"),
    "a run of it": (["run", "mine.toml", "-t", "raspberry-pi-4"], b"schema = 9\n", 2, "mine.toml: schema 9 is newer"),
    "a target of it": (["run", "digits", "-t", "mine.toml"], b"name = 1\n", 2, "mine.toml: "),
    "no run folder": (["report", "nowhere"], b"", 2, "nowhere is not a run folder"),
    "a file for a run folder": (["report", "mine.toml"], b"", 2, "mine.toml is not a run folder"),
}


@pytest.mark.parametrize("case", BY_COMMAND)
def test_the_command_line_says_it_in_one_line(case: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments, content, code, message = BY_COMMAND[case]
    (tmp_path / "mine.toml").write_bytes(content)
    assert main(arguments) == code
    one_line(capsys, message)


def one_line(capsys: pytest.CaptureFixture[str], message: str) -> None:
    """One line of error with the message in it, at most one of hint, and nothing that a terminal obeys."""
    out, error = capsys.readouterr()
    lines = error.splitlines()
    assert out == "" and 1 <= len(lines) <= 2
    assert lines[0].startswith(f"edgekd: {message}")
    assert all(line.startswith("hint: ") for line in lines[1:])
    assert "Traceback" not in error and error.replace("\n", "").isprintable()


BROKEN_INPUTS: dict[str, tuple[str, int]] = {
    "{": ("run/inputs/recipe.json: not JSON: ", 2),
    "[]": ("run/inputs/recipe.json: expected 'object', got 'array'", 2),
    "[" * 100_000: ("run/inputs/recipe.json: not JSON: ", 2),
    '{"schema": 1, "name": "a\\n"}': ("run/inputs/recipe.json: ", 2),
    "9" * 5000: ("run/inputs/recipe.json: not JSON: ", 2),
}


@pytest.mark.parametrize("content", BROKEN_INPUTS, ids=lambda content: content[:12])
def test_a_run_folder_with_broken_inputs_is_refused(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message, code = BROKEN_INPUTS[content]
    (tmp_path / "run/inputs").mkdir(parents=True)
    (tmp_path / "run/inputs/recipe.json").write_text(content, encoding="utf-8")
    assert main(["report", "run"]) == code
    one_line(capsys, message)


TITLES = ("x [/bold] y", "x [/] y", "[red", "\\u001b]0;owned\\u0007", "\\u009b31m", "\\u202e\\u0000", "a\\nb\\r")


@pytest.mark.parametrize("title", TITLES)
@pytest.mark.parametrize("verb", ["targets", "recipes"])
def test_what_a_file_says_is_shown_and_not_obeyed(
    verb: str, title: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = TARGETS / "raspberry-pi-4.toml" if verb == "targets" else RECIPES / "digits.toml"
    text = re.sub(r"(?m)^title = .*$", lambda _: f'title = "{title}"', file.read_text(encoding="utf-8"))
    text = re.sub(r"(?m)^isa = \"armv8.*$", lambda _: f'isa = "{title}"', text)
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    assert main([verb, "mine.toml"]) == 0
    out, error = capsys.readouterr()
    assert error == ""
    assert all(character.isprintable() or character == "\n" for character in out)
    if "\\" not in title:
        assert title in out


def test_showing_a_recipe_executes_nothing_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (RECIPES / "digits.toml").read_text(encoding="utf-8").replace('"mnist_5k"', '"evil:boom"')
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    assert main(["recipes", "mine.toml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipes"][0]["dataset"].endswith("evil.py:boom")
