"""The cycle models of emulated cores: what they say of counts, and that they say what they rest on."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.emulation import CORES, cycles, machine_at
from edgekd.emulation.cycles import CycleModel, Error, arithmetic, latency, model_of, seconds
from edgekd.emulation.instructions import KINDS

FITTED = [core for core in CORES if model_of(core)]
MODEL = CycleModel(
    schema=1,
    core="cortex-a72",
    cycles={"fma": 2.0, "load": 1.0},
    miss_cycles={"L1": 10.0},
    memory_ns=50.0,
    serial=0.2,
    shared=0.5,
    errors={"float": Error(nets=3, mean=0.1, low=0.8, high=1.3)},
    fitted_on="three nets",
    millions=(10.0, 500.0),
    sources={},
)
MOBILENET_V1 = {  # counted of MobileNetV1 1.0 224 in LiteRT 2.3 on a Cortex-A72
    "float": (
        {
            "fma": 143.36e6, "vector_float": 2.54e6, "vector": 0.58e6, "prefetch": 8.18e6, "vector_store": 0.76e6,
            "vector_load": 40.6e6, "store": 0.07e6, "load": 0.73e6, "system": 0.03e6, "branch": 3.69e6,
            "multiply": 0.09e6, "integer": 9.74e6, "total": 210.4e6,
        },
        {"L1": 6022028.0, "L2": 968778.0},
        77.0,
    ),
    "integer": (
        {
            "widening_multiply": 73.55e6, "vector_float": 3.78e6, "vector": 46.97e6, "prefetch": 7.8e6,
            "vector_store": 0.61e6, "vector_load": 27.08e6, "store": 0.05e6, "load": 0.65e6, "system": 0.39e6,
            "branch": 3.62e6, "multiply": 0.09e6, "integer": 9.99e6, "total": 174.59e6,
        },
        {"L1": 803587.0, "L2": 147121.0},
        24.0,
    ),
}  # fmt: skip


def test_cycles_and_lines_add_up_as_told() -> None:
    executed, missed = {"fma": 1e6, "load": 2e6, "total": 3e6}, {"L1": 3e4, "L2": 1e4}
    cycles = 2.0 * 1e6 + 1.0 * 2e6 + 10.0 * (3e4 - 1e4)
    assert seconds(MODEL, executed, missed, 1000, 1) == pytest.approx(cycles / 1e9 + 50e-9 * 1e4)
    assert seconds(MODEL, executed, missed, 1000, 4) == pytest.approx(0.4 * cycles / 1e9 + 0.5 * 50e-9 * 1e4)
    assert seconds(MODEL, executed, {}, 2000, 1) == pytest.approx(4e6 / 2e9)


def test_nets_in_integers_are_told_from_those_in_floats() -> None:
    assert arithmetic({"fma": 5.0, "dot": 4.0}) == "float"
    assert arithmetic({"fma": 1.0, "widening_multiply": 4.0}) == "integer"


def test_there_are_models_of_three_cores_and_none_is_made_up() -> None:
    assert FITTED == ["cortex-a53", "cortex-a72", "cortex-a76"]
    assert latency(machine_at("cortex-a7"), {"other": 1e6, "total": 1e6}, {"L1": 1.0}) is None
    assert latency(machine_at("cortex-a72"), {}, {}) is None


@pytest.mark.parametrize("core", FITTED)
def test_a_model_knows_the_kinds_and_caches_of_its_core(core: str) -> None:
    model = model_of(core)
    assert model is not None and set(model.cycles) <= set(KINDS)
    assert model.core == core and len(model.miss_cycles) == len(CORES[core].caches) - 1
    assert model.memory_ns > 0 and model.sources
    for error in model.errors.values():
        assert error.low < 1 < error.high and 0 < error.mean < 0.5


@pytest.mark.parametrize("kind", MOBILENET_V1)
def test_a_published_latency_lies_within_the_interval(kind: str) -> None:
    executed, missed, published_ms = MOBILENET_V1[kind]
    machine = machine_at("cortex-a72")
    told = latency(machine, executed, missed, 4)
    assert told is not None
    slower = machine.clock_mhz / 1500  # the board that was measured
    assert told.latency_ms.low <= published_ms <= told.latency_ms.high * slower
    assert f"for {kind} arithmetic by 4 threads off by" in told.model


@given(
    st.sampled_from(FITTED),
    st.dictionaries(st.sampled_from(KINDS), st.floats(0, 1e10), min_size=1),
    st.floats(0, 1e8),
    st.sampled_from(KINDS),
    st.floats(0, 1e10),
)
def test_more_is_never_faster_and_the_interval_holds_the_value(
    core: str, executed: dict[str, float], lines: float, kind: str, added: float
) -> None:
    machine = machine_at(core)
    missed = {f"L{level}": lines for level in range(1, len(machine.caches) + 1)}
    more = {**executed, kind: executed.get(kind, 0.0) + added}
    before, after = (seconds(model_of(core), one, missed, 1000, 1) for one in (executed, more))  # type: ignore[arg-type]
    assert before <= after
    assert seconds(model_of(core), executed, missed, 2000, 2) <= before  # type: ignore[arg-type]
    told = latency(machine, executed, missed)
    assert told is None or told.latency_ms.low <= told.latency_ms.value <= told.latency_ms.high


def test_what_is_smaller_than_all_nets_of_the_fit_is_said_to_be() -> None:
    executed, missed, _ = MOBILENET_V1["float"]
    machine = machine_at("cortex-a72")
    small = {kind: number / 1000 for kind, number in executed.items()}
    usual, told = latency(machine, executed, missed), latency(machine, small, missed)
    assert usual is not None and "none of the nets" not in usual.model
    assert told is not None and told.model.endswith("none of the nets was as small as this")


def test_no_more_threads_count_than_there_are_cores() -> None:
    executed, missed, _ = MOBILENET_V1["float"]
    machine = machine_at("cortex-a72")
    assert latency(machine, executed, missed, machine.count) == latency(machine, executed, missed, 64)


def test_models_are_shipped() -> None:
    folder = Path(cycles.__file__).parent
    assert {path.stem for path in folder.glob("*.toml")} == set(FITTED)
