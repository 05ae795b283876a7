"""Latency profiles fitted on measurements: those that come with edgekd, beside this file, and a user's own.

`benchmarks/fit/latency.py` makes the shipped ones; `edgekd calibrate` makes a user's own, below the user's data folder
or `EDGEKD_PROFILES`.
"""

import difflib
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from platformdirs import user_data_path

from edgekd.caches import alone
from edgekd.coefficients import Fit, Prior, conformal, fit
from edgekd.errors import ConfigError
from edgekd.files import decode_json, dumps, read_text, storage_errors, write_text
from edgekd.kernels import FEATURES, Kernels, features, sums, totals
from edgekd.specs import Count, Name, Positive, Size, Spec, Text

SCHEMA: Final = 1
MOST_PROFILE_BYTES: Final = 2**24
SPEC_SHEET: Final = "spec sheet only: ranking, not a number to gate on"
SPREAD_BY_THREADS: Final = 0.25
"""Standard deviation, in log units, of what another number of threads than was measured brings."""
DOUBT: Final = 0.5
"""Standard deviation, in log units, of how a coefficient of another runtime differs from TFLite's."""
LIKE_NOISE: Final = 0.08
LIKE_BOUND: Final = 2.5
FEW: Final = 15
"""Measurements below which a profile is anchored, not calibrated."""
CONTRADICTORY: Final = 3.0
"""Times from which on two latencies of one net contradict each other."""
MOST_EVIDENCE: Final = 2000
"""Nets that are kept with a profile; of more, one more does not matter."""
EVIDENCE: Final = 3
"""Measurements that an estimate is shown with."""

Unit = Literal["cpu", "gpu"]
Number = Annotated[float, Meta(ge=-1e6, le=1e6)]
Place = tuple[str, str, str, int]
"""What a profile is for: runtime, unit, precision and threads, which are 0 on an accelerator."""


class Held(Spec, frozen=True, kw_only=True):
    """How far predictions are off for nets that were left out."""

    what: Text
    """What was left out."""
    rows: Count
    mape: float
    """Mean of |predicted / measured - 1|."""
    within_10: float
    """Share of the rows that are less than 10% off."""
    covered: float
    """Share of the rows inside of their 90% interval; the interval's width was chosen on other devices or parts."""


class Family(Spec, frozen=True, kw_only=True):
    """What devices share that execute a precision with a runtime."""

    runtime: Text
    unit: Unit
    precision: Text
    winograd: bool
    """3x3 convolutions are done by Winograd's way."""
    features: tuple[str, ...]
    mean: tuple[Number, ...]
    """Logarithms of the coefficients, in milliseconds a million, but for a device's scale."""
    covariance: tuple[Number, ...]
    """Of a device's deviation: the lower triangle, row by row."""
    noise: Positive
    """Standard deviation of log errors that the features leave, where a device is measured with many nets."""
    speed: tuple[Number, Number] | None = None
    """A device's scale by its spec sheet: mean and standard deviation of log(milliseconds of a million MACs x peak
    MACs a millisecond / 1e6)."""
    bounds: dict[str, Positive] = {}
    """Tier -> standard deviations that the 90% interval reaches: "calibrated", "anchored", "spec sheet"."""
    held: dict[str, Held] = {}
    """Tier -> how far it is off."""
    devices: Count
    rows: Count
    sources: tuple[Text, ...]
    nets: dict[str, tuple[float, ...]] = {}
    """Features of nets that profiles name as evidence."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Runtime, unit and precision."""
        return self.runtime, self.unit, self.precision

    @property
    def prior(self) -> Prior:
        """As `edgekd.coefficients` takes it."""
        return Prior(np.array(self.mean), unpacked(self.covariance, len(self.mean)))

    def totals(self, nets: Sequence[Kernels]) -> NDArray[np.float64]:
        """(nets, features) of nets."""
        return totals(nets, self.unit, self.winograd)[:, self._columns]

    def sums(self, kernels: Kernels, nets: Sequence[list[int]]) -> NDArray[np.float64]:
        """(nets, features) of nets that have kernels in common, each given by the indices of its own."""
        return sums(kernels, nets, self.unit, self.winograd)[:, self._columns]

    def features_of(self, kernels: Kernels) -> NDArray[np.float64]:
        """(kernels, features) of one net's."""
        return features(kernels, self.unit, self.winograd)[:, self._columns]

    @property
    def _columns(self) -> list[int]:
        return [FEATURES.index(name) for name in self.features]


class Evidence(Spec, frozen=True, kw_only=True):
    """A net that was measured on a device."""

    model: Text
    ms: Positive
    totals: tuple[float, ...] = ()
    """Of its family's features, where the family does not have them."""
    sha256: str = ""
    """Of its file, where that is known."""


class Profile(Spec, frozen=True, kw_only=True):
    """Coefficients of a runtime, precision and set of cores on a device."""

    name: Name
    device: Text
    targets: tuple[Name, ...] = ()
    runtime: Text
    version: Text
    unit: Unit
    precision: Text
    cores: str = ""
    """"1large": one core of the fastest kind."""
    threads: Size
    """0 on an accelerator."""
    log: tuple[Number, ...]
    covariance: tuple[Number, ...]
    noise: Positive | None = None
    """Where it is not the family's."""
    bound: Positive | None = None
    """Standard deviations that the 90% interval reaches, where it is not the family's."""
    rows: Count
    tier: Text
    """"calibrated" or "anchored on N measurements"."""
    held: Held | None = None
    evidence: tuple[Evidence, ...] = ()
    sources: tuple[Text, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """Runtime, unit and precision."""
        return self.runtime, self.unit, self.precision

    @property
    def place(self) -> Place:
        """Where its numbers hold."""
        return *self.key, self.threads

    def has(self, net: Evidence) -> bool:
        """Whether a net was measured for it: its file, or another one that executes the same kernels."""
        return any(one.sha256 == net.sha256 != "" or one.totals == net.totals != () for one in self.evidence)

    @property
    def fit(self) -> Fit:
        """As `edgekd.coefficients` has it."""
        return Fit(np.array(self.log), unpacked(self.covariance, len(self.log)))


class Store(Spec, frozen=True, kw_only=True):
    """A file of profiles."""

    schema: Literal[1]
    families: tuple[Family, ...] = ()
    profiles: tuple[Profile, ...] = ()


def packed(matrix: NDArray[np.float64]) -> tuple[float, ...]:
    """The lower triangle of a symmetric matrix, to five digits."""
    return tuple(float(f"{value:.5g}") for value in matrix[np.tril_indices(len(matrix))])


def unpacked(triangle: Sequence[float], size: int) -> NDArray[np.float64]:
    """The symmetric matrix of a lower triangle.

    Raises:
        ConfigError: it is of another size.
    """
    if len(triangle) != size * (size + 1) // 2:
        raise ConfigError("a profile's covariance does not fit its coefficients", hint="calibrate the device anew")
    matrix = np.zeros((size, size))
    matrix[np.tril_indices(size)] = triangle
    return np.asarray(matrix + np.tril(matrix, -1).T)


@cache
def shipped() -> Store:
    """What comes with edgekd."""
    stores = [_read(path) for path in sorted(Path(__file__).parent.glob("*.json"))]
    return Store(
        schema=1,
        families=tuple(family for store in stores for family in store.families),
        profiles=tuple(profile for store in stores for profile in store.profiles),
    )


def family(runtime: str, unit: str, precision: str) -> Family | None:
    """What is known of a runtime's precision on a kind of processor."""
    return next((one for one in shipped().families if one.key == (runtime, unit, precision)), None)


def family_or_like(runtime: str, unit: str, precision: str) -> Family:
    """As `family`; of a runtime that nobody measured what is known of TFLite, with much more doubt.

    That is for a device on which the runtime itself is measured: TFLite tells only which coefficients are plausible.
    """
    found = family(runtime, unit, precision)
    if found:
        return found
    nearest = family("tflite", unit, precision) or family("tflite", unit, "fp32")
    assert nearest is not None
    return likened(nearest, runtime, precision)


def likened(like: Family, runtime: str, precision: str) -> Family:
    """A family of a runtime that nobody measured on several devices, as far as another one tells."""
    doubt = like.prior.covariance + DOUBT**2 * np.eye(len(like.mean))
    bounds = {kind: max(bound, LIKE_BOUND) for kind, bound in like.bounds.items()}
    return msgspec.structs.replace(
        like,
        runtime=runtime,
        precision=precision,
        covariance=packed(doubt),
        noise=max(like.noise, LIKE_NOISE),
        speed=None,
        bounds=bounds,
        held={},
        nets={},
    )


# --- a user's own


def folder() -> Path:
    """Where a user's profiles are kept."""
    return Path(os.environ.get("EDGEKD_PROFILES") or user_data_path("edgekd") / "profiles").expanduser().absolute()


def own_names() -> tuple[str, ...]:
    """Names of a user's profiles, sorted."""
    return tuple(sorted(path.stem for path in folder().glob("*.json")))


def own(name: str) -> tuple[Profile, ...]:
    """A user's profiles under a name: one for each runtime, precision and number of threads that was measured.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    path = folder() / f"{name}.json"
    if not path.is_file():
        near = difflib.get_close_matches(name, own_names(), n=1)
        hint = (
            f"did you mean {near[0]!r}?"
            if near
            else f"`edgekd calibrate` makes one; yours: {', '.join(own_names()) or 'none'}"
        )
        raise ConfigError(f"no profile named {name!r}", hint=hint)
    return _read(path).profiles


def keep(name: str, profiles: Sequence[Profile]) -> Path:
    """Write a user's profiles under a name, where those of other runtimes, precisions and threads stay; the file."""
    path, places = folder() / f"{name}.json", {one.place for one in profiles}
    with alone(path):
        others: tuple[Profile, ...] = ()
        with suppress(ConfigError):  # there is none, or it is damaged, and this is how to mend it
            others = own(name)
        _write(path, [*profiles, *(one for one in others if one.place not in places)])
    return path


@contextmanager
def revising(name: str) -> Iterator[list[Profile]]:
    """A user's profiles under a name, to be changed in the list; no other process changes them meanwhile.

    Raises:
        ConfigError: as `own`.
        StorageError: they cannot be written.
    """
    path = folder() / f"{name}.json"
    with alone(path):
        before = own(name)
        profiles = list(before)
        yield profiles
        if tuple(profiles) != before:
            _write(path, profiles)


def _write(path: Path, profiles: Sequence[Profile]) -> None:
    with storage_errors(path):
        write_text(path, dumps(Store(schema=1, profiles=tuple(profiles))))


def _read(path: Path) -> Store:
    if path.stat().st_size > MOST_PROFILE_BYTES:
        raise ConfigError(f"{path}: larger than {MOST_PROFILE_BYTES} bytes")
    store = decode_json(Store, read_text(path), str(path))
    for one in store.profiles:
        if len(one.covariance) != len(one.log) * (len(one.log) + 1) // 2:
            raise ConfigError(f"{path}: profile {one.name} is damaged", hint="calibrate the device anew")
    return store


# --- predictions


@dataclass(frozen=True)
class Predicted:
    """Latency of nets, in milliseconds, each with its 90% interval."""

    ms: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class Predictor:
    """Coefficients with what is needed to use them, and how they came about."""

    family: Family
    fit: Fit
    bound: float
    tier: str
    noise: float
    extra: float = 0.0
    """Standard deviation, in log units, on top."""
    profile: Profile | None = None
    notes: tuple[str, ...] = ()

    def predict(self, totals: NDArray[np.float64]) -> Predicted:
        """Of nets by their features, (nets, features)."""
        totals = np.ascontiguousarray(totals)  # else a net would be summed in another order among others than alone
        ms = self.fit.predict(totals)
        spread = np.sqrt(self.fit.spread(totals, self.noise) ** 2 + self.extra**2)
        factor = np.exp(self.bound * spread)
        return Predicted(ms, ms / factor, ms * factor)

    def parts(self, kernels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Milliseconds of kernels by their features, (kernels, features)."""
        return np.asarray(kernels @ np.exp(self.fit.log))

    def nearest(self, totals: NDArray[np.float64]) -> tuple[Evidence, ...]:
        """The measured nets most like one of these features: in what takes their time, and how much of it."""
        if self.profile is None:
            return ()
        weight = np.exp(self.fit.log)

        def apart(one: Evidence) -> float:
            mine, theirs = totals * weight, np.array(one.totals or self.family.nets[one.model]) * weight
            shares = np.abs(mine / mine.sum() - theirs / theirs.sum()).sum() / 2
            return float(shares + 0.1 * abs(np.log(mine.sum() / theirs.sum())))

        known = [one for one in self.profile.evidence if one.totals or one.model in self.family.nets]
        ranked = sorted(known, key=apart)
        return tuple(Evidence(model=one.model, ms=one.ms) for one in ranked[:EVIDENCE])


def of_profile(profile: Profile, extra: float = 0.0, notes: tuple[str, ...] = ()) -> Predictor:
    """What a profile predicts with.

    Raises:
        ConfigError: it is of a family that edgekd does not know, or of another version of its features.
    """
    found = family_or_like(*profile.key)
    if len(found.features) != len(profile.log):
        raise ConfigError(f"profile {profile.name} is of another version of edgekd", hint="calibrate the device anew")
    kind = "calibrated" if profile.tier == "calibrated" else "anchored"
    noise, bound = profile.noise or found.noise, profile.bound or found.bounds[kind]
    return Predictor(found, profile.fit, bound, profile.tier, noise, extra, profile, notes)


def by_spec(found: Family, peak_macs_ms: float) -> Predictor:
    """What is known of a device from its spec sheet: how many MACs a millisecond its threads can issue together."""
    assert found.speed is not None
    mean, deviation = found.speed
    dense = found.mean[found.features.index("dense")]
    scale = mean - dense - float(np.log(peak_macs_ms / 1e6))
    prior = found.prior
    fitted = Fit(prior.mean + scale, prior.covariance + deviation**2)
    return Predictor(found, fitted, found.bounds["spec sheet"], SPEC_SHEET, found.noise)


def settle(
    found: Family, totals: NDArray[np.float64], milliseconds: NDArray[np.float64]
) -> tuple[Fit, float, float | None, Held | None]:
    """Coefficients of a device from measured nets and all that is known of devices of its family.

    Also the noise that the measurements show, the bound of the 90% interval where there are enough of them to tell it,
    and how far each net is off when the others alone are fitted (in ten parts where there are more than 60).

    Args:
        found: the family.
        totals: features of the nets, (nets, features).
        milliseconds: of each.
    """
    rows = len(milliseconds)
    noise = anchor_noise(found.noise, rows)
    left, spread = _left_out(found, totals, milliseconds, noise)
    if rows >= FEW:
        noise = float(np.clip(1.4826 * np.median(np.abs(np.log(left / milliseconds))), noise, 0.3))
        left, spread = _left_out(found, totals, milliseconds, noise)
    made = fit(totals, milliseconds, found.prior, noise)
    if rows < 3:
        return made, max(noise, found.noise), None, None
    errors, scores = np.abs(left / milliseconds - 1), np.abs(np.log(left / milliseconds)) / spread
    own = conformal(scores) if rows >= FEW else None
    held = Held(
        what="each of them" if rows <= MOST_LEFT_OUT else "a tenth of them",
        rows=rows,
        mape=round(float(errors.mean()), 4),
        within_10=round(float((errors < 0.1).mean()), 4),
        covered=round(float((scores <= (own or found.bounds["anchored"])).mean()), 4),
    )
    return made, noise if rows >= FEW else max(found.noise, 0.03), own, held


def anchor_noise(noise: float, rows: int) -> float:
    """A family's noise, raised where a device has few measurements: five are no fair sample of its errors."""
    return float(np.clip(noise * max(1.0, (20 / rows) ** 0.5), noise, max(noise, 0.1)))


def evidence(model: str, milliseconds: float, features: Sequence[float], sha256: str) -> Evidence:
    """A measured net as a profile keeps it."""
    few_digits = tuple(float(f"{value:.4g}") for value in features)
    return Evidence(model=model[:200], ms=float(f"{milliseconds:.5g}"), totals=few_digits, sha256=sha256)


def own_profile(name: str, device: str, found: Family, threads: int, nets: Sequence[Evidence]) -> Profile:
    """A device's profile by nets that its user measured, and by all that is known of devices of its family."""
    rows = len(nets)
    made, noise, bound, held = settle(found, np.array([one.totals for one in nets]), np.array([one.ms for one in nets]))
    return Profile(
        name=name,
        device=device,
        runtime=found.runtime,
        version="as measured",
        unit=found.unit,
        precision=found.precision,
        threads=threads,
        log=tuple(round(float(value), 5) for value in made.log),
        covariance=packed(made.covariance),
        noise=noise,
        bound=bound,
        rows=rows,
        tier="calibrated" if rows >= FEW else f"anchored on {rows} measurement{'s' if rows > 1 else ''}",
        held=held,
        evidence=tuple(nets[:: math.ceil(rows / MOST_EVIDENCE)]),
        sources=("your own measurements",),
    )


def refined(profile: Profile, net: Evidence) -> Profile:
    """A user's profile after one more net was measured.

    Raises:
        ConfigError: it does not have all the nets any more that it was fitted on.
    """
    if len(profile.evidence) < profile.rows:
        raise ConfigError(f"it keeps {len(profile.evidence)} of the {profile.rows} nets that it was fitted on")
    found = family_or_like(*profile.key)
    return own_profile(profile.name, profile.device, found, profile.threads, (*profile.evidence, net))


MOST_LEFT_OUT: Final = 60


def _left_out(
    found: Family, totals: NDArray[np.float64], milliseconds: NDArray[np.float64], noise: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predictions for rows that were not fitted, and their standard deviations in log units."""
    rows = len(milliseconds)
    part = np.arange(rows) if rows <= MOST_LEFT_OUT else np.random.default_rng(0).permutation(rows) % 10
    predicted, spread = np.ones(rows), np.ones(rows)
    for one in set(part.tolist()):
        out = part == one
        made = fit(totals[~out], milliseconds[~out], found.prior, noise)
        predicted[out], spread[out] = made.predict(totals[out]), made.spread(totals[out], noise)
    return predicted, spread
