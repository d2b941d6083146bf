"""A folder of generated samples: begun, killed, gone on with, finished.

recipe.json       what was asked for; marks the folder as ours
images/*.png      each written aside and renamed
samples.jsonl     a line a sample; there only when all of them are (until then
                  .samples.partial.jsonl, which holds the samples whose images are there)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vlmpipe.data.messages import numbered_lines, parse_record
from vlmpipe.data.problems import SampleError
from vlmpipe.data.synthetic.recipe import Recipe
from vlmpipe.errors import ConfigError, LockError, StageError
from vlmpipe.pipeline.failures import is_disk_full
from vlmpipe.pipeline.files import write_json

RECIPE, IMAGES, LINES, SHEET = "recipe.json", "images", "samples.jsonl", "contact-sheet.png"
PARTIAL, LOCK = ".samples.partial.jsonl", ".lock"
ELSEWHERE = "or write into another folder: --out DIR"


@contextmanager
def claimed(folder: Path, recipe: Recipe) -> Iterator[None]:
    """The folder, made where there is none, for this recipe and this process alone.

    Raises:
        ConfigError: for a place that cannot be written to, or holds anything else.
        LockError: where another process writes to it.
        StageError: for a disk that fills up in here.
    """
    with _explained(folder):
        _refuse_foreign(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            _refuse_other_recipe(folder, recipe)
            write_json(folder / RECIPE, recipe.record())
            yield


def resume(folder: Path) -> int:
    """How many samples are there, from the first on; what a killed process left half is removed."""
    for aside in (folder / IMAGES).glob(".*.tmp*"):
        aside.unlink()
    partial = folder / PARTIAL
    kept = list(_whole_lines(folder))
    partial.touch()
    os.truncate(partial, sum(map(len, kept)))
    return len(kept)


def fill(folder: Path, lines: Iterable[bytes]) -> None:
    """Append each line, which ends in a newline, as soon as it is there; publish all at the end."""
    with (folder / PARTIAL).open("ab") as stream:
        for line in lines:
            stream.write(line)
            stream.flush()
        os.fsync(stream.fileno())
    (folder / PARTIAL).replace(folder / LINES)


def refuse_changed(folder: Path, recipe: Recipe) -> None:
    """Raise ConfigError for a finished folder that somebody took samples or pictures out of."""
    lines = [line for _, line in numbered_lines(folder / LINES)]
    faults = [] if len(lines) == recipe.n else [f"{LINES} holds {len(lines)} lines of {recipe.n}"]
    faults += [f"line {place}: {fault}" for place, fault in _faults(folder, lines)]
    if faults:
        raise ConfigError(
            f"{folder} was finished once, and changed afterwards",
            f"make it again from the first sample: rm {folder / LINES}, then the same command",
            ELSEWHERE,
            problems=faults[:20],
        )


def _faults(folder: Path, lines: list[bytes]) -> Iterator[tuple[int, str]]:
    for place, line in enumerate(lines, start=1):
        fault = _fault(folder, line)
        if fault:
            yield place, fault


def _whole_lines(folder: Path) -> Iterator[bytes]:
    """Lines of the partial file up to the first that is cut off, or lacks its image."""
    partial = folder / PARTIAL
    if not partial.exists():
        return
    with partial.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n") or _fault(folder, line):
                return
            yield line


def _fault(folder: Path, line: bytes) -> str | None:
    try:
        names = parse_record(line).image_names
    except SampleError as exc:
        return str(exc)
    missing = [name for name in names if not (folder / name).is_file()]
    return f"{missing[0]} is missing" if missing else None


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file, not a folder", "name a folder: --out DIR")
    if not folder.exists() or (folder / RECIPE).exists():
        return
    strange = sorted(path.name for path in folder.iterdir() if path.name != LOCK)
    if strange:
        raise ConfigError(
            f"{folder} is not empty, and `vlmpipe data synth` did not fill it (it holds"
            f" {', '.join(strange[:3])}{' ...' if len(strange) > 3 else ''})",
            "name a new or empty folder: --out DIR",
        )


def _refuse_other_recipe(folder: Path, recipe: Recipe) -> None:
    if not (folder / RECIPE).exists():
        return
    differences = recipe.differences(_recorded(folder))
    if differences:
        raise ConfigError(
            f"{folder} holds samples that were asked for in other words",
            "go on with what it holds: give the values that it was begun with",
            ELSEWHERE,
            f"or begin anew: rm -r {folder}",
            problems=differences,
        )


def _recorded(folder: Path) -> Mapping[str, Any]:
    try:
        recorded = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
    except ValueError:
        recorded = None
    if isinstance(recorded, dict) and "vlmpipe" in recorded:
        return recorded
    raise ConfigError(
        f"{folder / RECIPE} is none that `vlmpipe data synth` wrote, or damaged",
        "name a new or empty folder: --out DIR",
        f"or begin anew: rm -r {folder}",
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as exc:
        raise LockError(
            f"another process is filling {folder}", "wait until it ends, or stop it", ELSEWHERE
        ) from exc
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if is_disk_full(exc):
            raise StageError(
                f"no space left on the disk of {folder}; the samples written so far are whole",
                "free some space, then give the same command: it goes on where it stopped",
                ELSEWHERE,
            ) from exc
        raise ConfigError(
            f"cannot write to {exc.filename or folder}: {exc.strerror or exc}",
            "name a folder that you may write to: --out DIR",
        ) from exc
