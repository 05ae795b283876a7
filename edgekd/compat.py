"""Whether a runtime of some version executes an artifact rightly, from tables of what runtimes were seen to do.

The tables are edgekd/runtimes/<format>.toml, which versions of operators each release of a runtime has, and
edgekd/runtimes/<format>-failures.toml, what it refuses or answers wrongly although it has the version that a file says.
Each says on top how it was measured.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, TypeVar

from edgekd.errors import ConfigError
from edgekd.files import load_toml
from edgekd.specs import Name, Operator, Size, Spec, Text

T = TypeVar("T")

FOLDER: Final = Path(__file__).parent / "runtimes"
AS_THE_SET: Final = 99
"""Version of an operator that a runtime has in every operator set that it reads."""

Points = dict[Text, Size]
"""Release -> number that holds from it on, until the next release that is named; 0 before the first."""


class Failure(Spec, frozen=True, kw_only=True):
    """A kind of operator that a runtime does not execute rightly in a precision."""

    precision: Name
    kind: Text
    releases: tuple[Text, ...]
    dtype: str = ""
    """Only where the operator's first output is of this type; "" where that does not matter."""
    inputs: Size = 0
    """Only where the operator reads so many tensors that are not constants; 0 where that does not matter."""
    by_channel: bool | None = None
    """Only where a constant that it reads has a scale for each channel, or where none has; None: either."""
    sqnr_db: float | None = None
    """It is executed, and this is how close it comes to the same net in float32: the worst of the releases."""
    error: str = ""
    """It is refused, and this is what the runtime says."""


class Runtime(Spec, frozen=True, kw_only=True):
    """What the releases of a runtime have."""

    releases: tuple[Text, ...]
    """Those that are known, oldest first."""
    sets_only: tuple[Text, ...] = ()
    """Of these releases the operator sets are known, and not the operators."""
    operators: dict[Text, Points] = {}
    """Kind -> highest version; what is not here no release has. Empty where the operator sets tell all."""
    sets: dict[str, Points] = {}
    """Domain -> newest operator set, in formats whose operators are versioned together."""
    ir: Points = {}
    """Newest version of the file format itself."""


def problems(operators: Sequence[Operator], fmt: str, precision: str, runtime: str, version: str) -> tuple[str, ...]:
    """Why a runtime of that version refuses an artifact, or silently answers wrongly: a line each, () for no reason.

    A release that was not looked at is taken for the newest one before it that was.

    Raises:
        ConfigError: the version is not one.
    """
    release = release_of(fmt, runtime, version)
    if release is None:
        return (f"nothing is known of {runtime} {version} and {fmt}: verify on the device",)
    asked = _Asked(runtimes_of(fmt), failures_of(fmt), runtime, version, release)
    return (*asked.lacks(operators), *asked.fails(operators, precision))


def release_of(fmt: str, runtime: str, version: str) -> str | None:
    """The newest release that is known and not newer than a version; None where nothing is known.

    Raises:
        ConfigError: the version is not one.
    """
    known = runtimes_of(fmt)[runtime].releases if runtime in runtimes_of(fmt) else ()
    return max((one for one in known if _order(one) <= _order(version)), key=_order, default=None)


def newest_set(fmt: str, runtime: str, version: str, domain: str = "") -> int | None:
    """The newest operator set that a runtime reads, which a converter may write; None where nothing is known."""
    release = release_of(fmt, runtime, version)
    return _at(runtimes_of(fmt)[runtime].sets.get(domain, {}), release) if release else None


def newest_ir(fmt: str, runtime: str, version: str) -> int | None:
    """The newest version of the file format itself that a runtime reads; None where nothing is known."""
    release = release_of(fmt, runtime, version)
    return _at(runtimes_of(fmt)[runtime].ir, release) if release else None


@cache
def runtimes_of(fmt: str) -> dict[str, Runtime]:
    """Everything that is known of the runtimes of a format; empty for a format without a table."""
    return _table(dict[str, Runtime], fmt, "")


@cache
def failures_of(fmt: str) -> dict[str, tuple[Failure, ...]]:
    """What runtimes of a format do not execute rightly in some precision, by runtime."""
    return _table(dict[str, tuple[Failure, ...]], fmt, "-failures")


def _table(kind: type[T], fmt: str, what: str) -> T:
    path = FOLDER / f"{fmt}{what}.toml"
    return load_toml(kind, path) if fmt.isidentifier() and path.is_file() else kind()


@dataclass(frozen=True)
class _Asked:
    """A runtime of a device, asked about an artifact."""

    runtimes: Mapping[str, Runtime]
    """All that read the format."""
    failures: Mapping[str, tuple[Failure, ...]]
    name: str
    version: str
    release: str
    """The known one that the version is taken for."""

    @property
    def own(self) -> Runtime:
        return self.runtimes[self.name]

    @property
    def title(self) -> str:
        return f"{self.name} {self.version}"

    def lacks(self, operators: Sequence[Operator]) -> Iterator[str]:
        """Operator sets first, each once, then kinds of operators."""
        lacking = [
            one for one in operators if max(1, one.version) > self._newest(one.kind)
        ]  # some files say no version
        of_sets = {(_domain(one.kind), one.version) for one in lacking if self._goes_with_the_set(one.kind)}
        for domain, number in sorted(of_sets):
            what = f"operator set {number}" + (f" of {domain}" if domain else "")
            newest = _at(self.own.sets.get(domain, {}), self.release)
            yield f"{what}: {self.title} {_goes_up_to(newest)}; {self._who_reads(domain, number)}"
        of_kinds = Counter((one.kind, one.version) for one in lacking if not self._goes_with_the_set(one.kind))
        for (kind, number), count in sorted(of_kinds.items()):
            what = f"{kind} version {number}" + (f", {count} times" if count > 1 else "")
            yield f"{what}: {self.title} {_goes_up_to(self._newest(kind))}; {self._who_has(kind, number)}"

    def fails(self, operators: Sequence[Operator], precision: str) -> Iterator[str]:
        """Kinds that it has, and does not execute rightly in this precision."""
        for failure in self.failures.get(self.name, ()):
            if _holds(failure, self.release, precision) and any(_is_of(one, failure) for one in operators):
                refused = failure.sqnr_db is None
                how = f"refuses it ({failure.error})" if refused else f"is silently wrong ({failure.sqnr_db:.1f} dB)"
                yield f"{precision} {failure.kind}: {self.title} {how}; {self._who_is_right(failure)}"

    def _goes_with_the_set(self, kind: str) -> bool:
        unknown = not self.own.operators or self.release in self.own.sets_only
        return unknown or _at(self.own.operators.get(kind, {}), self.release) == AS_THE_SET

    def _newest(self, kind: str) -> int:
        if self._goes_with_the_set(kind):
            return _at(self.own.sets.get(_domain(kind), {}), self.release)
        return _newest(self.own, kind, self.release)

    def _who_reads(self, domain: str, number: int) -> str:
        def reads(name: str, release: str) -> bool:
            return _at(self.runtimes[name].sets.get(domain, {}), release) >= number

        return self._first(reads, "reads it")

    def _who_has(self, kind: str, number: int) -> str:
        def has(name: str, release: str) -> bool:
            return _newest(self.runtimes[name], kind, release) >= number

        return self._first(has, "has it")

    def _who_is_right(self, failure: Failure) -> str:
        def right(name: str, release: str) -> bool:
            return not any(
                one.kind == failure.kind
                and one.inputs == failure.inputs
                and one.by_channel == failure.by_channel
                and _holds(one, release, failure.precision)
                for one in self.failures.get(name, ())
            )

        return self._first(right, "is right")

    def _first(self, fits: Callable[[str, str], bool], what: str) -> str:
        """The first newer release of the same runtime, else the first of another that reads the format."""
        own = [one for one in self.own.releases if _order(one) > _order(self.release)]
        others = [
            (name, one) for name, runtime in self.runtimes.items() if name != self.name for one in runtime.releases
        ]
        for name, release in [*((self.name, one) for one in own), *others]:
            if fits(name, release):
                return f"{name} {release} {what}"
        return f"no known release {what}"


def _newest(runtime: Runtime, kind: str, release: str) -> int:
    number = _at(runtime.operators.get(kind, {}), release)
    return _at(runtime.sets.get(_domain(kind), {}), release) if number == AS_THE_SET else number


def _at(points: Mapping[str, int], release: str) -> int:
    """The number that holds in a release."""
    first = max((one for one in points if _order(one) <= _order(release)), key=_order, default=None)
    return points[first] if first else 0


def _holds(failure: Failure, release: str, precision: str) -> bool:
    return failure.precision == precision and release in failure.releases


def _is_of(operator: Operator, failure: Failure) -> bool:
    same_type = failure.dtype in {"", operator.dtype}
    same_scales = failure.by_channel in {None, operator.by_channel}
    return operator.kind == failure.kind and same_type and same_scales and failure.inputs in {0, len(operator.inputs)}


def _goes_up_to(newest: int) -> str:
    return f"goes up to {newest}" if newest else "does not have it"


def _domain(kind: str) -> str:
    return kind.rpartition(":")[0]


@cache
def _order(version: str) -> tuple[int, ...]:
    """What versions are sorted by.

    >>> _order("1.20.1") > _order("1.9"), _order("2.14") == _order("2.14.0"), _order("2.1.0rc1+cpu")
    (True, True, (2, 1))
    """
    found = re.match(r"[0-9]{1,9}(?:\.[0-9]{1,9}){0,5}", version)
    if not found:
        raise ConfigError(f"{version[:80]!r} is not a version of a runtime", hint='write it as "2.14.0"')
    numbers = [int(one) for one in found[0].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
