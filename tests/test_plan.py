"""Which candidates there are, which fit, which of them are worth making, and what is said when none fits."""

import math
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd import plan, probing
from edgekd.agree import for_job
from edgekd.errors import ConfigError
from edgekd.files import decode
from edgekd.lessons import Learned, Lesson
from edgekd.plan import (
    Finals,
    Shortlist,
    candidates,
    capacity,
    choose,
    excess,
    front_of,
    infeasible,
    most_capable,
    preferred,
)
from edgekd.runs import Work
from edgekd.shipped import load_recipe, load_target, recipe_names
from edgekd.specs import (
    Budget,
    Candidate,
    Choice,
    Cost,
    Data,
    File,
    Interval,
    Knowledge,
    LossChoice,
    StudentChoice,
    Target,
    Training,
    Views,
)
from tests.subjects import speech, story, subject, text


def candidate(
    latency: float, file_bytes: int = 1, parameters: int = 1, macs: int = 1, memory: int = 1, **options: Any
) -> Candidate:
    cost = Cost(
        latency_ms=Interval(value=latency, low=latency / 2, high=latency * 2),
        peak_memory_bytes=memory,
        file_bytes=file_bytes,
        macs=macs,
        parameters=parameters,
        tier="by hand",
    )
    return Candidate(options=options, cost=cost)


SMALL = st.integers(1, 6)
CANDIDATES = st.lists(
    st.builds(candidate, SMALL.map(float), SMALL, SMALL, SMALL, SMALL, name=st.integers(0, 3)), min_size=1, max_size=14
)


def beats(one: Candidate, other: Candidate) -> bool:
    """One is as fast, as small and as capable as the other, and better in one of these."""
    ours = (-one.cost.latency_ms.value, -one.cost.file_bytes, -one.cost.peak_memory_bytes, capacity(one))
    theirs = (-other.cost.latency_ms.value, -other.cost.file_bytes, -other.cost.peak_memory_bytes, capacity(other))
    return ours != theirs and all(a >= b for a, b in zip(ours, theirs, strict=True))


def merits(one: Candidate) -> tuple[float, ...]:
    return one.cost.latency_ms.value, one.cost.file_bytes, one.cost.peak_memory_bytes, capacity(one)


# --- candidates


ABOUT = subject()


def student(**changes: Any) -> StudentChoice:
    return StudentChoice(name="mobile", training=Training(epochs=1), **changes)


def test_candidates_are_all_combinations_with_the_fixed_options() -> None:
    wanted = student(options={"expansion": 4}, space={"width": [0.5, 1.0], "depth": [1, 2]})
    assert candidates(wanted, ABOUT) == [
        {"expansion": 4, "width": width, "depth": depth} for width in (0.5, 1.0) for depth in (1, 2)
    ]


def test_without_a_space_there_is_one_candidate() -> None:
    assert candidates(student(options={"width": 1.0}), ABOUT) == [{"width": 1.0}]
    assert candidates(student(), ABOUT) == [{}]


def test_an_option_is_fixed_or_free() -> None:
    with pytest.raises(ConfigError, match="^student option 'width' is in options and in space$") as error:
        candidates(student(options={"width": 1, "depth": 1}, space={"width": [1, 2]}), ABOUT)
    assert error.value.hint == "leave it in one of them"


def test_a_space_that_is_too_large_is_refused_before_it_is_made() -> None:
    assert len(candidates(student(space={"a": [*range(250)], "b": [*range(400)]}), ABOUT)) == 100_000
    huge = student(space={name: [*range(1000)] for name in "abcdefgh"})
    with pytest.raises(ConfigError, match=f"^the student's space has {10**24} candidates, at most 100000$"):
        candidates(huge, ABOUT)


def test_a_space_without_values_is_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape("space[...]: expected 'array' of length >= 1")):
        decode(StudentChoice, {"name": "mobile", "training": {"epochs": 1}, "space": {"width": []}}, "")


# --- the budget


def test_excess_is_how_many_times_what_is_allowed() -> None:
    one = candidate(10.0, file_bytes=300, memory=90)
    assert excess(one.cost, Budget()) == {}
    budget = Budget(latency_ms=10, file_bytes=100, peak_memory_bytes=90)
    assert excess(one.cost, budget) == {"latency_ms": 2.0, "file_bytes": 3.0}  # latency: the end of its interval
    assert excess(one.cost, Budget(latency_ms=20, file_bytes=300)) == {}


@given(CANDIDATES, st.floats(0.1, 20), st.floats(0.1, 8))
def test_what_is_over_a_limit_does_not_fit_and_nothing_else(
    found: list[Candidate], latency_ms: float, file_bytes: float
) -> None:
    for one in found:
        broken = excess(one.cost, Budget(latency_ms=latency_ms, file_bytes=file_bytes))
        assert ("latency_ms" in broken) == (one.cost.latency_ms.high > latency_ms)
        assert ("file_bytes" in broken) == (one.cost.file_bytes > file_bytes)
        assert all(share > 1 for share in broken.values())


# --- the front


@given(CANDIDATES)
@settings(max_examples=300)
def test_nothing_beats_the_front_and_the_front_beats_the_rest(fitting: list[Candidate]) -> None:
    front = front_of(fitting)
    assert front
    for one in front:
        assert one in fitting
        assert not any(beats(other, one) for other in fitting)
    for one in fitting:
        assert one in front or any(beats(other, one) or merits(other) == merits(one) for other in front)


@given(CANDIDATES, st.randoms())
def test_the_front_does_not_depend_on_the_order(fitting: list[Candidate], random: Any) -> None:
    shuffled = [*fitting]
    random.shuffle(shuffled)
    assert front_of(shuffled) == front_of(fitting)


@given(CANDIDATES)
def test_the_front_goes_from_the_least_capable_to_the_most(fitting: list[Candidate]) -> None:
    """What "the last of the front" and the search by halves rest on."""
    capacities = [capacity(one) for one in front_of(fitting)]
    assert capacities == sorted(capacities)


# --- the choice

LESSON = Lesson(
    student=Choice(name="mobile"),
    training=Training(epochs=4),
    losses=(LossChoice(name="labels"),),
    views=Views(),
    seed=0,
    views_seed=0,
)
NOT_ASKED = (cast(Data, None), cast(Knowledge, None))  # what no probe is made for


def listed(front: Sequence[Candidate]) -> Shortlist:
    return Shortlist(export="tflite-int8", considered=20, fitting=10, front=tuple(front))


def whole(front: Sequence[Candidate]) -> Finals:
    return Finals(front=tuple(front), finalists=())


def work(tmp_path: Path) -> Work:
    return Work(run_folder=str(tmp_path), name="choice", out_folder=str(tmp_path))


def test_the_most_capable_is_chosen(tmp_path: Path) -> None:
    # A wide net on small images, and a narrow one on large images: slower, in a smaller file, and less capable.
    wide, narrow = candidate(1, 10**6, 10**6, 10**7, name="wide"), candidate(4, 10**5, 10**5, 5 * 10**7, name="narrow")
    front = front_of([wide, narrow])
    assert set(map(merits, front)) == {merits(wide), merits(narrow)}
    made = most_capable(listed(front), whole(front), "pi", "mobile")
    assert made.student == Choice(name="mobile", options={"name": "wide"})
    assert made.predicted == wide.cost
    assert (made.target, made.considered, made.fitting) == ("pi", 20, 10)
    assert made.reason == "the most capable of the front"


@pytest.mark.parametrize("cores", [1, 2, 7])
@pytest.mark.parametrize("size", [1, 2, 3, 16, 100])
@given(data=st.data())
@settings(max_examples=10)
def test_the_smallest_that_holds_the_floor_is_found_by_few_probes(size: int, cores: int, data: st.DataObject) -> None:
    smallest = data.draw(st.integers(0, size))  # size: none holds it
    probed: list[int] = []

    def probe(work: Work, one: Candidate, *rest: Any) -> Learned:
        probed.append(one.options["i"])
        score = 0.9 + one.options["i"] / 1e4 if one.options["i"] >= smallest else 0.1
        return Learned(weights="", metrics={"accuracy": score}, score=score)

    front = [candidate(float(i + 1), i + 1, i + 1, i + 1, i=i) for i in range(size)]
    with pytest.MonkeyPatch.context() as patch:  # a probe is a training of seconds; here only the search is looked at
        patch.setattr(probing, "_one_probe", probe)
        patch.setattr(probing, "cores", lambda: cores)
        made = choose(
            work(Path()),
            "smallest above the accuracy floor",
            0.9,
            listed(front),
            whole(front),
            "pi",
            LESSON,
            *NOT_ASKED,
        )
    rounds = math.ceil(math.log(size + 1, min(cores, size) + 1) + 1e-9)
    assert len(probed) == len(set(probed)) <= (rounds + 1) * cores
    assert {one.options["i"] for one in made.front if one.probe_accuracy is not None} == set(probed)
    if smallest < size:
        assert made.student.options == {"i": smallest}
        assert made.reason == "the smallest whose probe of 4 epochs reaches the floor of 0.900"
    else:
        assert made.student.options["i"] in probed
        assert made.reason == "no probe of 4 epochs reaches the floor of 0.900; the best one of the front"


@given(st.integers(0, 50), st.integers(1, 50), st.integers(1, 60))
def test_probes_are_spread_evenly(low: int, span: int, parts: int) -> None:
    asked = probing._spread(low, low + span, parts)
    assert asked == sorted(set(asked)) and len(asked) == min(parts, span)
    assert low <= asked[0] and asked[-1] < low + span
    between = [b - a for a, b in zip([low - 1, *asked], [*asked, low + span], strict=True)]
    assert max(between) - min(between) <= 2


# --- none fits


def with_budget(budget: Budget) -> Target:
    return msgspec.structs.replace(load_target("raspberry-pi-4"), budget=budget)


def would_fit(hint: str) -> Budget:
    """The budget that a hint names, read as a user would copy it into a target."""
    found = re.match(r"^it would fit a budget of (.*); or add smaller values to the recipe's student.space$", hint)
    assert found
    return decode(Budget, tomllib.loads(found[1].replace(", ", "\n")), "")


def test_an_infeasible_budget_says_what_breaks_and_what_would_fit() -> None:
    found = [candidate(40, 5000, memory=900), candidate(20.01, 4567, memory=800), candidate(400, 9000, memory=700)]
    error = infeasible(found, len(found), with_budget(Budget(latency_ms=10, file_bytes=4000, peak_memory_bytes=10_000)))
    assert str(error) == (
        "no student of 3 fits raspberry-pi-4: the nearest needs latency_ms 40.02 where 10 is allowed (4.0x) "
        "and file_bytes 4567 where 4000 is allowed (1.1x) [estimated]"
    )
    assert would_fit(error.hint) == Budget(latency_ms=40.1, file_bytes=4570)


@given(
    st.lists(
        st.builds(candidate, st.floats(1e-3, 1e4), st.integers(1, 10**12), memory=st.integers(1, 10**12)),
        min_size=1,
        max_size=5,
    ),
    st.floats(1e-4, 1e3),
    st.floats(1, 1e9),
    st.floats(1, 1e9),
)
@settings(max_examples=300)
def test_what_is_said_to_fit_fits(found: list[Candidate], latency: float, file_bytes: float, memory: float) -> None:
    budget = Budget(latency_ms=latency, file_bytes=file_bytes, peak_memory_bytes=memory)
    if all(excess(one.cost, budget) for one in found):
        raised = would_fit(infeasible(found, len(found), with_budget(budget)).hint)
        wider = {name: getattr(raised, name) for name in ("latency_ms", "file_bytes", "peak_memory_bytes")}
        opened = msgspec.structs.replace(
            budget, **{name: limit for name, limit in wider.items() if math.isfinite(limit)}
        )
        assert any(not excess(one.cost, opened) for one in found)


@given(st.floats(1e-6, 1e15))
@settings(max_examples=1000)
def test_what_is_rounded_up_is_never_below_and_hardly_above(value: float) -> None:
    rounded = float(plan._rounded_up(value))
    assert value <= rounded <= value * 1.011


# --- the real thing


def _cost(milliseconds: float) -> Cost:
    interval = Interval(value=milliseconds, low=milliseconds / 1.1, high=milliseconds * 1.1)
    return Cost(latency_ms=interval, peak_memory_bytes=1, file_bytes=1, macs=1, parameters=1, tier="t")


@pytest.mark.parametrize(
    ("int8", "fp32", "export"),
    [((2.0, 2.0), (4.0, 4.0), "int8"), ((2.0, 2.0), (1.9, 1.9), "int8"), ((2.0, 2.0), (1.0, 1.0), "fp32"),
     ((2.0, 2.0), (1.0, 4.0), "int8")],
)  # fmt: skip
def test_an_export_that_is_clearly_faster_on_the_target_is_planned_for(
    int8: tuple[float, ...], fp32: tuple[float, ...], export: str
) -> None:
    costs = [{"int8": _cost(one), "fp32": _cost(other)} for one, other in zip(int8, fp32, strict=True)]
    assert preferred(costs, ["int8", "fp32"]) == export


FILE = File(path="a", size_bytes=0, sha256="0" * 64)
DATA = Data(
    name="digits",
    licence="",
    subject=subject(classes=tuple("0123456789")),
    train_inputs=FILE,
    train_labels=(FILE,),
    test_inputs=FILE,
    test_labels=(FILE,),
)


@pytest.mark.parametrize("recipe", recipe_names())
def test_real_candidates_are_costed_and_ranked(recipe: str, tmp_path: Path) -> None:
    whole = load_recipe(recipe)
    student, target = whole.student, for_job(whole, load_target("raspberry-pi-4"))
    about = {"encoder": text(), "decoder": story(), "whisper": speech()}.get(student.name, DATA.subject)
    found = plan._shortlist(work(tmp_path), student, target, msgspec.structs.replace(DATA, subject=about))
    assert found.export == target.exports[0]
    assert found.considered == len(candidates(student, about)) >= found.fitting >= len(found.front)
    assert len(found.front) >= min(3, found.considered)
    capacities = [capacity(one) for one in found.front]
    assert capacities == sorted(capacities)
