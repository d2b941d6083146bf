"""An engine held against the preprocess contract when it starts: counts, ids, shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from PIL import Image

from vlmpipe.encoding.chat import IMAGE_PAD
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Message
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.encoding.rendered import probe_conversations, prompt_ids
from vlmpipe.errors import ArtifactError

SHAPES = {
    "patch_size": "patch_size",
    "merge_size": "spatial_merge_size",
    "temporal_patch_size": "temporal_patch_size",
}
"""Field of the contract, and its name in a model's `vision_config`."""


def check_model(encoder: Encoder, model_config: Any, where: str) -> None:
    """A transformers model, its tokenizer and its image processor against the contract.

    Raises:
        ArtifactError: naming each field or conversation with both values.
    """
    problems = [
        *_shape_faults(encoder, model_config),
        *count_faults(encoder.contract, lambda size: processed_tokens(encoder, size)),
        *id_faults(encoder.contract, lambda messages: prompt_ids(encoder, messages)),
    ]
    refuse(problems, where)


def count_faults(
    contract: PreprocessContract, tokens_of: Callable[[tuple[int, int]], int]
) -> Iterator[str]:
    """Each probe size whose image tokens are not those that the contract states.

    `tokens_of` counts for an image of this height and width, which is on its grid already.
    """
    for size, expected in contract.image_tokens.items() if contract.has_vision else ():
        height, width = (int(side) for side in size.split("x"))
        found = tokens_of(contract.grid.target_size(height, width))
        if found != expected:
            yield (
                f"an image of {size} (height x width) takes {found} tokens, the contract states"
                f" {expected}"
            )


def id_faults(
    contract: PreprocessContract, ids_of: Callable[[Sequence[Message]], list[int]]
) -> Iterator[str]:
    """Each probe conversation whose ids are not the stated ones, with the first that differs.

    `ids_of` gives a prompt's ids, -1 for each token of an image.
    """
    conversations = probe_conversations(has_vision=contract.has_vision)
    for name, case in contract.rendered.items():
        if name not in conversations:
            yield f"the contract states ids of {name!r}, a conversation not known here"
            continue
        found, expected = ids_of(conversations[name]), case.as_list()
        if found != expected:
            yield f"{name}: {_first_difference(found, expected)}"


def refuse(problems: Sequence[str], where: str) -> None:
    """Raise what was found.

    Raises:
        ArtifactError: when there is any problem.
    """
    if problems:
        raise ArtifactError(
            f"{where} does not do what the preprocess contract states",
            "make both again from one training: `vlmpipe run-all --force merge --force convert`"
            " with the same options",
            "or train again, where tokenizer or template were exchanged: `--force train`",
            problems=problems,
        )


def processed_tokens(encoder: Encoder, size: tuple[int, int]) -> int:
    """Tokens of an image of this height and width by the real image processor's grid."""
    blank = Image.new("RGB", (size[1], size[0]))
    grid = encoder.image_grid([blank])
    return int(np.prod(grid, axis=1).sum()) // encoder.contract.merge_size**2


def _shape_faults(encoder: Encoder, model_config: Any) -> Iterator[str]:
    contract, vision = encoder.contract, getattr(model_config, "vision_config", None)
    if contract.has_vision != (vision is not None):
        yield f"has_vision is {vision is not None} in the model, {contract.has_vision} stated"
    if vision is None or not contract.has_vision:
        return
    for field, name in SHAPES.items():
        found, expected = getattr(vision, name, None), getattr(contract, field)
        if found != expected:
            yield f"{field} is {found} in the model, the contract states {expected}"
    if model_config.image_token_id != encoder.image_token_id:
        yield (
            f"{IMAGE_PAD} has id {encoder.image_token_id} in the tokenizer, the model takes"
            f" {model_config.image_token_id} for images"
        )


def _first_difference(found: Sequence[int], expected: Sequence[int]) -> str:
    pairs = enumerate(zip_longest(found, expected))
    place, (here, stated) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
    return (
        f"token {place} is {_shown(here)}, the contract states {_shown(stated)}"
        f" ({len(found)} tokens, {len(expected)} stated)"
    )


def _shown(token: int | None) -> str:
    if token is None:
        return "none"
    return "an image's" if token < 0 else str(token)
