"""Numbers as people read them, and ways into a summary of which any part may be missing."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

Summary = dict[str, Any]
"""What `edgekd.report.summary` returns."""

Show = Callable[[Any], str]
"""A number as people read it."""

NOTHING: Final = "\N{EN DASH}"
"""Stands where there is no number."""

NBSP: Final = "\N{NO-BREAK SPACE}"


def mappings(tree: Any, *path: str) -> list[dict[str, Any]]:
    """The mappings in the list at the end of the path; none where it is missing."""
    found = reach(tree, *path)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list | tuple) else []


def reach(tree: Any, *path: str) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def chosen_first(summary: Summary, key: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In the order given, but for the chosen artifact's."""
    return sorted(rows, key=lambda one: one.get(key) != summary.get("artifact"))


def drawable(value: Any) -> float | None:
    """The value as a float that can be drawn; None where it is not one."""
    if isinstance(value, int | float) and abs(value) < 1e300:
        return float(value)
    return None


def number(value: Any, digits: int = 3) -> str:
    """With so many significant digits.

    >>> number(0.0499537), number(33.0), number(1234567)
    ('0.0500', '33', '1,234,567')
    """
    if not isinstance(value, int | float):
        return str(value) if isinstance(value, str) and value else NOTHING
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞" if value < 0 else NOTHING
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e9:
        factor, _, power = f"{value:.{digits - 1}e}".partition("e")
        return f"{factor} × 10{str(int(power)).translate(_RAISED)}".replace(" ", NBSP)
    if float(value).is_integer():
        return f"{value:,.0f}"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # of what is shown: 0.9999 is shown as 1.00
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


_RAISED: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def milliseconds(value: Any, digits: int = 3) -> str:
    """A time in milliseconds: `0.0500 ms`."""
    return with_unit(value, number(value, digits), "ms")


def size(value: Any, digits: int = 3) -> str:
    """Bytes in powers of 1000: 81312 is `81.3 kB`."""
    return _scaled(value, digits, ("B", "kB", "MB", "GB", "TB"), NBSP)


def count(value: Any, digits: int = 3) -> str:
    """Things in powers of 1000: 20834 is `20.8k`."""
    return _scaled(value, digits, ("", "k", "M", "G", "T"), "")


def percent(value: Any, digits: int = 3) -> str:
    """A share in percent: 0.979 is `97.9%`; what is not a share is shown as it is."""
    if drawable(value) is None or abs(value) > 10:
        return number(value, digits)
    whole, _, decimals = f"{100 * value:.{digits - 1}f}".partition(".")
    return f"{whole}.{decimals.rstrip('0') or '0'}%"


def points(value: Any) -> str:
    """A difference of shares in percentage points, with its sign."""
    if drawable(value) is None or abs(value) > 10:
        return number(value)
    text = f"{100 * value:+.2f}".replace("-", "−")
    return f"{'0.00' if text[1:] == '0.00' else text}{NBSP}points"


def fact(value: Any, name: str) -> str:
    """A value by the unit in its field's name: `ram_bytes`, `clock_mhz`."""
    units: dict[str, Show] = {
        "_ms": milliseconds,
        "_bytes_s": lambda given: with_unit(given, size(given), "/s").replace(f"{NBSP}/s", "/s"),
        "_bytes": size,
        "_mhz": lambda given: with_unit(given, number(given, 4), "MHz"),
        "_mj": lambda given: with_unit(given, number(given), "mJ"),
        "_floor": percent,
    }
    show = next((show for ending, show in units.items() if name.endswith(ending)), number)
    return show(value)


def with_unit(value: Any, text: str, unit: str) -> str:
    return f"{text}{NBSP}{unit}" if isinstance(value, int | float) else text


def _scaled(value: Any, digits: int, units: Sequence[str], gap: str) -> str:
    if drawable(value) is None:
        return number(value)
    scaled, power = float(value), 0
    while abs(scaled) >= 999.5 and power < len(units) - 1:
        scaled, power = scaled / 1000, power + 1
    return f"{number(scaled, digits)}{gap}{units[power]}"
