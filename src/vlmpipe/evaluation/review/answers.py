"""What came back of a sheet: one file a person, refused where it cannot be counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlmpipe.errors import ArtifactError, ConfigError
from vlmpipe.evaluation.review.key import Key
from vlmpipe.pipeline.files import why_unreadable

Choice = Literal["1", "2", "tie", "both_bad"]
MAX_BYTES = 20_000_000


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GivenAnswer(_Strict):
    """One person's choice for one pair."""

    item: str
    choice: Choice
    seconds: float = Field(0.0, ge=0, allow_inf_nan=False)
    """From the pair's appearance to the choice."""


class RaterFile(_Strict):
    """What the sheet lets people download."""

    format: Literal["vlmpipe-review"]
    version: Literal[1]
    sheet: str = Field(pattern=r"^[0-9a-f]{16}$")
    rater: str = Field(min_length=1, max_length=200)
    answers: tuple[GivenAnswer, ...]


def read_rater_files(paths: Sequence[Path]) -> list[RaterFile]:
    """Files of one sheet.

    Raises:
        ConfigError: for no file, or files of two sheets or twice of one person.
        ArtifactError: for a file that is not what a sheet lets people download.
    """
    if not paths:
        raise ConfigError("no file to import", "give those that people downloaded: review-….json")
    files = [_read(path) for path in paths]
    for path, file in zip(paths, files, strict=True):
        if file.sheet != files[0].sheet:
            raise ConfigError(
                f"{path} is of sheet {file.sheet}, and {paths[0]} of sheet {files[0].sheet}",
                "import the files of one sheet at a time",
            )
    twice = [name for name, count in Counter(file.rater for file in files).items() if count > 1]
    if twice:
        named = [str(p) for p, file in zip(paths, files, strict=True) if file.rater == twice[0]]
        raise ConfigError(
            f"{' and '.join(named)} are both by {twice[0]!r}",
            "import one of them; if two people chose one name, change `rater` in one file",
        )
    return files


def refuse_misfits(path: Path, file: RaterFile, key: Key) -> None:
    """Raise for what a sheet cannot have given.

    Raises:
        ArtifactError: naming pairs that are answered twice, or that the sheet does not have.
    """
    counts = Counter(answer.item for answer in file.answers)
    problems = [f"{item} is answered {n} times" for item, n in counts.items() if n > 1]
    problems += [f"{item} is no pair of this sheet" for item in counts if item not in key.items]
    if problems:
        raise ArtifactError(
            f"{path} does not fit its sheet {key.sheet}",
            "import the file as the sheet wrote it, or have it downloaded again",
            problems=problems[:20],
        )


def _read(path: Path) -> RaterFile:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ArtifactError(
                f"{path} has {path.stat().st_size} bytes, more than any sheet writes",
                "give the file that was downloaded from the sheet",
            )
        return RaterFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as exc:
        raise ArtifactError(
            f"{path} is not what a sheet lets people download: {why_unreadable(exc)}",
            "give the file that was downloaded from the sheet: review-….json",
        ) from exc
