"""`vlmpipe data synth` and `data sheet`: generated samples in a folder of one's own."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from vlmpipe.cli import options
from vlmpipe.cli.console import RichReporter
from vlmpipe.cli.output import print_json
from vlmpipe.errors import ConfigError, InterruptError

if TYPE_CHECKING:
    from vlmpipe.data.synthetic.recipe import Recipe
    from vlmpipe.data.synthetic.synth import FolderFacts

app = typer.Typer(help="Generate samples, and look at them.")


@app.command()
def synth(
    task: Annotated[str, typer.Option(help="What is drawn and asked for, e.g. table.")],
    n: Annotated[int, typer.Option("--n", help="Samples in all.")],
    out: Annotated[Path, typer.Option(help="Folder, new or empty.", metavar="DIR")],
    seed: Annotated[int, typer.Option(help="Another seed, other samples.")] = 0,
    difficulty: Annotated[
        str, typer.Option(help="Range from 0 (easiest) to 1.", metavar="LOW:HIGH")
    ] = "0:1",
    languages: Annotated[
        str, typer.Option(help="What documents are written in, drawn by lot.", metavar="LIST")
    ] = "en,ko",
    scan: Annotated[
        float,
        typer.Option(help="How badly a scanner treats the pictures, 0 to 1; legible up to 0.3."),
    ] = 0.0,
    workers: Annotated[
        int | None, typer.Option(help="Processes; unset: one a core.", min=1, max=512)
    ] = None,
    sheet: Annotated[bool, typer.Option(help="Draw contact-sheet.png as well.")] = True,
    as_json: options.AsJson = False,
) -> None:
    """Write synthetic samples: images, and samples.jsonl, which `data.sources` reads.

    The same words give the same samples, whatever --workers is. Stopped or killed, the same
    command goes on where it was.
    """
    from vlmpipe.data.synthetic.recipe import recipe_of  # these would slow `--help`
    from vlmpipe.data.synthetic.sheet import write_sheet

    recipe = recipe_of(task, n, seed, difficulty, languages, scan)
    console = Console(stderr=as_json)
    facts = _written(recipe, out, workers or len(os.sched_getaffinity(0)), console)
    drawn = write_sheet(out) if sheet else None
    train = _training(task, out)
    if as_json:
        print_json(
            {"out": str(out), **asdict(facts), "sheet": drawn and str(drawn), "train": train}
        )
        return
    _print_facts(console, out, facts)
    if drawn:
        _print(console, f"look:       {drawn}")
    _print(console, f"train:      {train}")


@app.command("sheet")
def sheet_of(
    folder: Annotated[Path, typer.Argument(help="Folder with samples.jsonl.", metavar="DIR")],
    as_json: options.AsJson = False,
) -> None:
    """Draw up to 24 of a folder's samples on one contact-sheet.png in it."""
    from vlmpipe.data.synthetic.sheet import write_sheet

    drawn = write_sheet(folder)
    if drawn is None:
        raise ConfigError(
            f"no sample in {folder} has a picture",
            "read them as text: samples.jsonl holds one sample a line",
        )
    if as_json:
        print_json({"sheet": str(drawn)})
    else:
        _print(Console(), f"look: {drawn}")


def _written(recipe: Recipe, out: Path, workers: int, console: Console) -> FolderFacts:
    from vlmpipe.data.synthetic.synth import synthesise

    reporter = RichReporter(console)
    try:
        return synthesise(recipe, out, workers, reporter)
    except KeyboardInterrupt as exc:
        raise InterruptError(
            "interrupted; the samples written so far are whole",
            f"go on with: {shlex.join(['vlmpipe', *sys.argv[1:]])}",
        ) from exc
    finally:
        reporter.progress_done()


def _training(task: str, out: Path) -> str:
    sources = json.dumps([{"path": str(out / "samples.jsonl")}], ensure_ascii=False)
    words = [f"data.task={task}", f"data.sources={sources}"]
    return shlex.join(["vlmpipe", "run-all", "-c", "configs/tiny.yaml", *words])


def _print_facts(console: Console, out: Path, facts: FolderFacts) -> None:
    low, mean, high = facts.difficulty
    written = "all there already" if not facts.new else f"{facts.new} written now"
    _print(console, f"samples:    {facts.samples} in {out} ({written})")
    if facts.images:
        _print(console, f"images:     {facts.images}, {facts.image_bytes / 2**20:.1f} MiB")
    _print(console, f"difficulty: {low:.2f} to {high:.2f}, mean {mean:.2f}")
    if facts.different < facts.samples:
        _print(console, f"texts:      {facts.different} different ones; the others repeat them")


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
