"""What a folder of generated samples was asked to hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vlmpipe import __version__
from vlmpipe.errors import ConfigError
from vlmpipe.tasks import LANGUAGES, TASKS, Language, task_named

LARGEST = 1_000_000
"""Samples in one folder."""

FLAGS = {
    "task": "--task",
    "n": "--n",
    "seed": "--seed",
    "difficulty": "--difficulty",
    "languages": "--languages",
    "scan": "--scan",
    "vlmpipe": "the version of vlmpipe",
}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the bytes of the samples."""

    task: str
    n: int
    seed: int
    difficulty: tuple[float, float]
    languages: tuple[Language, ...]
    scan: float
    """0 (as drawn) to 1 (a bad fax of a creased copy)."""

    def record(self) -> dict[str, Any]:
        """As it stands in the folder; another version of the program may draw otherwise."""
        plain = asdict(self) | {"vlmpipe": __version__}
        return {key: list(val) if isinstance(val, tuple) else val for key, val in plain.items()}

    def differences(self, recorded: Mapping[str, Any]) -> list[str]:
        """What `recorded`, a record of some recipe, says otherwise: `--seed was 7, is 8 now`."""
        return [
            f"{FLAGS[key]} was {_shown(recorded.get(key))}, is {_shown(value)} now"
            for key, value in self.record().items()
            if recorded.get(key) != value
        ]


def recipe_of(task: str, n: int, seed: int, difficulty: str, languages: str, scan: float) -> Recipe:
    """The recipe that words of a command line mean: difficulty LOW:HIGH, languages en,ko.

    Raises:
        ConfigError: naming every value that cannot be, with what can.
    """
    bounds = _bounds(difficulty)
    chosen = tuple(language for language in LANGUAGES if language in languages.split(","))
    problems = [
        *_task_faults(task),
        *_language_faults(languages),
        *(
            []
            if bounds
            else [f"--difficulty {difficulty} is not LOW:HIGH with 0 <= LOW <= HIGH <= 1"]
        ),
        *([] if 0 <= scan <= 1 else [f"--scan {scan} is not from 0 to 1"]),
        *([] if 1 <= n <= LARGEST else [f"--n {n} is not from 1 to {LARGEST:,}"]),
    ]
    if problems or bounds is None:
        raise ConfigError(
            "there is nothing that can be generated from this",
            f"choose a task: --task {'|'.join(TASKS)}",
            "for example: --n 1000 --difficulty 0.2:0.8 --languages en,ko --scan 0.3",
            problems=problems,
        )
    return Recipe(task, n, seed, bounds, chosen, scan)


def _bounds(text: str) -> tuple[float, float] | None:
    low, _, high = text.partition(":")
    try:
        bounds = float(low), float(high)
    except ValueError:
        return None
    return bounds if 0 <= bounds[0] <= bounds[1] <= 1 else None


def _task_faults(name: str) -> Iterator[str]:
    try:
        task_named(name)
    except ConfigError as exc:
        yield exc.message


def _language_faults(text: str) -> Iterator[str]:
    unknown = [word for word in text.split(",") if word not in LANGUAGES]
    if unknown:
        yield f"--languages {text}: no documents are written in {', '.join(map(repr, unknown))}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return (":" if value and not isinstance(value[0], str) else ",").join(map(str, value))
    return str(value)
