"""The command line: what it prints, where, and with which exit code."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekd import cli, engines, store
from edgekd.cli import EXIT_CODES, main
from edgekd.cli._tables import size
from edgekd.errors import EdgekdError, WorkerDied
from edgekd.files import write_text
from edgekd.plugins import names
from edgekd.runs import Run, Work
from edgekd.shipped import TARGETS, load_target, target_names
from edgekd.specs import Report
from tests.test_compare import summary

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def complaint(capsys: Output) -> list[str]:
    """The lines of standard error, where standard output is empty."""
    out, error = capsys.readouterr()
    assert out == ""
    return str(error).splitlines()


def printed(capsys: Output) -> Any:
    """Standard output as JSON, where standard error is empty."""
    out, error = capsys.readouterr()
    assert error == ""
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


# --- targets and recipes


def test_targets_are_listed(capsys: Output) -> None:
    assert main(["targets"]) == 0
    out, error = capsys.readouterr()
    assert error == "" and all(name in out for name in target_names())


def test_targets_as_json_are_whole(capsys: Output) -> None:
    assert main(["targets", "--json"]) == 0
    plain = printed(capsys)
    assert plain["schema"] == 1
    assert [target["name"] for target in plain["targets"]] == list(target_names())
    pi = next(target for target in plain["targets"] if target["name"] == "raspberry-pi-4")
    assert pi["budget"]["latency_ms"] == 33 and pi["device"]["clusters"][0]["core"] == "cortex-a72"
    assert set(pi["device"]["sources"]) >= {"soc", "clusters", "ram_bytes"}


def test_one_target_is_shown_whole(capsys: Output) -> None:
    assert main(["targets", "raspberry-pi-4"]) == 0
    out = capsys.readouterr().out
    target = load_target("raspberry-pi-4")
    assert target.title in out and "p90 33 ms" in out and "4 x cortex-a72" in out and "1800 MHz" in out
    assert all(source[:20] in out for source in target.device.sources.values())
    assert main(["targets", "raspberry-pi-4", "--json"]) == 0
    assert [one["name"] for one in printed(capsys)["targets"]] == ["raspberry-pi-4"]


def test_a_target_of_ones_own_is_shown(capsys: Output, tmp_path: Path) -> None:
    text = (TARGETS / "raspberry-pi-4.toml").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(re.sub("(?m)^(peak_memory|file)_bytes.*", "", text), encoding="utf-8")
    assert main(["targets", "mine.toml"]) == 0
    assert "memory no limit, file no limit" in capsys.readouterr().out
    assert main(["targets", "mine.toml", "--json"]) == 0
    assert set(printed(capsys)["targets"][0]["budget"]) == {"latency_ms", "accuracy_floor"}


def test_a_number_that_json_has_not_is_not_printed(capsys: Output, tmp_path: Path) -> None:
    text = (TARGETS / "raspberry-pi-4.toml").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(text.replace("clock_mhz = 1800", "clock_mhz = inf"), encoding="utf-8")
    assert main(["targets", "mine.toml", "--json"]) == 2
    assert complaint(capsys)


def test_recipes_are_listed(capsys: Output) -> None:
    assert main(["recipes", "--json"]) == 0
    plain = printed(capsys)
    digits = next(recipe for recipe in plain["recipes"] if recipe["name"] == "digits")
    assert plain["schema"] == 1
    assert set(digits) >= {"name", "title", "task", "dataset", "teacher", "student", "licence", "needs", "minutes"}
    assert digits["licence"] and digits["task"] == "classification"
    assert main(["recipes", "digits"]) == 0
    assert digits["title"] in capsys.readouterr().out


# --- engines


def test_engines_are_listed_with_what_is_missing(
    capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    assert main(["engines", "--json"]) == 0
    plain = printed(capsys)
    found = {engine["name"]: engine for engine in plain["engines"]}
    assert plain["schema"] == 1 and set(found) == set(names(engines))
    old = found["tflite_runtime"]
    assert not old["installed"] and old["version"] == old["problem"] == ""
    assert old["suffixes"] == [".tflite"] and "tflite-runtime==2.14.0" in old["environment"]
    assert old["install"] == "edgekd engines install tflite_runtime"
    assert found["litert"]["environment"] == [] and found["litert"]["install"] == "pip install 'edgekd[tflite]'"
    for engine in plain["engines"]:
        assert bool(engine["version"]) == engine["installed"], engine
    assert main(["engines"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "tflite_runtime" in line)
    assert row.split() == ["tflite_runtime", "not", "installed", ".tflite", *old["install"].split()]
    assert not (tmp_path / "cache").exists(), "nothing is made before somebody asks for it"


def test_an_engine_that_cannot_be_installed_says_why(
    capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert main(["engines", "install", "tflite_runtime"]) == 4
    lines = complaint(capsys)
    assert lines[0].startswith(
        "edgekd: the environment of tflite_runtime cannot be made: No matching distribution found"
    )
    assert lines[1].startswith("hint: what was printed is in ") and len(lines) == 2


# --- what cannot be accepted

WRONG: dict[str, tuple[list[str], int, str, str]] = {
    "a target": (["targets", "raspbery-pi-4"], 2, "no target named 'raspbery-pi-4'", "did you mean 'raspberry-pi-4'?"),
    "a recipe": (["recipes", "digit"], 2, "no recipe named 'digit'", "did you mean 'digits'?"),
    "a file": (["targets", "a/b.toml"], 2, "a/b.toml: no such file", ""),
    "a verb": (["runn"], 2, "No such command 'runn'.", "`edgekd --help` and"),
    "an option": (["targets", "--jsn"], 2, "No such option: --jsn", "`edgekd --help` and"),
    "an argument more": (["targets", "a", "b"], 2, "Got unexpected extra argument", "`edgekd --help` and"),
    "no target": (["run", "digits"], 2, "Missing option '--target' / '-t'.", "`edgekd --help` and"),
    "no recipe": (["run"], 2, "Missing argument '", "`edgekd --help` and"),
    "recipe of a run": (
        ["run", "digts", "-t", "raspberry-pi-4"],
        2,
        "no recipe named 'digts'",
        "did you mean 'digits'?",
    ),
    "target of a run": (["run", "digits", "-t", "zzz"], 2, "no target named 'zzz'", "shipped: "),
    "twice one target": (
        ["run", "digits", "-t", "raspberry-pi-4", "-t", "raspberry-pi-4"],
        2,
        "two targets have the same name",
        "give each its own `name`",
    ),
    "a step": (["run", "digits", "-t", "raspberry-pi-4", "--until", "x"], 2, "Invalid value for '--until'", "`edgekd"),
    "a mode": (["measure", "run", "--mode", "fast"], 2, "Invalid value for '--mode'", "`edgekd"),
    "a seed below": (["run", "zzz", "-t", "x", "--seed", "-1"], 2, "Invalid value for '--seed'", "`edgekd"),
    "a seed above": (["run", "zzz", "-t", "x", "--seed", "2147483648"], 2, "Invalid value for '--seed'", "`edgekd"),
    "no run": (["plan", "nowhere"], 2, "nowhere is not a run folder", "`edgekd run RECIPE --target T -o FOLDER` makes"),
    "a plan for nothing": (["plan", "digits"], 2, "no target", "name one with --target"),
    "an engine": (["engines", "install", "lightrt"], 4, "no engine named 'lightrt'", "did you mean 'litert'?"),
    "an engine's verb": (["engines", "remove", "litert"], 2, "Invalid value for ", "`edgekd --help` and"),
    "no engine": (["engines", "install"], 2, "install which engine?", "`edgekd engines` lists them"),
    "an engine beside us": (
        ["engines", "install", "litert"],
        2,
        "litert has no environment of its own",
        "pip install 'edgekd[tflite]'",
    ),
    "no report": (["compare", "a", "b"], 2, "a has no report", "edgekd report a"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_accepted_is_said_in_one_line(case: str, capsys: Output, tmp_path: Path) -> None:
    arguments, code, message, hint = WRONG[case]
    assert main(arguments) == code
    lines = complaint(capsys)
    assert lines[0].startswith(f"edgekd: {message}")
    assert "".join(lines[1:]).removeprefix("hint: ").startswith(hint) and len(lines) == 1 + bool(hint)
    assert list(tmp_path.iterdir()) == []  # and nothing was begun


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\nb\rc", "a\x00b", "\x9b31m", "\u202etxt", "\udcff"])
def test_a_name_does_not_command_the_terminal(name: str, capsys: Output) -> None:
    for arguments in (
        ["targets", name],
        ["targets", f"{name}.toml"],
        ["run", name, "-t", "x"],
        ["report", name],
        [name],
    ):
        assert main(arguments) == 2
        for line in complaint(capsys):
            assert line.isprintable()


def test_without_a_verb_the_help_is_shown(capsys: Output) -> None:
    main([])
    out, error = capsys.readouterr()
    assert "Commands:\n" in out + error and len((out + error).splitlines()) > 15
    assert "edgekd: Usage" not in error


def test_help_names_every_verb_and_exit_code(capsys: Output) -> None:
    assert main(["--help"]) == 0
    out, error = capsys.readouterr()
    assert error == ""
    verbs = ["run", "teach", "plan", "distil", "export", "verify", "measure", "report", "compare", "targets", "recipes"]
    positions = [re.search(rf"(?m)^  {verb} ", out) for verb in [*verbs, "engines", "doctor"]]
    assert all(positions) and [found.start() for found in positions if found] == sorted(
        found.start() for found in positions if found
    )
    assert " ".join(EXIT_CODES.split()) in " ".join(out.split())


# --- errors of any kind


@pytest.mark.parametrize("kind", EdgekdError.__subclasses__() + [EdgekdError], ids=lambda kind: kind.__name__)
def test_an_error_ends_with_its_exit_code(
    kind: type[EdgekdError], capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "app", _raising(kind("what\nhappened \x1b[2J", hint="do\nthis")))
    assert main([]) == kind.exit_code
    assert complaint(capsys) == ["edgekd: what happened ?[2J", "hint: do this"]


def _raising(error: BaseException) -> Callable[..., Any]:
    def app(*arguments: Any, **options: Any) -> Any:
        raise error

    return app


def test_without_a_hint_there_is_one_line(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "app", _raising(WorkerDied("it hung")))
    assert main([]) == 12
    assert complaint(capsys) == ["edgekd: it hung"]


def test_an_interruption_ends_with_130(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "app", _raising(KeyboardInterrupt()))
    assert main([]) == 130
    assert complaint(capsys) == ["edgekd: interrupted", "hint: run the same command again; it goes on from there"]


def test_a_bug_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "app", _raising(ZeroDivisionError("bug")))
    with pytest.raises(ZeroDivisionError):
        main([])


def test_a_reader_that_leaves_is_no_error() -> None:
    """`edgekd targets --json | head -1`."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "edgekd", "targets", "--json"]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, "")


# --- the other verbs


def test_doctor_says_what_is_there(capsys: Output) -> None:
    assert main(["doctor", "--json"]) == 0
    checks = printed(capsys)["checks"]
    found = {check["what"]: check for check in checks}
    assert found["Python 3.11 or newer"]["ok"]
    assert {"disk", "memory", "cores", "extra train", "extra tflite", "extra onnx"} <= set(found)
    assert all(set(check) >= {"what", "ok", "found", "mend"} for check in checks)
    assert main(["doctor"]) == 0
    assert "extra train" in capsys.readouterr().out


def test_cache_lists_and_clears_what_no_process_holds(capsys: Output) -> None:
    for key, what in (("a" * 64, "one of pictures"), ("b" * 64, "[bold]two")):
        with store.entry(key, "teacher", what) as folder:
            (folder / "weights").write_bytes(bytes(10_000))
    assert main(["cache"]) == 0
    shown = capsys.readouterr().out
    assert "one of pictures" in shown and "[bold]two" in shown and "2 kept" in shown
    assert main(["cache", "list", "--json"]) == 0
    found = printed(capsys)
    assert found["folder"] == str(store.root()) and found["bytes"] >= 20_000 and found["budget_bytes"] == 20_000_000_000
    assert [one["key"][0] for one in found["entries"]] == ["a", "b"]
    with store.entry("b" * 64, "teacher", "held"):
        assert main(["cache", "clear", "--json"]) == 0
    cleared = printed(capsys)
    assert cleared["removed"] == cleared["count"] == 1 and cleared["removed_bytes"] >= 10_000
    assert main(["cache", "clear"]) == 0
    assert "removed 1" in capsys.readouterr().out
    assert main(["cache", "size", "--json"]) == 0
    assert printed(capsys)["bytes"] == 0


OF_EXTRAS = ("torch", "safetensors", "PIL", "onnx", "onnxruntime", "jinja2", "altair", "mlxtend", "ai_edge_litert")


def test_doctor_works_where_nothing_is_installed() -> None:
    """The base install has no extra: whatever is of one cannot be imported."""
    script = (
        f"import sys; sys.modules |= dict.fromkeys({OF_EXTRAS})\n"
        "from edgekd.cli import main; sys.exit(main(['doctor', '--json']))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["checks"]


def report(work: Work, target: str, plain: dict[str, Any]) -> Report:
    for name in ("report.json", "report.html"):
        write_text(work.out / name, json.dumps(plain))
    files = {kind: work.keep(work.out / f"report.{kind}") for kind in ("html", "json")}
    return Report(target=target, artifact="tflite-int8", verdicts=(), findings=(), **files)


def a_run(folder: Path, *summaries: dict[str, Any]) -> str:
    """A run folder whose only finished steps are reports."""
    run = Run(folder)
    for plain in summaries:
        run.step(f"{plain['target']}/6-report", report, plain["target"], plain)
    return str(folder)


def test_two_runs_are_compared(capsys: Output, tmp_path: Path) -> None:
    one = a_run(tmp_path / "one", summary("pi"), summary("tv"))
    other = a_run(tmp_path / "other", summary("pi", 3.0), summary("phone"))
    assert main(["compare", one, other, "--json"]) == 0
    plain = printed(capsys)
    assert plain["schema"] == 1
    assert {difference["target"] for difference in plain["differences"]} == {"pi"}
    assert main(["compare", one, other]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "p90" in line)
    assert row.split() == ["pi", "tflite-int8", "p90", "ms", "on", "host", "2", "3", "+1", "host"]


def test_runs_of_two_machines_have_no_difference_shown(capsys: Output, tmp_path: Path) -> None:
    elsewhere = summary("pi", 3.0)
    elsewhere["measurements"][0]["machine"]["cpu"] = "Another CPU"
    assert main(["compare", a_run(tmp_path / "one", summary("pi")), a_run(tmp_path / "other", elsewhere)]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "p90" in line)
    assert "+1" not in row and "other machine or provenance: not comparable" in row


def test_runs_without_a_target_in_common_are_not_compared(capsys: Output, tmp_path: Path) -> None:
    one, other = a_run(tmp_path / "one", summary("pi")), a_run(tmp_path / "other", summary("tv"))
    assert main(["compare", one, other]) == 2
    assert complaint(capsys) == [f"edgekd: {one} and {other} have no target in common"]


def test_a_report_that_was_changed_is_not_compared(capsys: Output, tmp_path: Path) -> None:
    one = a_run(tmp_path / "one", summary("pi"))
    path = tmp_path / "one/pi/6-report/report.json"
    path.write_text(path.read_text(encoding="utf-8").replace("0.98", "0.99"), encoding="utf-8")
    assert main(["compare", one, one]) == 6
    lines = complaint(capsys)
    assert lines == [
        f"edgekd: {path} was changed since it was made",
        f"hint: delete {path.parent} to redo the step",
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (8_388_608, "8.39 MB"), (4e9, "4 GB"), (float("inf"), "no limit")],
)
def test_sizes_are_for_people(count: float, text: str) -> None:
    assert size(count) == text
