"""Replies on the disk, by the digest of everything that was sent for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from vlmpipe.pipeline.files import write_text


class Reply(BaseModel):
    """What a judge said, and what it took."""

    model_config = ConfigDict(frozen=True)

    text: str
    finish_reason: str | None = None
    input_tokens: int | None = None
    """None where the server does not count."""

    output_tokens: int | None = None


@dataclass(frozen=True)
class ReplyCache:
    """One small file a reply, written aside and renamed; a damaged one is asked again."""

    folder: Path

    def get(self, key: str) -> Reply | None:
        """The reply that is kept under a key."""
        try:
            return Reply.model_validate_json(self._path(key).read_bytes())
        except (OSError, ValidationError):
            return None

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply."""
        write_text(self._path(key), reply.model_dump_json() + "\n")

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def request_key(base_url: str, body: Mapping[str, Any]) -> str:
    """sha256 of an address and a request's body, images included."""
    whole = json.dumps([base_url, body], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(whole.encode()).hexdigest()
