"""Gathers what a run published and renders it into one HTML file."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmpipe.evaluation.report.content import gather
from vlmpipe.pipeline.files import write_text

if TYPE_CHECKING:
    from jinja2 import Environment

REPORT_NAME = "report.html"
TEMPLATE_NAME = "report.html.j2"


def write_report(run_folder: Path, *, cached: Collection[str] = ()) -> Path:
    """Render `report.html` into a run's folder and return its path.

    Works for a run in which only some stages are published. `cached` names the stages that the
    last invocation did not have to run.

    Raises:
        ArtifactError: when a manifest is damaged.
    """
    content = gather(run_folder, frozenset(cached))
    page = _environment().get_template(TEMPLATE_NAME).render(content)
    path = run_folder / REPORT_NAME
    write_text(path, page)
    return path


def _environment() -> Environment:
    # Imported here: the command line imports this module even for `--help`.
    from jinja2 import ChainableUndefined, Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("vlmpipe.evaluation", "templates"),
        autoescape=True,
        # A hand-off file may lack what this page would like to show: then the place is empty.
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": figure,
        "tiny": tiny,
        "share": share,
        "seconds": readable_seconds,
        "size": readable_size,
        "cell": cell,
    }
    return environment


def figure(value: Any, digits: int = 3) -> str:
    """A number for people: `digits` decimals, large ones grouped, a dash where there is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "–"
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    if float(value).is_integer():
        return f"{value:.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    small = abs(value) < 10**-digits
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
