"""Hypothesis strategies for every noun, read off its types and bounds; a new noun or field needs nothing here."""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import hypothesis.strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import inspect

from edgekd import specs
from edgekd.specs import Artifact, Budget, Cost, Device, File, Measurement, Plan, Recipe, Report, Spec, Target

T = TypeVar("T", bound=Spec)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
PLAIN: SearchStrategy[Any] = st.recursive(
    st.booleans() | st.integers() | FINITE | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
"""What JSON and TOML can both say: a value of a table of options."""


@cache
def nouns(kind: type[T]) -> SearchStrategy[T]:
    """Valid values of a noun; fields that have a default are sometimes left at it."""
    return _struct(inspect.type_info(kind))


def _struct(info: Any) -> SearchStrategy[Any]:
    required = {field.name: _of(field.type) for field in info.fields if field.required}
    optional = {field.name: _of(field.type) for field in info.fields if not field.required}
    return st.fixed_dictionaries(required, optional=optional).map(lambda values: info.cls(**values))


def _of(info: Any) -> SearchStrategy[Any]:
    return _MAKERS[type(info)](info)


def _whole(info: Any) -> SearchStrategy[int]:
    low = info.ge if info.gt is None else info.gt + 1
    return st.integers(low, info.le if info.lt is None else info.lt - 1)


def _float(info: Any) -> SearchStrategy[float]:
    low, high = (info.ge if info.gt is None else info.gt), (info.le if info.lt is None else info.lt)
    open_ends: Any = {"exclude_min": info.gt is not None, "exclude_max": info.lt is not None}
    return st.floats(low, high, allow_nan=False, allow_infinity=False, **open_ends)


def _text(info: Any) -> SearchStrategy[str]:
    if info.pattern:
        return st.from_regex(info.pattern.replace("$", r"\Z"))
    return TEXT.filter(bool) if info.min_length else TEXT


def _list(info: Any) -> SearchStrategy[list[Any]]:
    least = info.min_length or 0
    return st.lists(_of(info.item_type), min_size=least, max_size=max(2, least))


_MAKERS: dict[type, Callable[[Any], SearchStrategy[Any]]] = {
    inspect.Metadata: lambda info: _of(info.type),
    inspect.AnyType: lambda _: PLAIN,
    inspect.BoolType: lambda _: st.booleans(),
    inspect.NoneType: lambda _: st.none(),
    inspect.IntType: _whole,
    inspect.FloatType: _float,
    inspect.StrType: _text,
    inspect.LiteralType: lambda info: st.sampled_from(info.values),
    inspect.UnionType: lambda info: st.one_of(*map(_of, info.types)),
    inspect.StructType: _struct,
    inspect.TupleType: lambda info: st.tuples(*map(_of, info.item_types)),
    inspect.VarTupleType: lambda info: _list(info).map(tuple),
    inspect.ListType: _list,
    inspect.DictType: lambda info: st.dictionaries(_of(info.key_type), _of(info.value_type), max_size=3),
}


def kinds() -> list[type[Spec]]:
    """Every noun of specs.py."""
    found = [value for value in vars(specs).values() if isinstance(value, type) and issubclass(value, Spec)]
    return [kind for kind in found if kind is not Spec]


def float_fields(kind: type[Spec]) -> list[str]:
    """Fields of a noun that hold one number with a point, or none."""

    def is_float(info: Any) -> bool:
        bare = info.type if isinstance(info, inspect.Metadata) else info
        return isinstance(bare, inspect.FloatType) or any(map(is_float, getattr(bare, "types", ())))

    fields: Any = inspect.type_info(kind).fields  # type: ignore[attr-defined]  # of a struct
    return [field.name for field in fields if is_float(field.type)]


FILES: SearchStrategy[File] = nouns(File)
BUDGETS: SearchStrategy[Budget] = nouns(Budget)
DEVICES: SearchStrategy[Device] = nouns(Device)
TARGETS: SearchStrategy[Target] = nouns(Target)
RECIPES: SearchStrategy[Recipe] = nouns(Recipe)
COSTS: SearchStrategy[Cost] = nouns(Cost)
PLANS: SearchStrategy[Plan] = nouns(Plan)
ARTIFACTS: SearchStrategy[Artifact] = nouns(Artifact)
MEASUREMENTS: SearchStrategy[Measurement] = nouns(Measurement)
REPORTS: SearchStrategy[Report] = nouns(Report)
