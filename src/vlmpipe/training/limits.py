"""The limits that a configuration sets on images and lengths, as a preprocess contract."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from vlmpipe.config import Config
from vlmpipe.encoding.contract import PreprocessContract, build_contract
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.encoding.rendered import with_rendered_ids
from vlmpipe.models.families import Family
from vlmpipe.models.loading import load_tokenizer

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
    config: Config, family: Family, model_folder: Path, samples: Sequence[Sample]
) -> PreprocessContract:
    """The contract with the context length that these samples need, and the probe conversations'
    ids by the model's own tokenizer.

    Twice the longest answer is reserved, so that an answer longer than any seen still fits.
    """
    encoder = Encoder(load_tokenizer(model_folder), limits_contract(config, family, 0))
    totals = [encoder.token_count(sample.messages) for sample in samples]
    answers = [encoder.token_count(sample.messages[-1:]) for sample in samples]
    needed = max(totals, default=0) + max(answers, default=0)
    length = math.ceil(max(needed, 1) / CONTEXT_STEP) * CONTEXT_STEP
    return with_rendered_ids(limits_contract(config, family, length), encoder.tokenizer)
