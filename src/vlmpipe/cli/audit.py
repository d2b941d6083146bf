"""`vlmpipe audit model`: what a training would begin with, examined without training."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vlmpipe.cli import options
from vlmpipe.cli.execute import quieten_libraries, same_run
from vlmpipe.cli.output import error_as_json, print_json, stdout_reserved
from vlmpipe.cli.request import Request
from vlmpipe.config import Config, load_config
from vlmpipe.errors import ArtifactError, InterruptError
from vlmpipe.pipeline import RunStore
from vlmpipe.pipeline.logs import stage_log
from vlmpipe.pipeline.status import departure_of

if TYPE_CHECKING:
    from vlmpipe.training.audits.census import Census
    from vlmpipe.training.audits.model_audit import ModelAudit

app = typer.Typer()

SHOWN_CHARACTERS = 600
"""Of a supervised text."""


@app.callback()
def _group() -> None:
    """Examine what a training would begin with."""


@app.command()
def model(
    overrides: options.Overrides = None,
    config: options.ConfigFiles = None,
    as_json: options.AsJson = False,
) -> None:
    """Audit precision, LoRA targets, masks, image tokens and gradients; no step is trained.

    Runs on the CPU alone, over the samples and the model that setup prepared. Exit code 5 where a
    fault was found.
    """
    # Before torch is imported: the audit must not disturb what runs on a GPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    request = Request(files=config or (), overrides=overrides or (), as_json=as_json)
    loaded = load_config(request.files, request.overrides)
    quieten_libraries()
    console = Console(stderr=as_json)
    store = RunStore(loaded.run.outputs_dir, loaded.run.name)
    with stdout_reserved(as_json):
        setup = _setup_folder(loaded, store, request, console)
        with _interruptible(request), stage_log(store.folder / "logs" / "audit_model.log"):
            audit = _audited(loaded, setup)
    error = audit.error()
    if as_json:
        print_json(audit.as_json() | (error_as_json(error) if error else {}))
        raise typer.Exit(error.exit_code if error else 0)
    _print_audit(console, audit)
    if error:
        raise error


@contextmanager
def _interruptible(request: Request) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as exc:
        flag = ["--json"] if request.as_json else []
        command = shlex.join(["vlmpipe", "audit", "model", *same_run(request), *flag])
        raise InterruptError(
            "interrupted; an audit keeps nothing", f"begin it again: {command}"
        ) from exc


def _setup_folder(config: Config, store: RunStore, request: Request, console: Console) -> Path:
    from vlmpipe.stages import STAGES  # what they stand on would slow `--help`

    setup = store.latest(next(stage for stage in STAGES if stage.name == "setup"))
    if setup is None:
        raise ArtifactError(
            f"run {config.run.name!r} in {config.run.outputs_dir} has no prepared samples yet",
            f"prepare them: {shlex.join(['vlmpipe', 'setup', *same_run(request)])}",
        )
    departure = departure_of("setup", STAGES, config, store)
    if departure:
        _line(console, f"note: taking setup as it is: {departure}")
    folder: Path = setup.folder
    return folder


def _audited(config: Config, setup: Path) -> ModelAudit:
    from vlmpipe.models.base import read_base
    from vlmpipe.training.audits.model_audit import audit_model
    from vlmpipe.training.preparation import training_data

    return audit_model(config, read_base(setup), training_data(setup))


def _print_audit(console: Console, audit: ModelAudit) -> None:
    _line(console, f"{audit.base}: {audit.family}, {audit.dtype}, {audit.samples} samples")
    if audit.census is not None:
        console.print(_census_table(audit.census))
        for line in _target_lines(audit.census):
            _line(console, line)
    for line in (*_sample_lines(audit), *_image_lines(audit)):
        _line(console, line)
    if audit.gradients:
        console.print(_gradient_table(audit))
    for check in audit.checks:
        verdict = "[green]ok[/]   " if check.passed else "[bold red]fault[/]"
        console.print(f"{verdict} {escape(check.name)}", highlight=False, soft_wrap=True)


def _census_table(census: Census) -> Table:
    table = _table("weights by part", ("part", "held in"), ("tensors", "weights", "MiB", "trained"))
    for row in census.dtypes:
        trained = f"{row.trained:,}" if row.trained else "–"
        size = f"{row.bytes / 2**20:,.1f}"
        table.add_row(row.part, row.dtype, f"{row.tensors:,}", f"{row.parameters:,}", size, trained)
    return table


def _target_lines(census: Census) -> Iterator[str]:
    if census.targets is None:
        yield "LoRA: none, all weights of the language model are trained"
        return
    counts = enumerate(census.targets.per_layer)
    for count, layers in groupby(counts, key=lambda pair: pair[1]):
        numbers = [number for number, _ in layers]
        yield f"LoRA in layers {numbers[0]} to {numbers[-1]}: {count} modules each"
    yield f"  {', '.join(census.targets.projections)}; the first: {census.targets.names[0]}"


def _sample_lines(audit: ModelAudit) -> Iterator[str]:
    for row in audit.lengths.phases if audit.lengths else ():
        masks = audit.masks.get(row.phase)
        share = (
            f"; of {masks.tokens:,} tokens in {masks.audited} of them {masks.supervised_tokens:,}"
            " are supervised"
            if masks
            else ""
        )
        yield (
            f"phase {row.phase}: {row.samples} samples, the longest {row.longest.tokens} tokens"
            f" ({row.longest.origin or row.longest.id}){share}"
        )
    yield from audit.lengths.lines() if audit.lengths else ()
    shown = next(iter(audit.masks.values()), None)
    for sample in shown.samples[:1] if shown else ():
        yield f"supervised in {sample.id}:"
        for span in sample.supervised_spans:
            yield f"  {_cut(span)!r}"


def _image_lines(audit: ModelAudit) -> Iterator[str]:
    if audit.images is not None:
        found = audit.images
        yield (
            f"image tokens: {found.images:,} images of {found.samples:,} samples at every size by"
            f" arithmetic, {found.encoded} samples encoded; {found.most} at most in a sample"
        )


def _gradient_table(audit: ModelAudit) -> Table:
    table = _table("gradients on a probe", ("phase", "of"), ("tensors", "smallest", "largest"))
    for phase, flow in audit.gradients.items():
        for group in flow.groups:
            norms = (f"{group.smallest:.2e}", f"{group.largest:.2e}")
            table.add_row(escape(phase), group.kind, f"{group.tensors:,}", *norms)
        table.add_row(escape(phase), "frozen", f"{flow.frozen_tensors:,}", "none", "none")
    return table


def _table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    options_of: dict[str, Any] = {"box": None, "padding": (0, 1), "pad_edge": False}
    table = Table(title=title, title_justify="left", **options_of)
    for name in texts:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _line(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
