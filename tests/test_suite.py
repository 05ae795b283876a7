"""Suites: what is measured, gone on with, and held against what was before."""

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest

from edgekd import standings
from edgekd.bench import Bench
from edgekd.cli import main
from edgekd.errors import ConfigError, PluginUnavailable
from edgekd.fetch import fetch
from edgekd.files import load_toml, write_text
from edgekd.measure import Job, statistics
from edgekd.shipped import suite_file, suite_names
from edgekd.specs import Counted, Interval, Machine, Measurement, Memory
from edgekd.suite import Results, Row, Suite, load_results, run_suite
from tests import models

CPU = Machine(system="Linux", cpu="cpu", cores=2, memory_bytes=1, python="3.11")


@pytest.mark.parametrize("name", suite_names())
def test_shipped_suites_are_valid_and_say_where_their_files_are_from(name: str) -> None:
    suite = load_toml(Suite, suite_file(name))
    assert suite.name == name
    for entry in suite.models:
        assert not entry.url or (entry.url.startswith("https://") and entry.licence and entry.source)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('name = "a"', "either a 'file', or a 'model'"),
        ('name = "a"\nfile = "x.onnx"\nmodel = "m:f"', "either a 'file', or a 'model'"),
        ('name = "a"\nfile = "x.onnx"\nurl = "https://x"', "needs the 'sha256'"),
        ('name = "a"\nmodel = "m:f"', "needs 'exports'"),
        ('name = "a"\nfile = "x"\n[[models]]\nname = "a"\nfile = "y"', "two models have one name"),
    ],
)
def test_a_suite_that_means_nothing_is_refused(entry: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    path.write_text(f'schema = 1\nname = "odd"\ntitle = "Odd"\n[[models]]\n{entry}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_toml(Suite, path)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A suite of two files, one of which no runtime takes."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    models.MAKERS["onnx"](tmp_path / "small.onnx")
    unheard = onnx.load(tmp_path / "small.onnx")
    unheard.graph.node[0].op_type = "Unheard"
    onnx.save(unheard, tmp_path / "unheard.onnx")
    path = tmp_path / "own.toml"
    entries = "".join(f'[[models]]\nname = "{name}"\nfile = "{name}.onnx"\n' for name in ("small", "unheard", "lost"))
    path.write_text(f'schema = 1\nname = "own"\ntitle = "Own"\nmode = "rapid"\n{entries}', encoding="utf-8")
    return path


def test_what_fails_does_not_stop_the_rest_and_what_is_done_is_not_done_again(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    written = [f"--{kind}={tmp_path / kind}" for kind in ("markdown", "html", "junit")]
    assert main(["suite", str(own), "-o", str(out), "--json", *written]) == 9
    found = json.loads(capsys.readouterr().out)
    small, unheard, lost = found["rows"]
    assert small["measurement"]["latency_ms"]["p50"] > 0 and small["sha256"]
    assert "Unheard" in unheard["error"] and "lost.onnx is not there" in lost["error"]
    assert load_results(out) == msgspec.convert(found, Results)
    cases = ElementTree.parse(tmp_path / "junit").getroot()
    assert cases.attrib["failures"] == "2" and len(cases) == 3
    assert "| small |" in (tmp_path / "markdown").read_text(encoding="utf-8")
    assert "<td>small</td>" in (tmp_path / "html").read_text(encoding="utf-8")

    (tmp_path / "lost.onnx").write_bytes((tmp_path / "small.onnx").read_bytes())
    told: list[str] = []
    again = run_suite(load_toml(Suite, own), tmp_path, "host", out, told=lambda row: told.append(row.model))
    assert told == ["unheard", "lost"], "the first is kept as it is"
    assert again.rows[0] == msgspec.convert(small, Row) and again.rows[2].measurement is not None


NET = """
import torch
def net():
    return torch.nn.Linear(8, 4), torch.ones(1, 8)
"""


def test_what_is_measured_is_not_exported_again_and_what_nothing_executes_is_a_row(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    (tmp_path / "no.mlpackage").mkdir()
    path = tmp_path / "own.toml"
    path.write_text(
        'schema = 1\nname = "own"\ntitle = "Own"\nmode = "rapid"\n'
        '[[models]]\nname = "net"\nmodel = "net.py:net"\nexports = ["onnx-fp32", "onnx-int8"]\n'
        '[[models]]\nname = "package"\nfile = "no.mlpackage"\nengines = ["litert"]\n',
        encoding="utf-8",
    )
    suite, out = load_toml(Suite, path), tmp_path / "results.json"
    found = run_suite(suite, tmp_path, "host", out, told=lambda _: None)
    good, bad, nothing = found.rows
    assert good.measurement and "needs examples to calibrate with" in bad.error
    assert "no engine here executes it" in nothing.error
    (file,) = tmp_path.rglob("net-onnx-fp32.onnx")
    before = file.stat().st_mtime_ns
    again = run_suite(suite, tmp_path, "host", out, told=lambda _: None)
    assert again.rows[0] == good and file.stat().st_mtime_ns == before


def test_results_of_another_version_of_a_suite_are_kept_aside(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    suite = msgspec.structs.replace(load_toml(Suite, own), models=load_toml(Suite, own).models[2:])
    before = run_suite(suite, tmp_path, "host", out, told=lambda _: None)
    run_suite(msgspec.structs.replace(suite, rounds=2), tmp_path, "host", out, told=lambda _: None)
    aside = tmp_path / f"results-{before.started.replace(':', '')}.json"
    assert load_results(aside) == before
    with pytest.raises(ConfigError, match="is of own on host"):
        run_suite(suite, tmp_path, "ssh://x", out, told=lambda _: None)


def results(p50: float, seed: int = 0, **changes: Any) -> Results:
    samples = np.random.default_rng(seed).normal(p50, p50 / 50, 400)
    found = Measurement(
        artifact="a",
        engine="litert",
        engine_version="1",
        device="host",
        provenance="host",
        mode="rapid",
        threads=1,
        load_ms=1.0,
        first_ms=1.0,
        latency_ms=statistics(samples),
        samples_ms=tuple(samples.tolist()),
        memory=Memory(peak_rss_bytes=1, file_bytes=1),
        machine=CPU,
        outputs_sha256="",
        valid=True,
    )
    row = Row(model="a", export="", engine="litert", threads=1, measurement=msgspec.structs.replace(found, **changes))
    return Results(schema=1, suite="own", suite_sha256="", device="host", started="2026", edgekd="0", rows=(row,))


def test_a_difference_counts_beyond_chance_and_noise() -> None:
    def verdict(a: Results, b: Results) -> str:
        (change,) = standings.changes(a, b)
        assert change.low <= change.ratio <= change.high
        return change.verdict

    assert verdict(results(10), results(10, seed=1)) == "same"
    assert verdict(results(10), results(10.1, seed=1)) == "same", "within two percent"
    assert verdict(results(10), results(11, seed=1)) == "slower"
    assert verdict(results(10), results(9, seed=1)) == "faster"
    assert verdict(results(10), results(11, seed=1, noise=0.2)) == "same", "the machine differs by more from itself"
    assert verdict(results(10), results(11, provenance="measured")) == "not comparable"
    other = msgspec.structs.replace(CPU, cpu="another")
    assert verdict(results(10), results(11, machine=other)) == "not comparable"


def counted(total: float, device: str = "qemu:cortex-a72", **changes: Any) -> Results:
    found = Counted(
        artifact="a",
        engine="litert",
        engine_version="1",
        device=device,
        provenance="emulated",
        inferences=8,
        instructions={"total": total, "simd": total / 2},
        cache_misses={"L1": 1000.0},
        latency_ms=Interval(value=total / 1e6, low=total / 2e6, high=total / 5e5),
        latency_model="fitted on nothing",
        memory=Memory(peak_rss_bytes=1, file_bytes=1),
        host_sqnr_db=200.0,
        host_max_abs=0.0,
        outputs_sha256="",
    )
    row = Row(model="a", export="", engine="litert", threads=1, counted=msgspec.structs.replace(found, **changes))
    return Results(schema=1, suite="own", suite_sha256="", device=device, started="2026", edgekd="0", rows=(row,))


def test_counts_are_held_against_each_other_as_they_are() -> None:
    def verdict(a: Results, b: Results) -> str:
        (change,) = standings.changes(a, b)
        assert change.low == change.ratio == change.high
        return change.verdict

    million = 1_000_000.0
    assert verdict(counted(million), counted(million)) == "same"
    assert verdict(counted(million), counted(million + 1)) == "more"
    assert verdict(counted(million + 1), counted(million)) == "fewer"
    assert verdict(counted(million, spread=1e-3), counted(million + 1)) == "same", (
        "inferences of one run differ by more"
    )
    assert verdict(counted(million), counted(million + 1, device="qemu:cortex-a53")) == "not comparable"
    assert standings.changes(counted(million), results(10)) == ()
    assert standings.changes(counted(million), counted(million, instructions={})) == ()


def test_more_instructions_than_before_are_told_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths, junit = [tmp_path / "a.json", tmp_path / "b.json"], tmp_path / "junit.xml"
    for path, found in zip(paths, (counted(2e6), counted(2_010_000.0)), strict=True):
        write_text(path, msgspec.json.encode(found).decode())
    assert load_results(paths[0]) == counted(2e6) and load_results(paths[0]).ok
    assert main(["suite", "--compare", *map(str, paths), "--junit", str(junit)]) == 5
    assert "1.005000" in capsys.readouterr().out
    (case,) = ElementTree.parse(junit).getroot()
    assert case.get("time") == "0.002010" and "1.005000 times as many" in str(case[0].get("message"))
    assert main(["suite", "--compare", *map(str, paths[::-1]), "--json"]) == 0
    (change,) = json.loads(capsys.readouterr().out)["changes"]
    assert (change["a_instructions"], change["b_instructions"], change["verdict"]) == (2_010_000, 2e6, "fewer")
    for shown in (standings.markdown(counted(2e6)), standings.html(counted(2e6))):
        for word in ("2.000", "2 (1 to 4)", "L1 1,000", "equal to the bit", "emulated", "fitted on nothing"):
            assert word in shown
    (few,) = standings.changes(counted(2e6), counted(2_000_010.0))
    assert few.verdict == "more" and not few.worse, "it is told, and is no reason to fail"
    unknown = counted(2e6, instructions={}, latency_ms=None)
    assert "not counted" in standings.markdown(unknown) and "no model" in standings.markdown(unknown)


def test_what_is_counted_is_counted_once_for_all_threads(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emulator itself: see test_qemu.py."""
    asked = []

    def answered(bench: Bench, found: list[Job]) -> Iterator[Counted]:
        (job,) = found
        asked.append((job.name, job.threads))
        if job.name == "unheard.onnx":
            raise PluginUnavailable("onnxruntime is not prepared", hint="edgekd device prepare qemu:cortex-a72")
        yield msgspec.structs.replace(counted(1e6).rows[0].counted, threads=job.threads)

    monkeypatch.setattr("edgekd.suite.measured", answered)
    suite = msgspec.structs.replace(load_toml(Suite, own), threads=(1, 2))
    found = run_suite(suite, tmp_path, "qemu:cortex-a72", tmp_path / "out.json", told=lambda _: None)
    one, two, *failed = found.rows
    assert asked == [("small.onnx", 1), ("unheard.onnx", 1), ("unheard.onnx", 2)]
    assert one.counted and two.counted and (one.counted.threads, two.counted.threads) == (1, 2)
    assert one.counted.instructions == two.counted.instructions and not found.ok
    assert two.counted.latency_model != "fitted on nothing", "the model makes a latency of other threads"
    assert [row.hint for row in failed[:2]] == ["edgekd device prepare qemu:cortex-a72"] * 2
    again = run_suite(suite, tmp_path, "qemu:cortex-a72", tmp_path / "out.json", told=lambda _: None)
    assert len(asked) == 5 and again.rows[:2] == (one, two)


def test_slower_than_before_has_its_own_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, found in zip(paths, (results(10), results(12, seed=1)), strict=True):
        write_text(path, msgspec.json.encode(found).decode())
    junit = tmp_path / "junit.xml"
    assert main(["suite", "--compare", *map(str, paths), "--junit", str(junit), "--json"]) == 5
    assert json.loads(capsys.readouterr().out)["changes"][0]["verdict"] == "slower"
    assert "times as slow as before" in junit.read_text(encoding="utf-8")
    assert main(["suite", "--compare", *map(str, paths[::-1])]) == 0
    assert main(["suite", "--compare", str(paths[0])]) == 2


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    bad = '<script>alert(1)</script>"|&\x00\x1b[2J'
    found = msgspec.structs.replace(results(1), device=bad)
    row = msgspec.structs.replace(found.rows[0], engine=bad, error=bad, measurement=None)
    found = msgspec.structs.replace(found, rows=(row,))
    assert "<script>" not in standings.html(found)
    ElementTree.fromstring(standings.junit(found))
    assert standings.markdown(found).splitlines()[-1].count(" | ") == len(standings.TIMED) - 1


# --- downloads


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"model" * 1000)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


SHA256 = hashlib.sha256(b"model" * 1000).hexdigest()


def test_a_download_is_checked_and_kept(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    path = fetch(f"{server}/model.onnx", SHA256, 5000)
    assert path.name == "model.onnx" and path.read_bytes() == b"model" * 1000
    (tmp_path / "served" / "model.onnx").unlink()
    assert fetch(f"{server}/model.onnx", SHA256, 5000) == path, "it is not asked for again"
    path.write_bytes(b"changed")
    with pytest.raises(ConfigError, match="does not answer"):
        fetch(f"{server}/model.onnx", SHA256, 5000)


@pytest.mark.parametrize(
    ("path", "sha256", "size", "message"),
    [
        ("/model.onnx", "0" * 64, 5000, "is not what was named"),
        ("/model.onnx", SHA256, 4999, "is larger than the 4,999 bytes"),
        ("/nothing.onnx", SHA256, 5000, "does not answer"),
    ],
)
def test_what_is_not_what_was_named_leaves_nothing(
    path: str, sha256: str, size: int, message: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match=message):
        fetch(f"{server}{path}", sha256, size)
    assert not [one for one in (tmp_path / "cache").rglob("*") if one.is_file()]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y", "/etc/passwd", ""])
def test_only_the_web_is_asked(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match="not a web address"):
        fetch(url, SHA256, 10)
