"""Gathers what a run published and renders it into one HTML file."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from vlmpipe.evaluation.report.numbers import (
    between,
    cell,
    chance,
    figure,
    readable_seconds,
    readable_size,
    share,
    signed,
    tiny,
)
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
    # Imported here: what they stand on would slow `--help`.
    from vlmpipe.evaluation.answers import writable
    from vlmpipe.evaluation.report.content import gather

    content = gather(run_folder, frozenset(cached))
    page = _environment().get_template(TEMPLATE_NAME).render(content)
    path = run_folder / REPORT_NAME
    write_text(path, writable(page))
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
        "between": between,
        "signed": signed,
        "chance": chance,
        "seconds": readable_seconds,
        "size": readable_size,
        "cell": cell,
    }
    return environment
