"""What an adapter was trained on: recorded beside it, held against the base it is used with."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from vlmpipe.config.train import QuantizationSection
from vlmpipe.errors import StageError
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.pipeline.files import why_unreadable, write_text

RECORD_NAME = "base.json"


class AdapterBase(BaseModel):
    """base.json of an adapter folder."""

    model_config = ConfigDict(frozen=True)

    id: str
    revision: str
    digest: str
    """`BaseModelFolder.digest`."""

    dtype: str
    """Precision that the base's 16-bit parts were loaded in."""

    quantization: QuantizationSection | None
    """How the language model was held in 4-bit; None where it was not."""


def record_adapter_base(
    folder: Path, base: BaseModelFolder, *, dtype: str, quantization: QuantizationSection | None
) -> None:
    """Write base.json beside an adapter: the same training writes the same bytes anywhere."""
    record = AdapterBase(
        id=base.id,
        revision=base.revision,
        digest=base.digest,
        dtype=dtype,
        quantization=quantization,
    )
    write_text(folder / RECORD_NAME, record.model_dump_json(indent=2) + "\n")


def read_adapter_base(folder: Path, base: BaseModelFolder) -> AdapterBase:
    """What the adapter was trained on.

    Raises:
        StageError: when nothing says so, or it was another base than the one given.
    """
    path = folder / RECORD_NAME
    retrain = "train on the base model that is set up now: `vlmpipe run-all --force train`"
    try:
        record = AdapterBase.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as exc:
        raise StageError(
            f"{path}, which says what base the adapter was trained on, cannot be read:"
            f" {why_unreadable(exc)}",
            retrain,
        ) from exc
    if record.digest != base.digest:
        raise StageError(
            f"the adapter in {folder} was trained on another base model: {record.id} with digest"
            f" {record.digest[:12]}…, and the one given is {base.id} with {base.digest[:12]}…",
            "take the setup that it was trained on: `--use setup=vNNN`",
            retrain,
        )
    return record
