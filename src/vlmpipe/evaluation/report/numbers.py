"""Numbers as people read them: few digits, units, a dash where there is none."""

from __future__ import annotations

import math
from typing import Any


def figure(value: Any, digits: int = 3) -> str:
    """A number for people: `digits` decimals, large ones grouped, a dash where there is none."""
    if not is_number(value):
        return "–"
    if not math.isfinite(value):
        return str(value)
    return f"\u2212{_plain(-value, digits)}" if value < 0 else _plain(value, digits)


def _plain(value: float, digits: int) -> str:
    if value >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    if float(value).is_integer():
        return f"{value:.0f}"
    if value >= 10:
        return f"{value:.1f}"
    small = value < 10**-digits
    return f"{value:.2g}" if small else f"{value:.{digits}f}"


def tiny(value: Any) -> str:
    """A number of any size in two significant digits: `0.00031`, `3.3e-8`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "–"
    if value == 0 or abs(value) >= 1e-4:
        return f"{value:.2g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def share(value: Any) -> str:
    """A share as a percentage, `100 %` only where it is all."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "–"
    if value < 1 and round(value * 100, 1) == 100.0:
        return "99.9 %"
    return f"{value * 100:.1f} %".replace(".0 %", " %")


def cell(value: Any) -> str:
    """A value of a JSON table: numbers as `figure` has them, text as it is."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return figure(value)
    return "–" if value is None else str(value)


def readable_seconds(value: float | None) -> str:
    """`0.42 s`, `38 s`, `4 min 05 s`, `2 h 10 min`."""
    if value is None:
        return "–"
    if value < 10:
        return f"{value:.2g} s"
    minutes, seconds = divmod(round(value), 60)
    if not minutes:
        return f"{seconds} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def readable_size(count: Any) -> str:
    """Bytes in binary units."""
    if not isinstance(count, (int, float)):
        return "–"
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def between(interval: Any, digits: int = 3) -> str:
    """`[0.921, 0.985]`, of a pair or of something with `low` and `high`; empty for a single
    point, which resampling gives where it knows nothing else.
    """
    low, high = (
        (interval.low, interval.high) if hasattr(interval, "low") else (interval[0], interval[1])
    )
    if low == high:
        return ""
    return f"[{figure(low, digits)}, {figure(high, digits)}]"


def signed(value: Any, digits: int = 3) -> str:
    """A difference with its sign: `+0.963`, `−0.012`, `+0.0003`, `0`."""
    if not is_number(value) or not math.isfinite(value) or value == 0:
        return figure(value, digits)
    small = abs(value) < 0.5 * 10**-digits
    text = f"{abs(value):.1g}" if small else figure(abs(round(value, digits)), digits)
    return ("+" if value > 0 else "\u2212") + text


def chance(p_value: Any) -> str:
    """A p-value: `p < 0.001`, `p 0.032`."""
    if not is_number(p_value) or not math.isfinite(p_value):
        return "p –"
    return "p < 0.001" if p_value < 0.001 else f"p {p_value:.2g}"


def is_number(value: Any) -> bool:
    """Whether it is one; `True` is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
