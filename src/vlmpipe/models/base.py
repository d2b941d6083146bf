"""The base model as setup hands it on: a local folder, a revision, a digest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from vlmpipe.config.model import ModelConfig
from vlmpipe.errors import ArtifactError, ToolError
from vlmpipe.models.audit import refuse_foreign_code
from vlmpipe.models.embedded import PREFIX, build_embedded
from vlmpipe.models.families import Family, family_of
from vlmpipe.pipeline.files import sha256_of, why_unreadable
from vlmpipe.pipeline.manifest import FileRecord

RECORD_NAME = "model.json"
MARKS_NAME = "model_files.json"
"""Size, mtime and inode of each file, to notice a change without hashing gigabytes again."""

HUB_PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.jinja")


class BaseRecord(BaseModel):
    """model.json: what was resolved."""

    id: str
    revision: str
    family: str
    location: str
    """Relative to the record for an embedded model, else absolute."""

    digest: str
    """sha256 over names and digests of the folder's files."""

    parameters: int


class _Marks(BaseModel):
    files: dict[str, FileRecord]


@dataclass(frozen=True)
class BaseModelFolder:
    """A resolved base model."""

    folder: Path
    family: Family
    id: str
    revision: str
    digest: str
    parameters: int


def resolve_base(config: ModelConfig, target: Path) -> BaseModelFolder:
    """Resolve `model.id` to a local folder and write its record into `target`.

    Raises:
        ArtifactError: for a folder that is no model, or brings code or pickled weights.
        ToolError: when the hub cannot be reached or has no such model.
    """
    folder, revision = _locate(config, target)
    refuse_foreign_code(folder)
    family = family_of(folder)
    files = {path.name: FileRecord.of(path) for path in model_files(folder)}
    record = BaseRecord(
        id=config.id,
        revision=revision or _digest(files)[:12],
        family=family.name,
        location="model" if config.id.startswith(PREFIX) else str(folder.resolve()),
        digest=_digest(files),
        parameters=count_parameters(folder),
    )
    _write(target / RECORD_NAME, record)
    _write(target / MARKS_NAME, _Marks(files=files))
    return read_base(target)


def read_base(setup_folder: Path) -> BaseModelFolder:
    """The base model that setup resolved, its files held against their recorded digests.

    Raises:
        ArtifactError: when a file is gone or differs.
    """
    try:
        record = BaseRecord.model_validate_json((setup_folder / RECORD_NAME).read_bytes())
        marks = _Marks.model_validate_json((setup_folder / MARKS_NAME).read_bytes())
    except (OSError, ValidationError) as exc:
        raise ArtifactError(
            f"{setup_folder / RECORD_NAME} cannot be read: {why_unreadable(exc)}",
            "resolve the model again: `vlmpipe run-all --force setup`",
        ) from exc
    folder = (setup_folder / record.location).resolve()
    _verify(folder, marks.files)
    return BaseModelFolder(
        folder=folder,
        family=family_of(folder),
        id=record.id,
        revision=record.revision,
        digest=record.digest,
        parameters=record.parameters,
    )


def model_files(folder: Path) -> list[Path]:
    """The files of a model folder that decide what it answers."""
    suffixes = {pattern.removeprefix("*") for pattern in HUB_PATTERNS}
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in suffixes)


def count_parameters(folder: Path) -> int:
    """Numbers in a folder's safetensors, from the headers alone."""
    from safetensors import safe_open

    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as tensors:
            for key in tensors.keys():  # noqa: SIM118  (not a mapping)
                size = 1
                for side in tensors.get_slice(key).get_shape():
                    size *= side
                total += size
    return total


def _locate(config: ModelConfig, target: Path) -> tuple[Path, str | None]:
    if config.id.startswith(PREFIX):
        build_embedded(config.id.removeprefix(PREFIX), target / "model")
        return target / "model", None
    local = Path(config.id).expanduser()
    if local.is_dir():
        return local, None
    if config.id.startswith((".", "/", "~")):
        raise ArtifactError(
            f"model.id={config.id}: there is no such folder",
            "give an existing folder, a hub id, or an embedded model: model.id=ID",
        )
    return _download(config)


def _download(config: ModelConfig) -> tuple[Path, str | None]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = Path(
            snapshot_download(
                config.id, revision=config.revision, allow_patterns=list(HUB_PATTERNS)
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as exc:
        raise ToolError(
            f"model.id={config.id}: the hub did not give it: {str(exc).splitlines()[0]}",
            "check the id, the network, and HF_TOKEN for a gated model",
            "or download it elsewhere and give the folder: model.id=DIR",
            "or try the road without a download: model.id=embedded:tiny",
        ) from exc
    return path, path.name


def _verify(folder: Path, files: dict[str, FileRecord]) -> None:
    problems = []
    for name, record in files.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{path}: missing")
        elif not record.looks_untouched(path) and sha256_of(path) != record.sha256:
            problems.append(f"{path}: changed since setup")
    if problems:
        raise ArtifactError(
            f"the base model in {folder} is not the one that setup resolved",
            "resolve it again: `vlmpipe run-all --force setup`",
            problems=problems,
        )


def _digest(files: dict[str, FileRecord]) -> str:
    lines = "".join(f"{name} {record.sha256}\n" for name, record in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _write(path: Path, record: BaseModel) -> None:
    path.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
