"""Fit the latency profiles that come with edgekd, and print how far they are off for what they were not fitted on.

    python benchmarks/fit/latency.py DATA [--write]

DATA is a folder as described in benchmarks/fit/measured.py. The table goes to standard output, and with --write to
benchmarks/results/latency.md, the profiles to edgekd/fitted/.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import measured
import msgspec
import numpy as np
from measured import Run
from numpy.typing import NDArray

from edgekd.coefficients import COVERED, Fit, Prior, conformal, fit, share
from edgekd.cost import peaks
from edgekd.files import write_text
from edgekd.fitted import Evidence, Family, Held, Profile, Store, anchor_noise, likened, packed, settle
from edgekd.kernels import FEATURES, Kernels, totals

ROOT = Path(__file__).parents[2]
CPU = (
    "dense", "winograd", "stem", "depthwise", "depthwise_traffic", "grouped", "linear", "matmul", "gathered", "narrow",
    "traffic", "weights", "elementwise", "activation", "pool", "move", "other", "calls", "calls_single",
)  # fmt: skip
GPU = (
    "dense", "winograd", "depthwise", "depthwise_traffic", "grouped", "linear", "matmul", "traffic", "weights",
    "elementwise", "pool", "move", "other", "calls", "calls_depthwise", "serial",
)  # fmt: skip
GUESS = {
    "cpu": {
        "dense": 1, "winograd": 0.6, "stem": 1.5, "depthwise": 2.5, "depthwise_traffic": 2, "grouped": 6, "linear": 4,
        "matmul": 1.5, "gathered": 0.5, "narrow": 0.3, "traffic": 1.5, "weights": 2, "elementwise": 3, "activation": 6,
        "pool": 3, "move": 3, "other": 3, "calls": 0.02, "calls_single": 0.02,
    },
    "gpu": {
        "dense": 1, "winograd": 0.5, "depthwise": 2.5, "depthwise_traffic": 2, "grouped": 1.5, "linear": 4,
        "matmul": 1.5, "traffic": 1.5, "weights": 2, "elementwise": 1, "pool": 3, "move": 3, "other": 3, "calls": 0.1,
        "calls_depthwise": 0.1, "serial": 2,
    },
}  # fmt: skip
"""What a million of each costs beside a million multiply-accumulates of a large matrix product: round numbers, which
count where no device tells a feature apart. That of grouped was raised from 3 to 6 after resnext, the one family of qed
that has grouped convolutions, was seen left out."""
WINOGRAD = {"tflite": False, "pytorch-mobile": False, "ncnn": True}
ANCHORS = {
    "qed": ("mobilenet_w1", "mobilenetv2_w1", "resnet18", "squeezenet_v1_1", "mobilenetv3_small_w1"),
    "ncnn": ("mobilenet_v2", "resnet18", "squeezenet", "efficientnet_b0", "googlenet"),
    "ncnn int8": ("mobilenet_int8", "resnet18_int8", "squeezenet_int8", "googlenet_int8", "resnet50_int8"),
}
FEWEST = {"fp32": 50, "fp16": 15, "int8": 5}
TARGETS = {
    "Google Pixel 4": "android-high",
    "Samsung Galaxy A03s": "android-low",
    "Raspberry Pi 4 Model B Broadcom BCM2711B0, Cortex-A72 (ARMv8) (1.8GHz x 4)": "raspberry-pi-4",
    "Raspberry Pi 5 Broadcom BCM2712, Cortex-A76 (ARMv8) (2.4GHz x 4)": "raspberry-pi-5",
    "Raspberry Pi Zero 2 W Broadcom BCM2710A1, Cortex-A53 (ARMv8) (1.0GHz x 4)": "raspberry-pi-zero-2",
    "Raspberry Pi 4 (ARM64)": "raspberry-pi-4",
    "NVIDIA Jetson Nano": "jetson-nano",
    "NVIDIA Jetson Orin Nano": "jetson-orin-nano",
}

Floats = NDArray[np.float64]


@dataclass
class Group:
    """Runs of one runtime, unit and precision, with the nets that they share."""

    runtime: str
    unit: str
    precision: str
    nets: dict[str, Kernels]
    kin: dict[str, str]
    """Net -> what is left out together with it."""
    runs: list[Run]
    """Those with enough nets to fit."""
    anchors: tuple[str, ...]
    noise: float
    doubt: float = 0.5
    """Standard deviation, in log units, of the guessed coefficients. More for ncnn: GUESS has TFLite in mind, and
    beside a multiply-accumulate ncnn's copies cost six (fp16) and nearly twenty (int8) times of what was guessed."""
    few: list[Run] = field(default_factory=list)
    """Runs with too few nets to be left out, which tell a device's scale."""
    features: tuple[str, ...] = ()
    totals: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    guess: Floats = field(default_factory=lambda: np.zeros(0))
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.features = GPU if self.unit == "gpu" else CPU
        self.names = list(self.nets)
        columns = [FEATURES.index(name) for name in self.features]
        winograd = self.unit == "gpu" or WINOGRAD[self.runtime]
        self.totals = totals(list(self.nets.values()), self.unit, winograd)[:, columns]
        self.guess = np.log([GUESS[self.unit][name] for name in self.features])

    def rows(self, run: Run, wanted: Callable[[str], bool]) -> tuple[Floats, Floats, list[str]]:
        names = [name for name in self.names if name in run.ms and wanted(name)]
        indices = [self.names.index(name) for name in names]
        return self.totals[indices], np.array([run.ms[name] for name in names]), names


@dataclass
class Outcome:
    """Predictions for what was left out."""

    errors: list[float] = field(default_factory=list)
    """predicted / measured - 1."""
    scores: list[float] = field(default_factory=list)
    """|log error| in standard deviations."""
    devices: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)

    def add(self, device: str, run: str, predicted: Floats, spread: Floats, found: Floats) -> None:
        self.errors += (predicted / found - 1).tolist()
        self.scores += (np.abs(np.log(predicted / found)) / spread).tolist()
        self.devices += [device] * len(found)
        self.runs += [run] * len(found)

    @property
    def bound(self) -> float:
        return conformal(np.array(self.scores))

    def held(self, what: str) -> Held:
        errors, scores, devices = np.abs(self.errors), np.array(self.scores), np.array(self.devices)
        inside = np.zeros(len(scores), dtype=bool)
        for device in set(self.devices):  # the bound of the other devices
            mine = devices == device
            others = scores[~mine] if (~mine).any() else scores[~mine | (np.arange(len(scores)) % 2 == 0)]
            inside[mine] = scores[mine] <= conformal(others)
        return Held(
            what=what,
            rows=len(errors),
            mape=round(float(errors.mean()), 4),
            within_10=round(float((errors < 0.1).mean()), 4),
            covered=round(float(inside.mean()), 4),
        )


def main(data: Path, write: bool) -> None:
    """Print the table, and write the profiles."""
    lines = ["| what | left out | rows | MAPE | within 10% | 90% interval holds |", "|---|---|---|---|---|---|"]
    stores: dict[str, Store] = {}
    for name, groups in {"qed": qed(data), "ncnn": ncnn(data)}.items():
        families, profiles = [], []
        for group in groups:
            made, some, told = fitted(group)
            families.append(made)
            profiles += some
            lines += told
            print("\n".join(told), file=sys.stderr, flush=True)
        stores[name] = Store(schema=1, families=tuple(families), profiles=tuple(profiles))
    extra, told = cells(data, stores["qed"])
    stores["qed"] = Store(schema=1, families=stores["qed"].families, profiles=(*stores["qed"].profiles, *extra))
    lines += told
    phone, told = core_ml(data, stores["qed"])
    stores["coreml"] = Store(schema=1, profiles=(phone,))
    lines += told
    print("\n".join(lines))
    if write:
        for name, store in stores.items():
            write_text(ROOT / "edgekd" / "fitted" / f"{name}.json", _lines(store))
        write_text(ROOT / "benchmarks" / "results" / "latency.md", PAGE.format(table="\n".join(lines)))


def _lines(store: Store) -> str:
    """JSON with a family or a profile a line."""
    parts = {"families": store.families, "profiles": store.profiles}
    lists = [
        f'"{name}":[\n' + ",\n".join(msgspec.json.encode(one).decode() for one in some) + "\n]"
        for name, some in parts.items()
    ]
    return f'{{"schema":1,{",".join(lists)}}}\n'


def qed(data: Path) -> list[Group]:
    """Phones."""
    nets, runs = measured.qed_nets(data), measured.qed_runs(data)
    kin = {name: measured.family_of(name) for name in nets}
    keys = [("tflite", "cpu", "fp32"), ("tflite", "cpu", "int8"), ("tflite", "gpu", "fp32")]
    keys += [("pytorch-mobile", "cpu", "fp32"), ("pytorch-mobile", "cpu", "int8")]
    return [
        Group(
            *key,
            nets,
            kin,
            [run for run in runs if _key(run) == key and len(run.ms) > 50],
            ANCHORS["qed"],
            0.03,
            few=[run for run in measured.xnnpack_runs(data) if _key(run) == key],
        )
        for key in keys
    ]


def ncnn(data: Path) -> list[Group]:
    """Boards and phones."""
    nets = measured.ncnn_nets(data)
    runs = [run for run in measured.ncnn_runs(data) if measured.is_board(run.device)]
    kin = {name: name.removesuffix("_int8") for name in nets}
    groups = []
    for key in [("ncnn", "cpu", "fp16"), ("ncnn", "cpu", "int8")]:
        mine = {name: net for name, net in nets.items() if name.endswith("_int8") == (key[2] == "int8")}
        some = [run for run in runs if _key(run) == key and len(run.ms.keys() & mine.keys()) >= FEWEST[key[2]]]
        anchors = ANCHORS["ncnn int8" if key[2] == "int8" else "ncnn"]
        groups.append(Group(*key, mine, kin, some, anchors, 0.08, doubt=0.75))
    return groups


def _key(run: Run) -> tuple[str, str, str]:
    return run.runtime, run.unit, run.precision


# --- one family


def fitted(group: Group) -> tuple[Family, list[Profile], list[str]]:
    """What the devices of a group share, each one's coefficients, and how far they are off."""
    title = f"{group.runtime}, {group.unit}, {group.precision}"
    devices = {run.device for run in group.runs}
    known = _leave_out_kin(group)
    few = _anchored(group)
    held = {
        "calibrated": known.held("a family of nets" if group.runtime != "ncnn" else "a net"),
        "anchored": few.held("a device and a family of nets; 5 anchors"),
    }
    bounds = {"calibrated": round(known.bound, 3), "anchored": round(few.bound, 3)}
    prior = _prior(group, lambda _: True, lambda _: True)
    speeds = _speeds(group, prior)
    speed = None
    if len(speeds) > 1:
        speed = (float(np.mean(list(speeds.values()))), float(max(0.15, np.std(list(speeds.values()), ddof=1))))
        spec = _by_spec(group)
        held["spec sheet"] = spec.held("a device; its spec sheet alone")
        bounds["spec sheet"] = round(max(spec.bound, 1.645), 3)
    else:
        bounds["spec sheet"] = 3.0
    family = Family(
        runtime=group.runtime,
        unit=group.unit,  # type: ignore[arg-type]  # one of two
        precision=group.precision,
        winograd=group.unit == "gpu" or WINOGRAD[group.runtime],
        features=group.features,
        mean=_rounded(prior.mean),
        covariance=packed(prior.covariance),
        noise=group.noise,
        speed=speed and (round(speed[0], 4), round(speed[1], 4)),
        bounds=bounds,
        held=held,
        devices=len(devices),
        rows=sum(len(run.ms) for run in group.runs),
        sources=tuple(sorted({run.source for run in group.runs})),
    )
    profiles = [_profile(group, run, prior, known) for run in group.runs + group.few if _is_kept(run)]
    shown = {one.model for profile in profiles for one in profile.evidence}
    nets = {name: _short(group.totals[group.names.index(name)]) for name in group.names if name in shown}
    family = msgspec.structs.replace(family, nets=nets)
    lines = [
        f"| {title} | {one.what} | {one.rows} | {one.mape:.1%} | {one.within_10:.0%} | {one.covered:.0%} |"
        for one in held.values()
    ]
    return family, profiles, lines


def _is_kept(run: Run) -> bool:
    return run.device in TARGETS or (run.runtime == "tflite" and len(run.ms) > 50)


def _prior(group: Group, devices: Callable[[str], bool], nets: Callable[[str], bool]) -> Prior:
    """What the runs of some devices on some nets share."""
    some = [group.rows(run, nets)[:2] for run in group.runs if devices(run.device)]
    return share([one for one in some if len(one[1]) > 3], group.guess, group.noise, group.doubt)


def _leave_out_kin(group: Group) -> Outcome:
    """Each family of nets is predicted from the others, whose prior has not seen it either."""
    found = Outcome()
    for kin in sorted({group.kin[name] for name in group.names}):
        prior = _prior(group, lambda _: True, lambda name, kin=kin: group.kin[name] != kin)  # type: ignore[misc]
        for run in group.runs:
            seen, ms, _ = group.rows(run, lambda name, kin=kin: group.kin[name] != kin)  # type: ignore[misc]
            left, truth, _ = group.rows(run, lambda name, kin=kin: group.kin[name] == kin)  # type: ignore[misc]
            if len(truth) and len(ms) > 3:
                made = fit(seen, ms, prior, group.noise)
                found.add(run.device, _name(run), made.predict(left), made.spread(left, group.noise), truth)
    return found


def _anchored(group: Group) -> Outcome:
    """Devices from five nets, and what other devices share; predicted are families that nobody has seen.

    Devices and families are left out in parts of several where there are many.
    """
    found = Outcome()
    by_device = _parts([run.device for run in group.runs], 6)
    by_kin = _parts([group.kin[name] for name in group.names if name not in group.anchors], 8)
    for devices in by_device:
        for kin in by_kin:
            prior = _prior(
                group,
                lambda device, devices=devices: device not in devices,  # type: ignore[misc]
                lambda name, kin=kin: group.kin[name] not in kin,  # type: ignore[misc]
            )
            anchors = {name for name in group.anchors if group.kin[name] not in kin}
            wanted = {name for name in group.names if group.kin[name] in kin and name not in group.anchors}
            for run in (run for run in group.runs if run.device in devices):
                seen, ms, _ = group.rows(run, anchors.__contains__)
                left, truth, _ = group.rows(run, wanted.__contains__)
                if len(ms) >= 3 and len(truth):
                    made = fit(seen, ms, prior, anchor_noise(group.noise, len(ms)))
                    found.add(run.device, _name(run), made.predict(left), made.spread(left, group.noise), truth)
    return found


def _parts(groups: Sequence[str], most: int) -> list[set[str]]:
    """Distinct names in at most so many parts."""
    distinct = sorted(set(groups))
    return [set(distinct[part::most]) for part in range(min(most, len(distinct)))]


def _speeds(group: Group, prior: Prior) -> dict[str, float]:
    """Device -> its scale beside the spec sheet's peak, mean over its runs."""
    found = defaultdict(list)
    dense = group.features.index("dense")
    for run in group.runs + group.few:
        peak = peaks(run.core, run.clock_mhz, max(1, run.threads), group.precision) if run.core else 0.0
        if peak:
            made = fit(*group.rows(run, lambda _: True)[:2], prior, group.noise)
            scale = float(np.median(made.log - prior.mean))
            found[run.device].append(scale + prior.mean[dense] + np.log(peak / 1e6))
    return {device: float(np.mean(some)) for device, some in found.items()}


def _by_spec(group: Group) -> Outcome:
    """Each device from its spec sheet, and what other devices share."""
    found = Outcome()
    dense = group.features.index("dense")
    for devices in _parts([run.device for run in group.runs if run.core], 6):
        prior = _prior(group, lambda device, devices=devices: device not in devices, lambda _: True)  # type: ignore[misc]
        speeds = [speed for device, speed in _speeds(group, prior).items() if device not in devices]
        if not speeds:
            continue
        mean, deviation = float(np.mean(speeds)), float(max(0.15, np.std(speeds, ddof=min(1, len(speeds) - 1))))
        for run in (run for run in group.runs if run.device in devices and run.core):
            peak = peaks(run.core, run.clock_mhz, max(1, run.threads), group.precision)
            left, truth, _ = group.rows(run, lambda _: True)
            log = prior.mean + mean - prior.mean[dense] - np.log(peak / 1e6)
            made = Fit(log, prior.covariance + deviation**2)
            found.add(run.device, _name(run), made.predict(left), made.spread(left, group.noise), truth)
    return found


def _name(run: Run) -> str:
    return f"{run.device} {run.cores} {run.threads}"


def _profile(group: Group, run: Run, prior: Prior, known: Outcome) -> Profile:
    seen, ms, names = group.rows(run, lambda _: True)
    made = fit(seen, ms, prior, group.noise if len(ms) >= 15 else anchor_noise(group.noise, len(ms)))
    errors = np.abs([e for e, name in zip(known.errors, known.runs, strict=True) if name == _name(run)])
    scores = np.array([s for s, name in zip(known.scores, known.runs, strict=True) if name == _name(run)])
    held = None
    if len(errors):
        held = Held(
            what="a family of nets" if group.runtime != "ncnn" else "a net",
            rows=len(errors),
            mape=round(float(errors.mean()), 4),
            within_10=round(float((errors < 0.1).mean()), 4),
            covered=round(float((scores <= known.bound).mean()), 4),
        )
    tier = "calibrated" if len(ms) >= 15 else anchors(len(ms))
    return Profile(
        name=_slug(run),
        device=run.device,
        targets=(TARGETS[run.device],) if run.device in TARGETS else (),
        runtime=run.runtime,
        version=run.version,
        unit=run.unit,  # type: ignore[arg-type]  # one of two
        precision=run.precision,
        cores=run.cores,
        threads=run.threads,
        log=_rounded(made.log),
        covariance=packed(made.covariance),
        rows=len(ms),
        tier=tier,
        held=held,
        evidence=_evidence(group, names, ms),
        sources=(run.source,),
    )


def anchors(rows: int) -> str:
    """The tier of a device that few nets were measured on."""
    return f"anchored on {rows} measurement{'s' if rows > 1 else ''}"


def _evidence(group: Group, names: Sequence[str], ms: Floats) -> tuple[Evidence, ...]:
    """A few of the measured nets: the anchors, and one of every other family as long as there are no more than ten."""
    chosen: dict[str, int] = {}
    order = sorted(range(len(names)), key=lambda index: (names[index] not in group.anchors, index))
    for index in order:
        chosen.setdefault(group.kin[names[index]], index)
    return tuple(Evidence(model=names[index], ms=float(f"{ms[index]:.5g}")) for index in list(chosen.values())[:10])


def _slug(run: Run) -> str:
    short = "".join(one if one.isalnum() else "-" for one in run.device.partition("(")[0].partition(",")[0].lower())
    short = "-".join(filter(None, short.split("-")))[:34].strip("-")
    cores = "".join(one for one in run.cores if one.isalnum()) if run.runtime != "ncnn" else f"t{run.threads}"
    return f"{short}-{run.runtime}-{run.unit}-{run.precision}-{cores}"[:64]


def _short(values: Floats) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in values)


def _rounded(values: Floats) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)


# --- NAS-Bench-201


def cells(data: Path, store: Store) -> tuple[list[Profile], list[str]]:
    """Profiles of the two devices, with the prior of the phones."""
    family = next(one for one in store.families if one.key == ("tflite", "cpu", "fp32"))
    table = measured.cells(data)
    nets = [measured.cell_net(one) for one in table]
    seen = family.totals(nets)
    profiles, lines = [], []
    for column, device, target in (
        ("raspi4", "Raspberry Pi 4", "raspberry-pi-4"),
        ("pixel3", "Google Pixel 3", ""),
    ):
        ms = np.array([row[column] for row in table.values()])
        random = np.random.default_rng(0)
        parts = random.permutation(len(ms)) % 10
        predicted, spread, noise = np.zeros(len(ms)), np.zeros(len(ms)), 0.07
        for part in range(10):
            made = fit(seen[parts != part], ms[parts != part], family.prior, noise)
            predicted[parts == part] = made.predict(seen[parts == part])
            spread[parts == part] = made.spread(seen[parts == part], noise)
        errors, scores = np.abs(predicted / ms - 1), np.abs(np.log(predicted / ms)) / spread
        inside = [scores[parts == part] <= conformal(scores[parts != part]) for part in range(10)]
        held = Held(
            what="a tenth of 900 cells of NAS-Bench-201",
            rows=len(ms),
            mape=round(float(errors.mean()), 4),
            within_10=round(float((errors < 0.1).mean()), 4),
            covered=round(float(np.concatenate(inside).mean()), 4),
        )
        few = [_few(seen, ms, family, random) for _ in range(50)]
        lines.append(
            f"| {device}, TFLite, NAS-Bench-201; Spearman {_spearman(predicted, ms):.3f} | {held.what} | {held.rows} | "
            f"{held.mape:.1%} | {held.within_10:.0%} | {held.covered:.0%} |"
        )
        lines.append(
            f"| {device}, from 10 cells (mean of 50 draws); Spearman {np.mean([one[0] for one in few]):.3f}, "
            f"least {min(one[0] for one in few):.3f} | all other cells | {50 * (len(ms) - 10)} | "
            f"{np.mean([one[1] for one in few]):.1%} | | |"
        )
        made = fit(seen, ms, family.prior, noise)
        evidence = tuple(
            Evidence(model=name, ms=float(f"{ms[i]:.5g}"), totals=_short(seen[i]))
            for i, name in list(enumerate(table))[:: len(ms) // 9][:10]
        )
        profiles.append(
            Profile(
                name=f"{device.lower().replace(' ', '-')}-tflite-cpu-fp32-cells",
                device=device,
                targets=(target,) if target else (),
                runtime="tflite",
                version="2020, without XNNPACK by what it takes",
                unit="cpu",
                precision="fp32",
                cores="not told",
                threads=1,
                log=_rounded(made.log),
                covariance=packed(made.covariance),
                rows=len(ms),
                tier="calibrated",
                held=held,
                evidence=evidence,
                sources=(measured.NAS_BENCH,),
            )
        )
    return profiles, lines


# --- Core ML on an iPhone


def core_ml(data: Path, store: Store) -> tuple[Profile, list[str]]:
    """A profile of the Neural Engine from the nets of MobileOne without squeeze-and-excitation."""
    like = next(one for one in store.families if one.key == ("tflite", "gpu", "fp32"))
    family = likened(like, "coreml", "fp16")
    nets = measured.mobileone_nets()
    told = {row["model"]: float(row["latency_ms"]) for row in measured.published(data) if row["model"] in nets}
    seen, ms = family.totals([nets[name] for name in told]), np.array(list(told.values()))
    made, noise, bound, held = settle(family, seen, ms)
    assert held is not None
    profile = Profile(
        name="iphone-12-pro-coreml-fp16",
        device="Apple iPhone 12 Pro",
        targets=("iphone-12",),
        runtime="coreml",
        version="ModelBench, 2022",
        unit="gpu",
        precision="fp16",
        cores="Neural Engine",
        threads=0,
        log=_rounded(made.log),
        covariance=packed(made.covariance),
        noise=noise,
        bound=bound,
        rows=len(ms),
        tier=anchors(len(ms)),
        held=held,
        evidence=tuple(
            Evidence(model=name, ms=latency, totals=_short(row))
            for (name, latency), row in zip(told.items(), seen, strict=True)
        ),
        sources=(measured.MOBILEONE,),
    )
    line = (
        f"| coreml, Neural Engine, fp16 | a net of MobileOne | {held.rows} | {held.mape:.1%} | {held.within_10:.0%} | |"
    )
    return profile, [line]


def _few(seen: Floats, ms: Floats, family: Family, random: Any) -> tuple[float, float]:
    """Rank correlation and mean error of all cells but ten, from those ten."""
    chosen = random.choice(len(ms), 10, replace=False)
    rest = np.setdiff1d(np.arange(len(ms)), chosen)
    made = fit(seen[chosen], ms[chosen], family.prior, anchor_noise(family.noise, 10))
    predicted = made.predict(seen[rest])
    return _spearman(predicted, ms[rest]), float(np.abs(predicted / ms[rest] - 1).mean())


def _spearman(one: Floats, other: Floats) -> float:
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


PAGE = """# How far latency estimates are off

What was left out is predicted from what was not, by `python benchmarks/fit/latency.py DATA`, which fits the profiles of
`edgekd/fitted/` too. MAPE is the mean of |predicted / measured - 1|. The 90% interval of a device has a width that was
chosen on other devices.

{table}
"""

if __name__ == "__main__":
    main(Path(sys.argv[1]), "--write" in sys.argv[2:])
    assert COVERED == 0.9
