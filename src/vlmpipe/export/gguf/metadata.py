"""Lineage and preprocess contract inside GGUF files, and a digest by which a copy can be checked.

People copy GGUF files about without the folder around them.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ValidationError

from vlmpipe import __version__
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.errors import ArtifactError
from vlmpipe.export.gguf.header import CONVERT_AGAIN
from vlmpipe.export.merging.weights import Checkpoint, weights_digest
from vlmpipe.pipeline.files import why_unreadable

PREFIX = "vlmpipe."
CONTRACT_KEY = f"{PREFIX}preprocess_contract"
SEAL_KEY = f"{PREFIX}file_sha256"
UNSEALED = "0" * 64
"""Stands for the digest while the file is hashed."""

MAGIC = b"GGUF"
ARCHITECTURE_KEY, TOWER = "general.architecture", "clip"
LENGTH_BYTES = 8
STRING_TYPE = 8
"""GGUF's number of the type of a string."""

HEADER_LIMIT = 1 << 26
"""Bytes from the beginning within which the keys stand; vocabularies take about ten million."""


@dataclass(frozen=True)
class Lineage:
    """Where a file's weights come from; every value may be empty where it is not known."""

    run: str
    merged_sha256: str
    """Over the merged model's weights, as merge_info.json has it."""

    base: str = ""
    """Id and revision of the base model."""

    trained_sha256: str = ""
    """Over the adapter's weights, or the fully trained model's."""

    version: str = __version__
    """Of vlmpipe."""


def lineage_of_model(run: str, model: Path) -> Lineage:
    """The lineage of a merged model, as its weights' own metadata tell it."""
    told = Checkpoint(model).shards[0].metadata
    names = (told.get(f"{PREFIX}base", ""), told.get(f"{PREFIX}base_revision", ""))
    return Lineage(
        run=run,
        merged_sha256=weights_digest(model),
        base="@".join(name for name in names if name),
        trained_sha256=told.get(f"{PREFIX}trained_digest", ""),
    )


def carried_keys(lineage: Lineage | None, contract: PreprocessContract | None) -> dict[str, str]:
    """The keys that the converter writes into a file; the quantiser copies them."""
    keys = {SEAL_KEY: UNSEALED}
    if lineage is not None:
        keys |= {f"{PREFIX}{name}": value for name, value in asdict(lineage).items()}
    if contract is not None:
        keys[CONTRACT_KEY] = contract.model_dump_json()
    return keys


def lineage_of(path: Path) -> Lineage | None:
    """The lineage that a file carries, None where it carries none.

    Raises:
        ArtifactError: when the file cannot be read, or is no GGUF file.
    """
    names = Lineage.__dataclass_fields__
    found = carried_texts(path, [f"{PREFIX}{name}" for name in names])
    if not any(found.values()):
        return None
    return Lineage(**{name: found.get(f"{PREFIX}{name}", "") for name in names})


def contract_of(path: Path) -> PreprocessContract | None:
    """The preprocess contract that a file carries, None where it carries none.

    Raises:
        ArtifactError: when the file cannot be read, or its contract is damaged.
    """
    text = carried_texts(path, [CONTRACT_KEY]).get(CONTRACT_KEY)
    if text is None:
        return None
    try:
        return PreprocessContract.model_validate_json(text)
    except ValidationError as exc:
        raise ArtifactError(
            f"{path}: {CONTRACT_KEY}: {why_unreadable(exc)}", CONVERT_AGAIN
        ) from exc


def is_tower(path: Path) -> bool:
    """Whether a file is an mmproj.

    Raises:
        ArtifactError: when the file cannot be read, or is no GGUF file.
    """
    return carried_texts(path, [ARCHITECTURE_KEY]).get(ARCHITECTURE_KEY) == TOWER


def carried_texts(path: Path, keys: Sequence[str]) -> dict[str, str]:
    """Those of the keys that a file carries as text, with their values.

    They are looked for in the bytes: who copied a file need not have llama.cpp's sources.

    Raises:
        ArtifactError: when the file cannot be read, or is no GGUF file.
    """
    try:
        with path.open("rb") as stream:
            magic = stream.read(len(MAGIC))
        found = _places(path, keys) if magic == MAGIC else None
    except OSError as exc:
        raise ArtifactError(f"{path} cannot be read: {exc.strerror}") from exc
    if found is None:
        raise ArtifactError(f"{path} is not a GGUF file", CONVERT_AGAIN)
    return {key: text for key, (_, text) in found.items()}


def refuse_strange_mmproj(text: Path, mmproj: Path) -> None:
    """Refuse an mmproj that carries the lineage of another merged model than the text file.

    Raises:
        ArtifactError: naming the key and both values.
    """
    ours, theirs = lineage_of(text), lineage_of(mmproj)
    if ours is None or theirs is None or ours.merged_sha256 == theirs.merged_sha256:
        return
    raise ArtifactError(
        f"{mmproj} belongs to another model than {text}: {PREFIX}merged_sha256 is"
        f" {theirs.merged_sha256[:12]}… ({theirs.run}) against {ours.merged_sha256[:12]}…"
        f" ({ours.run})",
        CONVERT_AGAIN,
    )


def seal(path: Path) -> None:
    """Write the file's sha256, itself taken as zeros, into its own key; nothing where it has no
    such key.
    """
    place = _seal_place(path)
    if place is None:
        return
    _overwrite(path, place, UNSEALED)
    _overwrite(path, place, _digest_without(path, place))


def verify_seal(path: Path) -> bool:
    """Hash a file and hold it against the digest that it carries; False where it carries none.

    Raises:
        ArtifactError: when the digests differ.
    """
    place = _seal_place(path)
    if place is None:
        return False
    with path.open("rb") as stream:
        stream.seek(place)
        stated = stream.read(len(UNSEALED)).decode("ascii", errors="replace")
    found = _digest_without(path, place)
    if found != stated:
        raise ArtifactError(
            f"{path}: sha256 {found[:12]}…, the file itself states {stated[:12]}…",
            "it changed after it was made: copy it again, or " + CONVERT_AGAIN,
        )
    return True


def _seal_place(path: Path) -> int | None:
    """Where the digest's 64 characters stand."""
    place, digest = _places(path, [SEAL_KEY]).get(SEAL_KEY, (0, ""))
    return place if len(digest) == len(UNSEALED) else None


def _places(path: Path, keys: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Where the text of each key begins, and the text; without the keys that are not there."""
    if path.stat().st_size == 0:
        return {}
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
        found = {key: _text_in(view, key.encode()) for key in keys}
    return {key: place for key, place in found.items() if place is not None}


def _text_in(view: mmap.mmap, key: bytes) -> tuple[int, str] | None:
    """A text stands after its key, its type and its length; a key after its own length."""
    mark = struct.pack("<Q", len(key)) + key + struct.pack("<I", STRING_TYPE)
    found = view.find(mark, 0, HEADER_LIMIT)
    begin = found + len(mark) + LENGTH_BYTES
    if found < 0 or begin > len(view):
        return None
    end = begin + int.from_bytes(view[begin - LENGTH_BYTES : begin], "little")
    return (begin, view[begin:end].decode(errors="replace")) if end <= len(view) else None


def _overwrite(path: Path, place: int, text: str) -> None:
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(text.encode("ascii"))


def _digest_without(path: Path, place: int) -> str:
    """sha256 of a file whose digest is taken as zeros."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        digest.update(stream.read(place))
        digest.update(UNSEALED.encode("ascii"))
        stream.seek(len(UNSEALED), 1)
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
