"""`vlmpipe review`: people as judges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vlmpipe.cli import options
from vlmpipe.cli.judge import Data, Engines, chosen_engines, shown
from vlmpipe.cli.output import print_json, stdout_reserved
from vlmpipe.config import Config, load_config
from vlmpipe.errors import ConfigError

if TYPE_CHECKING:
    from vlmpipe.evaluation.judging.summary import Agreement
    from vlmpipe.evaluation.review import ReviewResults, Sheet

app = typer.Typer(help="Have people judge answers, and count what they said.")


@app.command()
def export(
    engines: Engines,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="The sheet, one HTML file.", metavar="FILE")
    ],
    overrides: options.Overrides = None,
    config: options.ConfigFiles = None,
    data: Data = "heldout",
    samples: Annotated[int, typer.Option(help="Samples shown, at most.", min=1)] = 50,
    seed: Annotated[
        str | None,
        typer.Option(
            help="Draws which answer stands first: the same seed, the same sheet. Whoever knows it"
            " is not blind. Unset: a secret.",
            metavar="TEXT",
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Write a sheet to judge two engines' answers on, in any browser, offline.

    Which answer is whose is not in the sheet but in a key beside the run; `review import` uses it.
    """
    loaded = load_config(config or (), overrides or ())
    with stdout_reserved(as_json):
        sheet = _written(loaded, chosen_engines(engines, at_least=2), data, out, samples, seed)
    if as_json:
        print_json(
            {
                "sheet": sheet.name,
                "path": str(sheet.path),
                "key": str(sheet.key),
                "items": sheet.items,
                "identical": sheet.identical,
            }
        )
        return
    console = Console()
    _print(console, f"sheet: {sheet.path} ({sheet.items} pairs, {sheet.path.stat().st_size:,} B)")
    if sheet.identical:
        _print(console, f"left out: {sheet.identical} samples that both answered the same")
    _print(console, f"key: {sheet.key} (keep it from the people who judge)")
    _print(console, f"then: vlmpipe review import review-{sheet.name[:6]}-NAME.json …")


@app.command("import")
def import_(
    words: Annotated[
        list[str],
        typer.Argument(
            help="Files that people downloaded from one sheet, and settings.",
            metavar="FILE.json... [KEY=VALUE]...",
        ),
    ],
    config: options.ConfigFiles = None,
    as_json: options.AsJson = False,
) -> None:
    """Count what people said: win rates, how far they agree, and with the metric and the judge."""
    from vlmpipe.evaluation.review import import_reviews

    files = [Path(word) for word in words if _is_file(word)]
    loaded = load_config(config or (), [word for word in words if not _is_file(word)])
    with stdout_reserved(as_json):
        results, written = import_reviews(loaded.run.outputs_dir / loaded.run.name, files)
    if as_json:
        print_json({**results.model_dump(mode="json"), "written": str(written)})
        return
    console = Console()
    console.print(_outcome_table(results))
    console.print(_rater_table(results))
    for line in _agreements(results):
        _print(console, line)
    _print(console, f"written: {written}")


def _written(
    config: Config, engines: Sequence[str], data: str, out: Path, samples: int, seed: str | None
) -> Sheet:
    from vlmpipe.evaluation.judging.cases import cases_of_run
    from vlmpipe.evaluation.judging.folders import REVIEW_FOLDER
    from vlmpipe.evaluation.review import write_sheet

    if out.is_dir():
        raise ConfigError(f"{out} is a folder", f"name a file in it: -o {out / 'sheet.html'}")
    first, second = engines
    folder = config.run.outputs_dir / config.run.name / REVIEW_FOLDER
    cases = cases_of_run(config, engines, data)
    shown_cases = cases.differing(samples)
    return write_sheet(shown_cases, (first, second), out, folder, seed, cases.identical)


def _is_file(word: str) -> bool:
    if "=" not in word:
        return True
    try:
        return Path(word).is_file()
    except OSError:
        # Longer than a file's name can be.
        return False


def _outcome_table(results: ReviewResults) -> Table:
    table = Table(title_justify="left")
    for column in ("engine", "pairs won", "ties", "win rate", "of the decided"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    for name in results.engines:
        table.add_row(
            escape(name),
            str(results.outcomes[name]),
            str(results.outcomes["tie"]),
            shown(results.win_rate[name]),
            shown(results.decided[name]),
        )
    return table


def _rater_table(results: ReviewResults) -> Table:
    table = Table(title_justify="left")
    for column in ("who", "judged", *results.engines, "tie", "both bad", "answer 1 chosen"):
        table.add_column(escape(column), justify="left" if column == "who" else "right")
    for name, counts in results.raters.items():
        table.add_row(
            escape(name),
            f"{counts.judged} of {results.pairs}",
            *(str(counts.wins[engine]) for engine in results.engines),
            str(counts.ties),
            str(counts.both_bad),
            shown(counts.first_wins),
        )
    return table


def _agreements(results: ReviewResults) -> list[str]:
    lines = [
        f"{' and '.join(pair.raters)}: kappa {shown(pair.kappa)},"
        f" weighted {shown(pair.weighted_kappa)}, {pair.kappa.n} pairs"
        for pair in results.agreement
    ]
    lines.append(_agreement(", ".join(results.metrics) or "the metric", results.metric))
    if results.judge is not None:
        lines.append(_agreement("the judge", results.judge))
    return lines


def _agreement(name: str, found: Agreement) -> str:
    return (
        f"with {name}: agrees on {shown(found.agree)} of {found.agree.n} that both decide;"
        f" kappa {shown(found.kappa)}"
    )


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
