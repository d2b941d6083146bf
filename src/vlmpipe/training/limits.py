"""The limits that a configuration sets on images and lengths, as a preprocess contract."""

from __future__ import annotations

import math
from typing import Any

from vlmpipe.config import Config
from vlmpipe.encoding.contract import PreprocessContract, build_contract
from vlmpipe.encoding.rendered import with_rendered_ids
from vlmpipe.models.families import Family
from vlmpipe.training.batching.lengths import SampleLengths

DEFAULT_MAX_PIXELS = 1232 * 1792
CONTEXT_STEP = 256


def limits_contract(config: Config, family: Family, context_length: int) -> PreprocessContract:
    """The contract of a configuration: the largest curriculum phase is what serving uses."""
    boxes = [phase.max_size for phase in config.train.curriculum]
    box = max(boxes, key=lambda size: size[0] * size[1], default=None)
    largest = box[0] * box[1] if box else DEFAULT_MAX_PIXELS
    smallest = config.model.min_pixels
    return build_contract(
        family,
        min_pixels=smallest,
        max_pixels=config.model.max_pixels or max(largest, smallest or 0),
        max_size=box,
        system_prompt=config.model.system_prompt,
        context_length=context_length,
    )


def contract_for(
    config: Config, family: Family, tokenizer: Any, *lengths: SampleLengths
) -> PreprocessContract:
    """The contract with the context length that samples of these lengths need, and the probe
    conversations' ids by the model's own tokenizer.

    Twice the longest answer is reserved, so that an answer longer than any seen still fits.
    """
    grid = limits_contract(config, family, 0).grid
    longest = max((each.longest(grid) for each in lengths), default=0)
    needed = longest + max((each.longest_answer for each in lengths), default=0)
    length = math.ceil(max(needed, 1) / CONTEXT_STEP) * CONTEXT_STEP
    return with_rendered_ids(limits_contract(config, family, length), tokenizer)
