"""The preprocess contract: what every engine must do to its input to match training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
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
    def max_image_tokens(self) -> int:
        """Most tokens that one prepared image can take."""
        factor = self.patch_size * self.merge_size
        return self.max_pixels // factor**2

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
    path = folder / CONTRACT_NAME
    try:
        contract = PreprocessContract.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as exc:
        raise ArtifactError(
            f"{path} cannot be read as a preprocess contract: {why_unreadable(exc)}",
            "publish the stage that wrote it again: `vlmpipe run-all --force STAGE`",
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
    )
    return contract.model_copy(update={"image_tokens": _probe_counts(contract.grid)})


def _probe_counts(grid: ImageGrid) -> dict[str, int]:
    return {f"{height}x{width}": grid.tokens(height, width) for height, width in PROBE_SIZES}


def _refuse_contradictions(contract: PreprocessContract, path: Path) -> None:
    digest = hashlib.sha256(contract.chat_template.encode()).hexdigest()
    if digest != contract.chat_template_sha256:
        raise ArtifactError(
            f"{path}: chat_template has sha256 {digest[:12]}…, the contract states"
            f" {contract.chat_template_sha256[:12]}…"
        )
    for size, expected in contract.image_tokens.items():
        height, width = (int(side) for side in size.split("x"))
        found = contract.grid.tokens(height, width)
        if found != expected:
            raise ArtifactError(
                f"{path}: an image of {size} takes {found} tokens here, the contract states"
                f" {expected}"
            )
