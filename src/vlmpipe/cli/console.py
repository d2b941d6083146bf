"""How a run looks on a terminal: stage headings, one progress bar, errors with their ways out."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vlmpipe.errors import VlmpipeError


class RichReporter:
    """Draws events; where the output is no terminal, one plain line an event."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def stage_started(self, stage: str, number: int, why: str) -> None:
        """Heading of a stage that runs."""
        self.progress_done()
        self._print(f"[bold cyan]{number} {stage}[/] [dim]({escape(why)})[/]")

    def stage_cached(self, stage: str, number: int, version: str) -> None:
        """One line for a stage that need not run."""
        self._print(f"[bold]{number} {stage}[/] [green]cached[/] {version}")

    def stage_finished(self, stage: str, number: int, version: str, seconds: float) -> None:
        """A stage has its version: a new one, or the one that it found the same again."""
        self.progress_done()
        self._print(f"  [green]done: {version}[/] in {seconds:.1f} s")

    def note(self, text: str) -> None:
        """An indented line."""
        self._print(f"  {escape(text)}")

    def progress(self, label: str, done: float, total: float | None, **fields: str) -> None:
        """Move the bar; fields such as loss stand behind it."""
        if not self._console.is_terminal:
            return
        shown = "  ".join(f"{name.replace('_per_', '/')} {text}" for name, text in fields.items())
        bar = self._progress or self._start_bar()
        if self._task is None:
            self._task = bar.add_task("", total=total, fields="")
        bar.update(
            self._task, description=escape(label), completed=done, total=total, fields=escape(shown)
        )

    def progress_done(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._task = None, None

    def _start_bar(self) -> Progress:
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[fields]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._progress.start()
        return self._progress

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)


def print_error(console: Console, error: VlmpipeError) -> None:
    """What is wrong, then every way out."""
    where = f" in stage {error.stage}" if error.stage else ""
    console.print(f"[bold red]error{where}:[/] {escape(error.message)}", soft_wrap=True)
    for problem in error.problems:
        console.print(f"  - {escape(problem)}", highlight=False, soft_wrap=True)
    for remedy in error.remedies:
        console.print(f"  [cyan]->[/] {escape(remedy)}", highlight=False, soft_wrap=True)
