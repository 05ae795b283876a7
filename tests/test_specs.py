"""The nouns refuse what cannot be, and stay as they were made."""

import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.errors import ConfigError
from edgekd.files import decode, dumps
from edgekd.specs import Budget, Choice, Cluster, File, Report, Spec, TensorSpec, Training, Views
from tests import strategies

NUMBERS = [(kind, name) for kind in strategies.kinds() for name in strategies.float_fields(kind)]
BUDGET = ("latency_ms", "peak_memory_bytes", "file_bytes", "energy_mj")


@pytest.mark.parametrize(("kind", "field"), NUMBERS, ids=[f"{kind.__name__}.{name}" for kind, name in NUMBERS])
def test_a_field_that_is_not_a_number_is_refused(kind: type[Spec], field: str) -> None:
    @settings(max_examples=1, database=None)
    @given(strategies.nouns(kind))
    def check(made: Spec) -> None:
        fields = {name: getattr(made, name) for name in made.__struct_fields__}
        with pytest.raises(ValueError, match=f"{field} is not a number"):
            kind(**{**fields, field: math.nan})

    check()


def test_a_number_that_is_none_is_refused_from_files() -> None:
    with pytest.raises(ConfigError, match=re.escape("file: latency_ms: expected 'float' > 0.0")):
        decode(Budget, {"latency_ms": math.nan}, "file")


def test_options_that_are_not_a_number_are_refused() -> None:
    with pytest.raises((ConfigError, ValueError), match="not a number"):
        decode(Choice, {"name": "soft_targets", "options": {"temperature": math.nan}}, "file")


@pytest.mark.parametrize("limit", BUDGET)
@pytest.mark.parametrize("value", [-1, 0, -0.5, -math.inf])
def test_a_budget_is_above_zero(limit: str, value: float) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"target.toml: {limit}: expected 'float' > 0.0")):
        decode(Budget, {limit: value}, "target.toml")


@pytest.mark.parametrize("limit", BUDGET)
def test_a_limit_that_is_not_given_is_infinite(limit: str) -> None:
    assert getattr(decode(Budget, {}, ""), limit) == math.inf


@pytest.mark.parametrize("floor", [-0.01, 1.01])
def test_a_floor_is_a_share(floor: float) -> None:
    with pytest.raises(ConfigError, match="accuracy_floor: expected 'float'"):
        decode(Budget, {"accuracy_floor": floor}, "")


GOOD_NAMES = ("a", "A9", "raspberry-pi-4", "x.y_z-1", "0", "a" * 64)
BAD_NAMES = ("", ".hidden", "..", "-t", "_x", "a/b", "../a", "a\\b", "a b", "é", "a\n", "a\x00", "a\x1b[31m", "a" * 65)


def _cluster(core: str) -> Cluster:
    plain = {"core": core, "count": 1, "clock_mhz": 1.0, "l1d_bytes": 1, "l2_bytes": 1}
    return decode(Cluster, plain, "file")


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_name_can_be_a_folder(name: str) -> None:
    assert _cluster(name).core == name


@pytest.mark.parametrize("name", BAD_NAMES)
def test_what_cannot_be_a_folder_everywhere_is_no_name(name: str) -> None:
    with pytest.raises(ConfigError, match="file: core: expected 'str' matching regex"):
        _cluster(name)


@pytest.mark.parametrize("sha256", ["", "0" * 63, "0" * 65, "G" * 64, "0" * 64 + "\n", "A" * 64])
def test_a_hash_is_64_small_hex_digits(sha256: str) -> None:
    with pytest.raises(ConfigError, match="sha256: expected 'str' matching regex"):
        decode(File, {"path": "a", "size_bytes": 0, "sha256": sha256}, "file")


WRONG_TRAINING: dict[str, Any] = {
    "epochs": -1,
    "batch": 0,
    "learning_rate": 0.0,
    "optimiser": "adam",
    "weight_decay": -1e-9,
    "warmup": 1.1,
    "label_smoothing": 1.0,
}


@pytest.mark.parametrize("field", WRONG_TRAINING)
def test_training_out_of_its_range_is_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=f"file: {field}: "):
        decode(Training, {"epochs": 1, field: WRONG_TRAINING[field]}, "file")


@given(st.data())
@settings(max_examples=30)
def test_nouns_cannot_be_changed(data: st.DataObject) -> None:
    made = data.draw(strategies.nouns(data.draw(st.sampled_from(strategies.kinds()))))
    field = data.draw(st.sampled_from(made.__struct_fields__))
    with pytest.raises(AttributeError, match="immutable"):
        setattr(made, field, None)


def test_fields_at_their_default_are_not_written() -> None:
    assert dumps(Views()) == "{}"
    assert dumps(Views(count=3, flip=True)) == '{\n "count": 3,\n "flip": true\n}'
    assert dumps(TensorSpec(name="x", shape=(1, -1))) == '{\n "name": "x",\n "shape": [\n  1,\n  -1\n ]\n}'


@given(strategies.REPORTS)
@settings(max_examples=25)
def test_a_report_holds_when_every_verdict_does(report: Report) -> None:
    broken = [verdict for verdict in report.verdicts if not verdict.ok]
    assert report.ok is (broken == [])
