"""Hypothesis strategies for every noun, read off its types and bounds; a new noun or field needs nothing here."""

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
    match info:
        case inspect.Metadata():
            return _of(info.type)
        case inspect.AnyType():
            return PLAIN
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.IntType():
            return st.integers(_bound(info.ge, info.gt, 1), _bound(info.le, info.lt, -1))
        case inspect.FloatType():
            low, high = (_first(info.ge, info.gt), _first(info.le, info.lt))
            exclude = {"exclude_min": info.gt is not None, "exclude_max": info.lt is not None}
            return st.floats(low, high, allow_nan=False, allow_infinity=False, **exclude)
        case inspect.StrType(pattern=str()):
            return st.from_regex(info.pattern.replace("$", r"\Z"))
        case inspect.StrType():
            return TEXT if not info.min_length else TEXT.filter(bool)
        case inspect.LiteralType():
            return st.sampled_from(info.values)
        case inspect.UnionType():
            return st.one_of(*map(_of, info.types))
        case inspect.StructType():
            return _struct(info)
        case inspect.TupleType():
            return st.tuples(*map(_of, info.item_types))
        case inspect.VarTupleType() | inspect.ListType():
            least = info.min_length or 0
            items = st.lists(_of(info.item_type), min_size=least, max_size=max(2, least))
            return items.map(tuple) if isinstance(info, inspect.VarTupleType) else items
        case inspect.DictType():
            return st.dictionaries(_of(info.key_type), _of(info.value_type), max_size=3)
    raise NotImplementedError(info)


def _first(*bounds: float | None) -> float | None:
    return next((bound for bound in bounds if bound is not None), None)


def _bound(inclusive: int | None, exclusive: int | None, step: int) -> int | None:
    return inclusive if inclusive is not None or exclusive is None else exclusive + step


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
