"""Tasks: what is asked of a model, generated for it and measured in its answers."""

from __future__ import annotations

import difflib

from vlmpipe.errors import ConfigError
from vlmpipe.tasks.base import LANGUAGES, Language, Task, mean_metrics
from vlmpipe.tasks.caption import CaptionTask
from vlmpipe.tasks.chart import ChartTask
from vlmpipe.tasks.document import DocumentTask
from vlmpipe.tasks.molecule import MoleculeTask
from vlmpipe.tasks.qa import QuestionTask
from vlmpipe.tasks.table import TableTask

__all__ = ["LANGUAGES", "TASKS", "Language", "Task", "mean_metrics", "task_named", "task_of"]

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        TableTask(),
        ChartTask(),
        MoleculeTask(),
        CaptionTask(),
        DocumentTask(),
        QuestionTask(),
    )
}
"""Every task by name; a new task is one new file and its place here."""


def task_named(name: str) -> Task:
    """The task that `data.task` names.

    Raises:
        ConfigError: for a name that is not known, with the nearest that is.
    """
    if name in TASKS:
        return TASKS[name]
    close = difflib.get_close_matches(name, TASKS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ConfigError(
        f"there is no task {name!r}{hint}", f"choose one of them: data.task={'|'.join(TASKS)}"
    )


def task_of(name: str) -> Task:
    """What measures a sample that says it is of task `name`.

    People's data names tasks that have no room here yet; their answers are measured as text, as
    those of `qa` are.
    """
    return TASKS.get(name, TASKS["qa"])
