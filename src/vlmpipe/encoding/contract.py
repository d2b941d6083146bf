"""The preprocess contract: what every engine must do to its input to match training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from vlmpipe.encoding.conversation import Message
from vlmpipe.encoding.images import MIN_IMAGE_TOKENS, ImageGrid
from vlmpipe.errors import ArtifactError
from vlmpipe.models.families import Family
from vlmpipe.pipeline.files import why_unreadable

CONTRACT_NAME = "preprocess_contract.json"
PROBE_SIZES = ((56, 84), (57, 225), (70, 238), (345, 451), (523, 701), (637, 903), (1400, 700))
"""Heights and widths, odd ones included, whose token counts the contract states."""


class RenderedCase(BaseModel):
    """Token ids of one probe conversation, as training's tokenizer gives them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ids: str
    """Separated by spaces; `-1x12` stands for the twelve tokens of an image."""

    sha256: str
    """Of `ids`."""

    @classmethod
    def of(cls, ids: Sequence[int]) -> RenderedCase:
        """`ids` with -1 for each token of an image."""
        runs = [(token, len(list(run))) for token, run in groupby(ids)]
        words = [f"-1x{n}" if token < 0 else " ".join([str(token)] * n) for token, n in runs]
        text = " ".join(words)
        return cls(ids=text, sha256=hashlib.sha256(text.encode()).hexdigest())

    def as_list(self) -> list[int]:
        """The ids, -1 for each token of an image."""
        found: list[int] = []
        for word in self.ids.split():
            token, _, times = word.partition("x")
            found += [int(token)] * int(times or 1)
        return found


class PreprocessContract(BaseModel):
    """Written by train, carried by every artifact, held against every engine when it starts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    has_vision: bool
    patch_size: int
    merge_size: int
    temporal_patch_size: int
    min_pixels: int
    max_pixels: int
    max_size: tuple[int, int] | None
    """Box [height, width] of the curriculum's last phase, or None."""

    resize_kernel: Literal["bicubic"] = "bicubic"
    """The only one that this version resizes with; a contract of another is refused."""

    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    chat_template: str
    chat_template_sha256: str
    system_prompt: str | None
    image_text_order: Literal["as given"] = "as given"
    stop_tokens: tuple[str, ...] = ("<|im_end|>",)
    context_length: int
    """Tokens that the longest sample needs, image tokens included, and as much again as the longest
    answer."""

    image_tokens: dict[str, int] = {}
    """`HEIGHTxWIDTH` to the expected count of image tokens."""

    rendered: dict[str, RenderedCase]
    """Name of a probe conversation (see `encoding.rendered`) to its token ids; empty where no
    tokenizer was at hand. Stated without a default: a contract of a time before it is refused."""

    @property
    def grid(self) -> ImageGrid:
        """The image grid that serving uses."""
        return ImageGrid(
            patch_size=self.patch_size,
            merge_size=self.merge_size,
            min_pixels=self.min_pixels,
            max_pixels=self.max_pixels,
            max_size=self.max_size,
        )

    @property
    def min_image_tokens(self) -> int:
        """Fewest tokens that a prepared image takes."""
        return -(-self.min_pixels // self.grid.factor**2)

    @property
    def max_image_tokens(self) -> int:
        """Most tokens that one prepared image can take."""
        return self.max_pixels // self.grid.factor**2

    @property
    def digest(self) -> str:
        """sha256 of the contract's canonical text."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def conversation(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with the contract's system prompt, where they bring none of their own."""
        if self.system_prompt is None or (messages and messages[0].role == "system"):
            return list(messages)
        return [Message("system", (self.system_prompt,)), *messages]

    def write(self, folder: Path) -> Path:
        """Write `preprocess_contract.json` into a folder."""
        path = folder / CONTRACT_NAME
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return path


def read_contract(folder: Path) -> PreprocessContract:
    """The contract that an artifact carries.

    Raises:
        ArtifactError: when it is absent, damaged, or contradicts itself.
    """
    return read_contract_file(folder / CONTRACT_NAME)


def read_contract_file(path: Path) -> PreprocessContract:
    """The same, by the file's own path.

    Raises:
        ArtifactError: as `read_contract`.
    """
    try:
        contract = PreprocessContract.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as exc:
        raise ArtifactError(
            f"{path} cannot be read as a preprocess contract: {why_unreadable(exc)}",
            "publish the stage that wrote it again: `vlmpipe run-all --force STAGE`",
            "one of an earlier vlmpipe: `vlmpipe run-all` with the same options trains anew",
        ) from exc
    _refuse_contradictions(contract, path)
    return contract


def build_contract(
    family: Family,
    *,
    min_pixels: int | None,
    max_pixels: int,
    max_size: tuple[int, int] | None,
    system_prompt: str | None,
    context_length: int,
) -> PreprocessContract:
    """The contract of a family under a run's limits."""
    smallest = MIN_IMAGE_TOKENS * family.grid_factor**2
    contract = PreprocessContract(
        family=family.name,
        has_vision=family.has_vision,
        patch_size=family.patch_size,
        merge_size=family.merge_size,
        temporal_patch_size=family.temporal_patch_size,
        min_pixels=max(min_pixels or 0, smallest),
        max_pixels=max_pixels,
        max_size=max_size,
        image_mean=family.image_mean,
        image_std=family.image_std,
        chat_template=family.chat_template,
        chat_template_sha256=hashlib.sha256(family.chat_template.encode()).hexdigest(),
        system_prompt=system_prompt,
        context_length=context_length,
        rendered={},
    )
    return contract.model_copy(update={"image_tokens": _probe_counts(contract.grid)})


def _probe_counts(grid: ImageGrid) -> dict[str, int]:
    return {f"{height}x{width}": grid.tokens(height, width) for height, width in PROBE_SIZES}


def _refuse_contradictions(contract: PreprocessContract, path: Path) -> None:
    hashed = {"chat_template": (contract.chat_template, contract.chat_template_sha256)}
    hashed |= {f"rendered.{name}.ids": (r.ids, r.sha256) for name, r in contract.rendered.items()}
    for field, (text, stated) in hashed.items():
        digest = hashlib.sha256(text.encode()).hexdigest()
        if digest != stated:
            raise ArtifactError(
                f"{path}: {field} has sha256 {digest[:12]}…, the contract states {stated[:12]}…"
            )
    for size, expected in contract.image_tokens.items():
        height, width = (int(side) for side in size.split("x"))
        found = contract.grid.tokens(height, width)
        if found != expected:
            raise ArtifactError(
                f"{path}: an image of {size} takes {found} tokens here, the contract states"
                f" {expected}"
            )
    if contract.has_vision and contract.min_image_tokens < MIN_IMAGE_TOKENS:
        raise ArtifactError(
            f"{path}: min_pixels {contract.min_pixels} is {contract.min_image_tokens} image tokens;"
            f" llama.cpp enlarges images under {MIN_IMAGE_TOKENS} whatever it is told"
        )
