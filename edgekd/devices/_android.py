"""What Android says of a device: its properties and temperatures, as its own tools print them."""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

COMMAND: Final = "getprop 2>/dev/null; echo edgekd end"
THERMAL_COMMAND: Final = "dumpsys thermalservice 2>/dev/null; dumpsys battery 2>/dev/null; echo edgekd end"

_PROPERTY: Final = re.compile(r"^\[([^\]\n]+)\]: \[([^\]\n]*)\]\r?$", re.MULTILINE)
_STATUS: Final = re.compile(r"^\s*Thermal Status: (\d+)\s*$", re.MULTILINE)
_TEMPERATURE: Final = re.compile(r"Temperature\{mValue=(-?[\d.]+), mType=(-?\d+), mName=([^,}]*), mStatus=(-?\d+)\}")
_BATTERY: Final = re.compile(r"^\s*temperature: (-?\d+)\s*$", re.MULTILINE)
_NOW: Final = "Current temperatures from HAL:"
_NO_TEMPERATURES: Final = {6, 7, 8}
"""Types of android.os.Temperature that are voltages, currents and percentages of a battery."""


class Heat(NamedTuple):
    """How warm a device is."""

    temperatures_c: tuple[float, ...] = ()
    status: int = 0
    """Of android.os.PowerManager: 0 is not throttled, 1 light, 2 moderate, 3 severe, up to 6, shutdown."""


def properties(printed: str) -> dict[str, str]:
    """What `getprop` prints, "[name]: [value]" lines; {} where there is none."""
    return dict(_PROPERTY.findall(printed))


def identity(found: Mapping[str, str]) -> dict[str, str]:
    """`cpu` and `system` of a Machine, as far as properties tell them: "Pixel 8, Google Tensor G3"; "Android 14"."""

    def first(*names: str) -> str:
        return next((found[name] for name in names if found.get(name)), "")

    maker, model = first("ro.product.manufacturer"), first("ro.product.model")
    named = model if model.lower().startswith(maker.lower()) else f"{maker} {model}".strip()
    chip = first("ro.soc.model", "ro.board.platform", "ro.hardware")
    chip = " ".join(part for part in (found.get("ro.soc.manufacturer", ""), chip) if part) if chip else ""
    release, build = first("ro.build.version.release"), first("ro.build.id")
    told = {
        "cpu": ", ".join(part for part in (named, chip) if part),
        "system": f"Android {release}" + (f" ({build})" if build else "") if release else "",
    }
    return {name: value for name, value in told.items() if value}


def heat(printed: str) -> Heat:
    """What `dumpsys thermalservice` (since Android 10) and `dumpsys battery` print.

    Source: dump() of ThermalManagerService and BatteryService in Android's frameworks/base; a battery's temperature is
    in tenths of a degree.
    """
    now = printed.partition(_NOW)[2].partition("Current cooling devices")[0] if _NOW in printed else printed
    readings = [
        float(value)
        for value, kind, _, _ in _TEMPERATURE.findall(now)
        if int(kind) not in _NO_TEMPERATURES and re.fullmatch(r"-?\d+(\.\d+)?", value)
    ]
    battery = _BATTERY.search(printed)
    readings += [int(battery[1]) / 10] if battery and not readings else []
    status = _STATUS.search(printed)
    return Heat(tuple(readings), int(status[1]) if status else 0)


def with_heat(conditions: dict[str, Any], found: Heat) -> dict[str, Any]:
    """A guest's conditions, with what it may not read by itself."""
    told = dict(conditions)
    if not told.get("temperatures_c"):
        told["temperatures_c"] = list(found.temperatures_c)
    if not told.get("throttled"):
        told["throttled"] = found.status
    return told
