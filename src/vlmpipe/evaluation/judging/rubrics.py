"""What a judge goes by, for each task."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from vlmpipe.errors import ConfigError
from vlmpipe.evaluation.judging.cases import text_digest

FALLBACK = "qa"
"""As answers of tasks without a room of their own are measured as those of `qa` are."""

MAX_CHARACTERS = 20_000


@dataclass(frozen=True)
class Rubrics:
    """One file for all tasks, a folder of `<task>.txt`, or what is shipped."""

    path: Path | None = None
    _read: dict[str, str] = field(default_factory=dict)

    def of(self, task: str) -> str:
        """The rubric of a task.

        Raises:
            ConfigError: for a file that cannot be read, is empty or is too long.
        """
        if task not in self._read:
            self._read[task] = self._find(task)
        return self._read[task]

    def _find(self, task: str) -> str:
        if self.path is None:
            return shipped_rubric(task)
        if not self.path.is_dir():
            return _own(self.path)
        own = self.path / f"{Path(task).name}.txt"
        return _own(own) if own.is_file() else shipped_rubric(task)


def shipped_rubric(task: str) -> str:
    """The rubric in the package; that of `qa` for a task that has none."""
    folder = resources.files("vlmpipe.evaluation.judging") / "rubrics"
    names = {entry.name for entry in folder.iterdir()}
    name = f"{task}.txt" if f"{task}.txt" in names else f"{FALLBACK}.txt"
    return (folder / name).read_text(encoding="utf-8").strip()


def rubric_digests(rubrics: Rubrics, tasks: Iterable[str]) -> dict[str, str]:
    """Of what the judge went by, to tell two judgements apart."""
    return {task: text_digest(rubrics.of(task)) for task in sorted(set(tasks))}


def _own(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise ConfigError(
            f"cannot read the rubric {path}: {exc.strerror or exc}",
            "give a text file, or a folder of <task>.txt: validate.judge.rubric=PATH",
        ) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"the rubric {path} is not UTF-8 text") from exc
    if not 0 < len(text) <= MAX_CHARACTERS:
        raise ConfigError(
            f"the rubric {path} has {len(text)} characters, not 1 to {MAX_CHARACTERS}",
            "say what matters and what each score from 1 to 5 means, in a page or two",
        )
    return text
