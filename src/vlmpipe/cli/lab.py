"""`vlmpipe lab`: small experiments before a long training."""

from __future__ import annotations

import typer

from vlmpipe.cli.lab_lr_find import lr_find
from vlmpipe.cli.lab_overfit import overfit
from vlmpipe.cli.lab_sweep import sweep

app = typer.Typer(help="Try a training out before it is long: learn by heart, find a rate, sweep.")
app.command("overfit")(overfit)
app.command("lr-find")(lr_find)
app.command("sweep")(sweep)
