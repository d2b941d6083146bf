"""Candidates from the configured files, or from the task's generator where there are none."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from vlmpipe.config import Config
from vlmpipe.config.data import DataSource
from vlmpipe.data.images import load_image
from vlmpipe.data.messages import ImageName, RawMessage, Record, numbered_lines, parse_record
from vlmpipe.data.problems import Candidate, SampleError
from vlmpipe.encoding.conversation import Message, Part, Sample
from vlmpipe.errors import ConfigError
from vlmpipe.tasks import Task, task_named, task_of


def candidates(config: Config) -> Iterator[Candidate]:
    """Every sample that the configuration names, in order, not yet read.

    Raises:
        ConfigError: for sources that cannot be opened, all of them together.
    """
    if not config.data.sources:
        return _generated(config)
    refuse_unreadable(config.data.sources)
    return (
        candidate
        for place in range(len(config.data.sources))
        for candidate in _from_file(place, config)
    )


def refuse_unreadable(sources: tuple[DataSource, ...], key: str = "data.sources") -> None:
    """Raise ConfigError naming each source file that cannot be opened."""
    problems = []
    for place, source in enumerate(sources):
        fault = _fault_of(source.path)
        if fault:
            problems.append(f"{key}[{place}].path {source.path}: {fault}")
    if problems:
        raise ConfigError(
            "data sources cannot be read",
            f'give existing JSONL files: \'{key}=[{{"path": "FILE"}}]\'',
            f"or {key}=[] for the synthetic generator",
            problems=problems,
        )


def _fault_of(path: Path) -> str | None:
    if path.exists() and not path.is_file():
        return "not a file"
    try:
        path.open("rb").close()
    except OSError as exc:
        return exc.strerror or str(exc)
    return None


def _generated(config: Config) -> Iterator[Candidate]:
    task = task_named(config.data.task)
    for index in range(config.data.synthetic.n):
        load = partial(_generate, task, index, config)
        yield Candidate(f"generated {task.name} {index}", load)


def _generate(task: Task, index: int, config: Config) -> Sample:
    from vlmpipe.data.synthetic.degradations import scanned

    settings, seed = config.data.synthetic, config.run.seed
    sample = task.generate(index, seed, settings.difficulty, settings.languages)
    return scanned(sample, seed, settings.scan)


def _from_file(place: int, config: Config) -> Iterator[Candidate]:
    source = config.data.sources[place]
    for number, line in numbered_lines(source.path):
        origin = f"{source.path}:{number}"
        load = partial(_load, line, origin, source, config)
        yield Candidate(origin, load, source.weight, place)


def _load(line: bytes, origin: str, source: DataSource, config: Config) -> Sample:
    record = parse_record(line)
    folder, max_pixels = source.path.parent, config.data.max_image_pixels
    messages = tuple(_with_images(raw, folder, max_pixels) for raw in record.messages)
    task = record.task or source.task or config.data.task
    return Sample(
        id=record.id or _default_id(origin),
        messages=messages,
        task=task,
        difficulty=task_of(task).difficulty(messages[-1].text),
        origin=origin,
    )


def _default_id(origin: str) -> str:
    name = Path(origin).name
    return name.replace(".jsonl:", ":")


def _with_images(message: RawMessage, folder: Path, max_pixels: int) -> Message:
    return Message(message.role, tuple(_part(part, folder, max_pixels) for part in message.parts))


def _part(part: str | ImageName, folder: Path, max_pixels: int) -> Part:
    if isinstance(part, str):
        return part
    try:
        return load_image(folder / part.path, max_pixels)
    except SampleError as exc:
        raise SampleError(f"image {part.path}: {exc}") from exc


def referenced_files(config: Config) -> dict[str, Path]:
    """Each source file and each image that it names, by a name to show: for fingerprints.

    Lines that cannot be read name nothing; `prepare_data` reports them. A file that is not there
    is listed; what is there and no file (a folder, a pipe) is left out.
    """
    general = config.data.general_sources if config.data.general_ratio else ()
    files: dict[str, Path] = {}
    for key, sources in (("sources", config.data.sources), ("general_sources", general)):
        for place, source in enumerate(sources):
            label = f"data.{key}[{place}]"
            files[f"{label} {source.path.name}"] = source.path
            for name in _image_names(source.path):
                files[f"{label} {name}"] = source.path.parent / name
    return {name: path for name, path in files.items() if _hashable(path)}


def _image_names(path: Path) -> Iterator[str]:
    if not path.is_file():
        return
    for _, line in numbered_lines(path):
        try:
            record: Record = parse_record(line)
        except SampleError:
            continue
        yield from record.image_names


def _hashable(path: Path) -> bool:
    """Whether a digest can be taken, `missing` included."""
    try:
        return path.is_file() or not path.exists()
    except OSError:
        return True
