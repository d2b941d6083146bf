"""Result records: one line of JSON for each sample that an engine was asked, with everything that
produced it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlmpipe.engines.base import EngineType
from vlmpipe.errors import ArtifactError

SCHEMA_VERSION = 1
MAX_NAME = 100
"""Characters of an engine's name in its file's: file systems take 255 bytes."""

NOT_ASKED = "not asked for"
"""Why a record has no loss that could have one; it is asked again where a loss is wanted."""

PREDICTIONS_FOLDER = "predictions"
"""Under a run, beside its stages."""

MergeState = Literal["base", "adapter", "merged", "full", "unknown"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sampling(_Strict):
    """How answers were drawn. Greedy: one answer, the same each time."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int
    """An answer is cut here."""

    image_resize: Literal["contract", "runtime"] = "contract"
    """Who brought images to their size: this program, by the contract, or the server."""

    compute: dict[str, str] = Field(default_factory=dict)
    """What rounding depends on, where it is ours to choose: dtype, attention, batch size."""


class System(_Strict):
    """What produced an answer: change any of it and the answers may change."""

    engine: str
    """As it was asked for: `hf:adapter`, `llama_cpp:q4_k_m`, `openai:http://…`."""

    model_name: str
    engine_type: EngineType
    engine_version: str
    """The library's or the server's own words."""

    lora_enabled: bool | None
    """None where a server does not say."""

    merge_state: MergeState
    """`base`: untouched; `adapter`: on top of the base; `merged`: one set of weights; `full`: every
    weight was trained; `unknown`: a server that does not say."""

    quantization: str | None
    """`nf4`, `q4_k_m` …; None for unquantised weights, or where a server does not say."""

    digests: dict[str, str]
    """sha256 of each file that holds weights, by its name; empty for a server's."""

    sampling: Sampling
    seed: int
    preprocess_contract: str
    """Digest of the preprocess contract that images and text were prepared by."""

    @property
    def digest(self) -> str:
        """sha256 of all of it: records of another digest are another system's."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class Record(System):
    """One sample, asked of one system."""

    schema_version: int = SCHEMA_VERSION
    sample: str
    split: str
    """`heldout`, `train`, or `FOLDER/FILE#…` of the file that the sample came from, with a digest
    of its place."""

    inputs: str
    """sha256 of the conversation, its images and the reference: a sample changed under the same id
    is another one."""

    task: str
    prompt: str
    """The conversation's text up to the answer, `<image>` where an image stands."""

    reference: str
    status: Literal["answered", "failed"]
    """`failed`: the engine gave no answer; such a sample is asked again."""

    error: str | None = None
    """Why it failed."""

    prediction: str = ""
    cut: bool = False
    """Stopped by the limit on new tokens."""

    metrics: dict[str, float] = Field(default_factory=dict)
    """Of the task; one that could not be measured is left out."""

    unmeasured: str | None = None
    """Why the answer has no metrics: its measuring crashed or took too long. It counts as 0 in the
    primary metric."""

    loss: float | None = None
    """Of the reference, teacher-forced: nats a token. None where the engine cannot say."""

    unscored: str | None = None
    """Why there is no loss."""

    token_accuracy: float | None = None
    """Share of the reference's tokens that were the likeliest, teacher-forced."""

    reference_tokens: int | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    """Whole request."""

    first_token_seconds: float = 0.0

    @property
    def system(self) -> System:
        """What produced it, alone."""
        return System(**{name: getattr(self, name) for name in System.model_fields})

    @property
    def key(self) -> tuple[str, str]:
        """Which sample it is, across engines."""
        return self.split, self.sample

    def as_line(self) -> str:
        """One line of a JSONL file, the end of line included."""
        return json.dumps(self.model_dump(), ensure_ascii=False, allow_nan=False) + "\n"


def record_schema() -> Mapping[str, Any]:
    """JSON schema of a record; published as `docs/record.schema.json`."""
    return Record.model_json_schema()


def file_name(engine: str) -> str:
    """`hf-adapter.jsonl` for `hf:adapter`; for names with other characters a short digest keeps two
    apart.
    """
    plain = re.sub(r"[^\w.]+", "-", engine)[:MAX_NAME]
    if engine.replace(":", "-", 1) != plain:
        plain += "-" + hashlib.sha256(engine.encode()).hexdigest()[:6]
    return f"{plain}.jsonl"


def read_records(path: Path) -> Iterator[Record]:
    """Records one by one; a last line that was cut off in writing is left out.

    Raises:
        ArtifactError: for any other line that is no record, with its number.
    """
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                yield Record.model_validate_json(line)
            except ValidationError as exc:
                if not line.endswith(b"\n"):
                    return
                raise ArtifactError(
                    f"{path}:{number} is no result record: {exc.errors()[0]['msg']}",
                    f"remove {path} and evaluate again",
                ) from exc
