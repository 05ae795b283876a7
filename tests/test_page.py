"""The page shows what it was given, in one file, and nothing that it was given can change more than its text."""

import doctest
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd import page
from edgekd.errors import PluginUnavailable
from edgekd.examples import Example
from edgekd.page import _numbers, _pictures, _words
from edgekd.tasks import Mark

HOSTILE = "</svg></style></title><script>alert(1)</script><img src=http://x/y onerror=alert(1)>\"'&{{ 7 * 7 }}"
VOID = {"meta", "br", "img", "link", "hr", "input"}
NBSP = "\N{NO-BREAK SPACE}"


def summary() -> dict[str, Any]:
    """Two artifacts, measured on the host and on the device, with every key that edgekd.report.summary has."""
    return {
        "schema": 1,
        "run": "a-run",
        "recipe": "digits",
        "target": "some-board",
        "ok": True,
        "teacher": {
            "name": "residual",
            "metrics": {"accuracy": 0.984},
            "parameters": 400306,
            "macs": 10312640,
            "file_bytes": 1612808,
        },
        "student": {
            "name": "mobile",
            "options": {"width": 0.5},
            "metrics": {"accuracy": 0.983},
            "parameters": 20834,
            "macs": 522720,
        },
        "student_without_distillation": {"metrics": {"accuracy": 0.977}},
        "plan": {
            "target": "some-board",
            "export": "tflite-int8",
            "student": {"name": "mobile", "options": {"width": 0.5, "depth": 1}},
            "predicted": {"tier": "spec sheet only"},
            "considered": 16,
            "fitting": 9,
            "front": [candidate(0.25), candidate(0.5, probe_accuracy=0.976), candidate(1.0)],
            "reason": "the smallest that holds the floor",
        },
        "artifact": "tflite-int8",
        "artifacts": [
            {**artifact("tflite-int8", 81312, 0.979), "ladder": ladder()},
            artifact("onnx-fp32", 88780, 0.983),
        ],
        "classes": ["zero", "one"],
        "preprocessing": {"size": [20, 20], "mean": [127.5], "std": [127.5]},
        "limits": {"latency_ms": 33.0, "file_bytes": 90000.0, "accuracy_floor": 0.975},
        "device": {
            "soc": "Some SoC",
            "isa": "armv8-a",
            "clusters": [
                {"core": "cortex-a72", "count": 4, "clock_mhz": 1800.0, "l1d_bytes": 32768, "l2_bytes": 1048576}
            ],
            "ram_bytes": 4294967296,
            "memory_bandwidth_bytes_s": 12.8e9,
            "sources": {"soc": "its page: https://example.org/soc", "ram_bytes": "its brief"},
        },
        "measurements": [
            measurement("tflite-int8", "host", "host", 0.05),
            measurement("onnx-fp32", "host", "host", 0.1),
            measurement("tflite-int8", "ssh:pi@board", "measured", 20.0),
        ],
        "counts": [counted("onnx-fp32", None), counted("tflite-int8", 21.5)],
        "failures": [
            {
                "artifact": "onnx-fp32",
                "engine": "onnxruntime",
                "device": "ssh:pi@board",
                "provenance": "measured",
                "error": "the engine crashed on `load`",
                "hint": "look there",
            }
        ],
        "slower": [slower()],
        "estimates_against_measurements": [
            compared("tflite-int8", "measured", 20.0, fitted=True),
            compared("tflite-int8", "emulated", 31.5),
        ],
        "verdicts": [
            {
                "limit": "latency_ms",
                "allowed": 33.0,
                "found": 0.05,
                "low": 0.02,
                "high": 0.125,
                "provenance": "estimated",
                "ok": True,
                "note": "not measured on the device",
            },
            {"limit": "file_bytes", "allowed": 90000.0, "found": 81312, "provenance": "host", "ok": True},
            {"limit": "accuracy_floor", "allowed": 0.975, "found": 0.979, "provenance": "emulated", "ok": True},
            {"limit": "parity", "allowed": 1.0, "found": 1.0, "provenance": "host", "ok": True},
        ],
        "findings": ["Distillation helped."],
        "environment": {"edgekd": "0.1.0", "python": "3.11.7"},
    }


def compared(export: str, provenance: str, found: float, **more: Any) -> dict[str, Any]:
    return {
        "artifact": export,
        "engine": "litert",
        "device": "a-device",
        "threads": 4,
        "provenance": provenance,
        "estimated_ms": 18.0,
        "low_ms": 12.0,
        "high_ms": 27.0,
        "tier": "anchored on 5 measurements",
        "found_ms": found,
        "fitted": False,
        "valid": True,
        "ratio": found / 18.0,
        "inside": found < 27.0,
        **more,
    }


def candidate(width: float, **more: Any) -> dict[str, Any]:
    cost = {
        "latency_ms": {"value": width, "low": width / 2, "high": width * 2},
        "peak_memory_bytes": 26578,
        "file_bytes": 57942,
        "macs": int(1e6 * width),
        "parameters": int(1e5 * width),
        "tier": "spec sheet only",
    }
    return {"options": {"width": width, "depth": 1}, "cost": cost, **more}


def artifact(export: str, size: int, accuracy: float) -> dict[str, Any]:
    agreement = {
        "artifact": export,
        "engine": "litert",
        "provenance": "host",
        "max_abs": 8.2,
        "sqnr_db": 14.7,
        "top1_agreement": 0.996,
        "metrics": {"accuracy": accuracy},
        "metric_drop": 0.004,
        "ok": True,
    }
    return {
        "export": export,
        "file": f"some-board/3-export/{export}/model.bin",
        "file_bytes": size,
        "sha256": "0" * 64,
        "metrics": {"accuracy": accuracy},
        "inputs": [{"name": "image", "shape": [1, 20, 20, 1], "layout": "NHWC"}],
        "outputs": [{"name": "logits", "shape": [1, 2]}],
        "parity": [agreement],
    }


def ladder() -> dict[str, Any]:
    way = {"ranges": "entropy", "equalization": True, "bias_correction": True, "in_float": ["stem", "blocks.0"]}
    first = {
        "name": "first try",
        "file": "some-board/3-export/tflite-int8/model.bin",
        "file_bytes": 80111,
        "quantization": {},
        "metrics": {"accuracy": 0.412},
        "metric_drop": 0.571,
        "sqnr_db": 1.5,
        "provenance": "host",
        "latency_ms": None,
        "holds_accuracy": False,
        "holds_budget": True,
        "trials": [],
        "blame": [],
    }
    mixed = {
        **first,
        "name": "mixed precision",
        "quantization": way,
        "metrics": {"accuracy": 0.979},
        "holds_accuracy": True,
        "unfit": ["some-runtime 1.0 has no version 4 of CONV_2D"],
        "trials": [{"quantization": way, "metric": 0.99, "metric_drop": 0.0, "sqnr_db": 30.0, "file_bytes": 81312}],
        "blame": [{"layers": ["stem", "head.1"], "metric_gain": 0.4321, "sqnr_gain_db": 12.25, "added_bytes": -512}],
    }
    broken = {"name": "calibration", "trials": [{"quantization": {}, "failed": "no kernel for this"}]}
    return {
        "floor": 0.975,
        "most_drop": 0.01,
        "chosen": "mixed precision",
        "held": True,
        "rungs": [first, {**first, **broken, "quantization": None, "metrics": {}}, mixed],
    }


def measurement(export: str, device: str, provenance: str, p50: float) -> dict[str, Any]:
    latency = {name: p50 * times for name, times in (("p50", 1), ("p90", 1.2), ("p95", 1.3), ("p99", 2), ("mean", 1.1))}
    return {
        "artifact": export,
        "engine": "litert",
        "engine_version": "2.3.0",
        "device": device,
        "provenance": provenance,
        "mode": "rapid",
        "threads": 1,
        "load_ms": 1.8,
        "first_ms": 0.09,
        "latency_ms": {**latency, "p90_low": p50 * 1.1, "p90_high": p50 * 1.3, "stability": 91.0},
        "samples_ms": [p50 * (1 + (index % 7) / 10) for index in range(400)] + [p50 * 50],
        "memory": {"peak_rss_bytes": 3731456, "file_bytes": 81312},
        "machine": {"system": "Linux", "cpu": "Some CPU", "cores": 2, "memory_bytes": 10**10, "python": "3.11.7"},
        "outputs_sha256": "1" * 64,
        "valid": False,
        "reasons": ["p99 is 2 times p50"],
    }


def counted(export: str, latency: float | None) -> dict[str, Any]:
    modelled = {
        "latency_ms": {"value": latency, "low": 17.25, "high": 26.75},
        "latency_model": "fitted on 9 published numbers",
        "threads": 4,
    }
    return {
        "artifact": export,
        "engine": "litert",
        "engine_version": "2.3.0",
        "device": "qemu:cortex-a72",
        "provenance": "emulated",
        "inferences": 8,
        "instructions": {"load": 4.1e6, "dot": 2e6, "other": 0.0, "total": 8.2e6},
        "cache_misses": {"L1": 5432.0, "L2": 21.0},
        "touched_bytes": 379000.0,
        "memory": {"peak_rss_bytes": 1765432, "file_bytes": 81312},
        "host_sqnr_db": 200.0,
        "host_max_abs": 0.0,
        **(modelled if latency else {}),
    }


def slower() -> dict[str, Any]:
    layer = {"what": "blocks.0.scale", "kinds": ["QUANTIZE", "MUL"], "quantized_ms": 0.031, "float_ms": 0.011}
    return {
        "artifact": "tflite-int8",
        "twin": "tflite-fp32",
        "engine": "litert",
        "device": "host",
        "provenance": "host",
        "quantized_ms": 0.171,
        "float_ms": 0.121,
        "how": "profiled by the runtime",
        "operators": [layer],
    }


class Reader(HTMLParser):
    """The elements of a page, in order, and its text; fails where a tag is closed that is not open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).replace(NBSP, " ").split())

    def kinds(self) -> list[str]:
        return [given["data-kind"] for _, given in self.elements if given.get("class") == "tag"]


def safe(read: Reader) -> None:
    """One document that loads nothing and runs nothing."""
    assert read.tags.count("html") == read.tags.count("title") == read.tags.count("style") == 1
    assert not {"script", "img", "link", "iframe", "object", "embed", "base", "form", "use", "image"} & {*read.tags}
    for tag, given_ in read.elements:
        assert "src" not in given_
        assert not [name for name in given_ if name.startswith("on")]
        assert tag == "a" or not {"href", "xlink:href"} & given_.keys()
    ids = [given_["id"] for _, given_ in read.elements if "id" in given_]
    assert len(ids) == len(set(ids))


@pytest.mark.usefixtures("undrawn")
def test_shows_test_images_that_it_brings_along() -> None:
    truth = (Mark("<b>", (0.1, 0.2, 0.3, 0.4)),)
    example = Example(
        b"\x89PNG", 24, 32, truth, (Mark("<b>", (0.1, 0.2, 0.3, 0.5), 0.87), Mark("car", (0, 0, 1, 1), 0.5))
    )
    html = page.render({**summary(), "classes": ["car", "<b>"]}, [example])
    read = Reader(html)
    sources = [given["href"] for tag, given in read.elements if tag == "image"]
    assert sources == ["data:image/png;base64,iVBORw=="] * 2
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in html
    boxes = [given for tag, given in read.elements if tag == "rect" and given.get("fill") == "none"]
    assert [box["height"] for box in boxes] == ["4.8", "7.2", "24.0"] and boxes[0]["stroke"] == boxes[1]["stroke"]
    assert "<title>&lt;b&gt; 87%</title>" in html and "<b>" not in re.findall(r"<svg.*?</svg>", html, re.DOTALL)[-1]


@pytest.fixture(scope="module")
def html() -> str:
    return page.render(summary())


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are planned, but not drawn, which takes most of the time."""
    monkeypatch.setattr(_pictures, "scatter", lambda *_: (None, 0))
    monkeypatch.setattr(_pictures, "_histograms", lambda *_: None)
    monkeypatch.setattr(page, "svg", lambda _: "<svg></svg>")


def everywhere(tree: Any, change: Callable[[Any], Any]) -> Any:
    """The tree with every leaf changed."""
    if isinstance(tree, dict):
        return {key: everywhere(value, change) for key, value in tree.items()}
    return [everywhere(value, change) for value in tree] if isinstance(tree, list) else change(tree)


# --- the whole page


def test_is_one_file_that_loads_nothing(html: str) -> None:
    read = Reader(html)
    safe(read)
    assert html.startswith("<!doctype html>")
    assert "url(" not in html and "@import" not in html and "default-src 'none'" in html
    assert [given["href"] for tag, given in read.elements if tag == "a"] == ["https://example.org/soc"]


def test_draws_every_picture(html: str) -> None:
    read = Reader(html)
    titles = [given["aria-label"] for _, given in read.elements if given.get("class") == "picture"]
    assert titles == [
        "Accuracy against file size",
        "Accuracy against p90 latency on ssh:pi@board",
        "Accuracy against p90 latency",
        "Latency of one inference on ssh:pi@board",
        "Latency of one inference",
        "The front",
    ]
    assert read.tags.count("svg") == len(titles)


def test_every_colour_of_a_picture_has_one_for_the_dark(html: str) -> None:
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    used = set(re.findall(r'(?:fill|stroke)="([^"]+)"', drawn))
    assert used - {"none", "transparent"} <= {light for light, _ in _pictures.COLOURS.values()}
    assert all(light != dark for light, dark in _pictures.COLOURS.values())


def test_shows_what_was_found(html: str) -> None:
    text = Reader(html).text
    for shown in (
        "digits on some-board",
        "PASS",
        "Rests on 1 emulated, 1 estimated and 2 host numbers; none was measured on the device.",
        "81.3 kB",
        "97.9%",
        "0.0200 to 0.125 ms",
        "some-board/3-export/tflite-int8/model.bin",
        "0" * 64,
        "Distillation helped.",
        "19.2 : 1",
        "−0.10 points for the student",
        "14.7 dB",
        "p99 is 2 times p50",
        "8.20M",
        "L1 5.43k, L2 21",
        "21.517.2 to 26.84 threads",
        "no model",
        "50% load, 24% dot; fitted on 9 published numbers",
        "equal to the bit",
        "the engine crashed on `load`look there",
        "16 candidates were considered, 9 fit the budget",
        "4 × cortex-a72 at 1,800 MHz",
        "12.8 GB/s",
        "edgekd run digits --target some-board",
        "edgekd verify .",
        "are not drawn",
        "tflite-int8: what was tried",
        "ranges by entropy, channels equalized, biases corrected, in float: stem, blocks.0",
        "failed: no kernel for this",
        "stem, head.1",
        "+43.21 points",
        "some-runtime 1.0 has no version 4 of CONV_2D",
        "tflite-int8 is slower than tflite-fp32",
        "0.171 ms against 0.121 ms host by litert on host. What takes longer, most first, profiled by the runtime:",
        "blocks.0.scaleQUANTIZE, MUL0.03100.0110",
        "18 ms estimated12 to 27 ms 20 ms measureda-device 1.11 ✓ holds it",
        "anchored on 5 measurements; fitted on this net",
        "31.5 ms emulateda-device 1.75 ✗ misses it",
    ):
        assert shown in text


def test_what_was_found_lies_where_it_should_on_the_bar(html: str) -> None:
    bars = re.findall(r'class="span"><i style="left:(.*?)%;width:(.*?)%"></i><b style="left:(.*?)%"', html)
    (low, width, near), (_, _, far) = (tuple(map(float, bar)) for bar in bars)
    assert low < 50 < near < low + width < far == pytest.approx(96), "the estimate is in the middle"


def test_every_provenance_is_explained_and_shown(html: str) -> None:
    read = Reader(html)
    assert {*page.LEGEND} == {*_words.PROVENANCES} <= {*read.kinds()}
    assert all(what in read.text for what in page.LEGEND.values())


def test_every_measured_row_carries_its_own_provenance() -> None:
    plain = summary()
    for one in (*plain["measurements"], *plain["verdicts"], plain["artifacts"][0]["parity"][0]):
        one["provenance"] = "emulated"
    rows = re.findall(r"<tr.*?</tr>", page.render(plain), re.DOTALL)
    of_measurements = [row for row in rows if "litert 2.3.0" in row]
    of_limits = [row for row in rows if 'data-of="Allowed"' in row]
    assert len(of_measurements) == 5 and len(of_limits) == 4
    assert all('data-kind="emulated"' in row and 'data-kind="host"' not in row for row in of_measurements + of_limits)


def test_the_device_budget_is_drawn_against_the_device_alone() -> None:
    plain = summary()
    plain["limits"]["latency_ms"] = 24.0
    on_board, on_host = re.findall(
        r'aria-label="Accuracy against p90 latency.*?</figure>', page.render(plain), re.DOTALL
    )
    assert f"budget 24{NBSP}ms" in on_board
    assert "budget 24" not in on_host and "is not drawn against these times" in on_host


# --- verdicts


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("ok", "verdicts", "text"),
    [
        (True, [{"limit": "parity", "found": 1.0, "ok": True}], "PASS"),
        (False, [{"limit": "parity", "found": 0.0, "ok": False}], "BREAKS THE BUDGET"),
        (True, [{"limit": "parity", "found": 0.0, "ok": False}], "BREAKS THE BUDGET"),
        (False, [{"limit": "parity", "found": 1.0, "ok": True}], "BREAKS THE BUDGET"),
        (True, [], "NOTHING TO HOLD IT AGAINST"),
    ],
)
def test_badge(ok: bool, verdicts: list[dict[str, Any]], text: str) -> None:
    html = page.render({**summary(), "ok": ok, "verdicts": verdicts})
    badges = ("PASS", "BREAKS THE BUDGET", "NOTHING TO HOLD IT AGAINST")
    assert [one for one in badges if f">{one}</span>" in html] == [text]


@pytest.mark.parametrize(
    ("limit", "found", "allowed", "shown", "at"),
    [
        ("latency_ms", 33.004, 33.0, "33.004 ms", "at most 33 ms"),
        ("file_bytes", 8388609, 8388608, "8.388609 MB", "at most 8.388608 MB"),
        ("accuracy_floor", 0.97499, 0.975, "97.499%", "at least 97.5%"),
        ("accuracy_floor", 0.975, 0.975, "97.5%", "at least 97.5%"),
        ("peak_memory_bytes", 26578, 134217728.0, "26.6 kB", "at most 134 MB"),
        ("energy_mj", 5.5, 2.0, "5.50 mJ", "at most 2 mJ"),
        ("parity", 0.0, 1.0, "differs", "must agree"),
        ("wake_up_ms", 1.0, 2.0, "1 ms", "at most 2 ms"),
    ],
)
def test_a_verdict_tells_found_from_allowed(limit: str, found: float, allowed: float, shown: str, at: str) -> None:
    row = _words.verdict({"limit": limit, "found": found, "allowed": allowed, "ok": False})
    assert row["found"].replace(NBSP, " ") == shown
    assert row["allowed"].replace(NBSP, " ") == at


# --- numbers


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (_numbers.number, 0, "0"),
        (_numbers.number, 0.04995, "0.0500"),
        (_numbers.number, 1234567.0, "1,234,567"),
        (_numbers.number, 1.14e-5, "1.14 × 10⁻⁵"),
        (_numbers.number, 1e30, "1.00 × 10³⁰"),
        (_numbers.number, float("inf"), "∞"),
        (_numbers.number, None, "–"),
        (_numbers.size, 999, "999 B"),
        (_numbers.size, 999_999, "1.00 MB"),
        (_numbers.size, 81312, "81.3 kB"),
        (_numbers.size, 1e30, "1.00 × 10¹⁸ TB"),
        (_numbers.count, 20834, "20.8k"),
        (_numbers.percent, 1.0, "100.0%"),
        (_numbers.percent, 0.98765, "98.77%"),
        (_numbers.percent, 1e30, "1.00 × 10³⁰"),
        (_numbers.points, -0.001, "−0.10 points"),
        (_numbers.points, -1e-9, "0.00 points"),
        (_numbers.milliseconds, None, "–"),
    ],
)
def test_numbers_are_for_people(show: Callable[[Any], str], value: Any, text: str) -> None:
    assert show(value).replace(NBSP, " ") == text


def test_examples() -> None:
    assert doctest.testmod(page).failed == 0


# --- what may be missing or odd


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("key", summary().keys())
def test_any_part_may_be_missing(key: str) -> None:
    plain = summary()
    of_its_kind = type(plain[key])()
    for without in ({k: v for k, v in plain.items() if k != key}, {**plain, key: None}, {**plain, key: of_its_kind}):
        safe(Reader(page.render(without)))


@pytest.mark.usefixtures("undrawn")
def test_any_detail_may_be_missing() -> None:
    plain = summary()
    for rows in ("artifacts", "measurements", "verdicts", "estimates_against_measurements"):
        for one in plain[rows]:
            for key in [*one]:
                kept = one.pop(key)
                safe(Reader(page.render(plain)))
                one[key] = kept


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("odd", [None, "text", 3, [], {}])
def test_any_detail_of_a_ladder_may_be_missing_or_odd(odd: Any) -> None:
    plain = summary()
    ladder = plain["artifacts"][0]["ladder"]
    rung = ladder["rungs"][-1]
    for part in (ladder, rung, rung["quantization"], rung["trials"][0], rung["blame"][0]):
        for key in [*part]:
            kept = part.pop(key)
            safe(Reader(page.render(plain)))
            part[key] = odd
            safe(Reader(page.render(plain)))
            part[key] = kept


def test_nothing_at_all() -> None:
    read = Reader(page.render({}))
    safe(read)
    assert "NOTHING TO HOLD IT AGAINST" in read.text
    assert "Nothing was measured." in read.text
    assert "svg" not in read.tags


@pytest.mark.parametrize("value", [0, 1, -5, 1e30, 1e-30, 2**53, None])
def test_any_number(value: float | None) -> None:
    def swap(leaf: Any) -> Any:
        return value if isinstance(leaf, int | float) and not isinstance(leaf, bool) else leaf

    safe(Reader(page.render(everywhere(summary(), swap))))


def test_one_artifact_with_one_sample() -> None:
    plain = summary()
    plain["artifacts"], plain["measurements"] = plain["artifacts"][:1], plain["measurements"][:1]
    plain["measurements"][0]["samples_ms"] = [0.05]
    assert "Latency of one inference" in page.render(plain)


def test_two_hundred_artifacts_stay_small() -> None:
    plain = summary()
    plain["artifacts"] = [artifact(f"f{i % 9}-int{i}", 1000 * (i + 9), 0.5 + i / 500) for i in range(200)]
    plain["measurements"] = [measurement(one["export"], "host", "host", 0.05) for one in plain["artifacts"]]
    plain["artifact"] = "f6-int150"
    html = page.render(plain)
    assert len(html.encode()) < 400_000
    assert "100 of 200 rows are shown" in html
    assert "12 of 200 are drawn" in html
    assert html.count('font-weight="bold" fill="#1c2530">f6-int150<') == 2  # the chosen one always has its label


def test_a_long_front_keeps_what_was_chosen_and_probed() -> None:
    plain = summary()
    plain["plan"]["front"] = [candidate(0.001 * (i + 1)) for i in range(1, 3000)]
    plain["plan"]["student"]["options"] = plain["plan"]["front"][1234]["options"]
    plain["plan"]["front"][77]["probe_accuracy"] = 0.5
    shown = _words.candidates(plain)
    assert len(shown) == _words.MOST_CANDIDATES
    assert [one["options"]["width"] for one in shown] == sorted(one["options"]["width"] for one in shown)
    assert [one for one in shown if one["chosen"]] and [one for one in shown if one.get("probe_accuracy")]
    assert {one["fixed"] for one in shown} == {"depth 1"}


# --- text is only ever text


def test_hostile_text_stays_text(html: str) -> None:
    closed = {"tflite-int8", "onnx-fp32", "host", "measured", "estimated", "emulated", "latency_ms", "file_bytes"}

    def spoil(leaf: Any) -> Any:
        return f"{leaf}{HOSTILE}" if isinstance(leaf, str) and leaf not in closed else leaf

    read = Reader(page.render(everywhere(summary(), spoil)))
    safe(read)
    assert f"digits{HOSTILE} on some-board{HOSTILE}" in read.text
    assert "49" not in read.text.split("Findings")[1].split("Artifacts")[0]


def test_hostile_names_stay_text_in_pictures() -> None:
    plain = summary()

    def rename(leaf: Any) -> Any:
        return "</svg><script>-a(1)" if leaf == "tflite-int8" else "</svg><b>" if leaf == "ssh:pi@board" else leaf

    html = page.render(everywhere(plain, rename))
    safe(Reader(html))
    assert "&lt;/svg&gt;&lt;script&gt;-a(1)</text>" in html
    assert "latency on &lt;/svg&gt;&lt;b&gt; (measured)</text>" in html


def wordy(word: str) -> dict[str, Any]:
    """Without pictures, so that it is quick; with `word` wherever people write."""
    plain = summary()
    plain |= {"recipe": word, "target": word, "run": word, "findings": [word], "classes": [word]}
    plain["environment"] = {word: word}
    plain["device"] |= {"soc": word, "sources": {}}
    plain["plan"] |= {"front": [], "reason": word}
    plain["teacher"] |= {"name": word}
    for one in plain["measurements"]:
        one |= {"samples_ms": [], "latency_ms": None, "device": word, "engine": word, "reasons": [word]}
    for one in plain["artifacts"]:
        one |= {"metrics": {}, "file": word, "sha256": word}
        one["parity"][0]["reason"] = word
    for one in plain["verdicts"]:
        one["note"] = word
    return plain


@settings(max_examples=60, deadline=None)
@given(word=st.text(min_size=1, max_size=40) | st.text("<>&\"'/ -!sva=\n\x00", min_size=1, max_size=30))
def test_no_text_changes_the_structure(word: str) -> None:
    read = Reader(page.render(wordy(word)))
    assert read.tags == Reader(page.render(wordy("word"))).tags
    safe(read)


# --- what it needs


@pytest.mark.parametrize("package", ["jinja2", "altair", "vl_convert"])
def test_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PluginUnavailable, match=package) as caught:
        page.render(summary())
    assert caught.value.hint == "pip install 'edgekd[report]'"
