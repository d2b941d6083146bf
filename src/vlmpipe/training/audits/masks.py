"""Proof before the first step: what is supervised, decoded, and held against the chosen scope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, get_args

from vlmpipe.config.train import LossScope
from vlmpipe.encoding.chat import render_segments
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import IGNORED, Encoded, Encoder
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.errors import StageError

SHOWN_SAMPLES = 3


@dataclass(frozen=True)
class AuditedSample:
    """One sample's supervised text."""

    id: str
    tokens: int
    image_tokens: int
    supervised_tokens: int
    supervised_spans: tuple[str, ...]


@dataclass(frozen=True)
class MaskAudit:
    """Totals over the audited samples, and a few of them decoded."""

    scope: LossScope
    audited: int
    tokens: int
    image_tokens: int
    supervised_tokens: int
    samples: tuple[AuditedSample, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def audit_masks(
    samples: Sequence[Sample], encoder: Encoder, scope: LossScope, grid: ImageGrid
) -> MaskAudit:
    """Encode the samples as the trainer will and examine their labels.

    Raises:
        StageError: when an image token is supervised, a token outside the scope is, or a sample
            has nothing supervised.
    """
    rows = []
    for sample in samples:
        encoded = encoder.encode_sample(sample.messages, scope, grid)
        problem = find_mask_fault(sample, encoded, encoder, scope)
        if problem:
            raise StageError(
                f"the loss mask of sample {sample.id} ({sample.origin}) is wrong: {problem}",
                "choose another scope: train.loss.scope=" + "|".join(get_args(LossScope)),
            )
        rows.append(_audited(sample, encoded, encoder))
    return MaskAudit(
        scope=scope,
        audited=len(rows),
        tokens=sum(row.tokens for row in rows),
        image_tokens=sum(row.image_tokens for row in rows),
        supervised_tokens=sum(row.supervised_tokens for row in rows),
        samples=tuple(rows[:SHOWN_SAMPLES]),
    )


def find_mask_fault(
    sample: Sample, encoded: Encoded, encoder: Encoder, scope: LossScope
) -> str | None:
    """What is wrong with a sample's labels, None where nothing is.

    The expectation is built from the conversation's text, not from the labels' own code.
    """
    pairs = list(zip(encoded.input_ids, encoded.labels, strict=True))
    supervised = [(place, token) for place, (token, label) in enumerate(pairs) if label != IGNORED]
    if not supervised:
        return "nothing is supervised"
    if any(label not in (token, IGNORED) for token, label in pairs):
        return "a label is not the token at its own place"
    images = [place for place, is_image in enumerate(encoded.image_mask) if is_image]
    if any(token in encoder.vision_token_ids for _, token in supervised):
        return "an image token is supervised"
    if scope == "all_text":
        return _unmasked_fault(encoded, encoder, after=-1)
    if images and scope != "assistant" and supervised[0][0] < images[0]:
        return "a token before the first image is supervised"
    if scope == "after_image" and images:
        return _unmasked_fault(encoded, encoder, after=images[0])
    return _text_fault(sample, encoded, encoder, after=images[0] if images else -1, scope=scope)


def _unmasked_fault(encoded: Encoded, encoder: Encoder, after: int) -> str | None:
    """All text after a place must be supervised, nothing before it."""
    for place, (token, label) in enumerate(zip(encoded.input_ids, encoded.labels, strict=True)):
        wanted = place > after and token not in encoder.vision_token_ids
        if wanted != (label != IGNORED):
            return f"a token {'of text is not' if wanted else 'outside the scope is'} supervised"
    return None


def _text_fault(
    sample: Sample, encoded: Encoded, encoder: Encoder, after: int, scope: LossScope
) -> str | None:
    """The supervised text must be the answers, whole, each with its end of turn."""
    contract = encoder.contract
    segments = render_segments(contract.chat_template, contract.conversation(sample.messages))
    seen_image = after < 0 or scope == "assistant"
    expected = ""
    for segment in segments:
        if segment.answer and seen_image:
            expected += segment.text
        seen_image = seen_image or "<|image_pad|>" in segment.text
    labels = [label for label in encoded.labels if label != IGNORED]
    found = encoder.decode(labels, skip_special_tokens=False)
    wanted = encoder.decode(
        encoder.tokenizer(expected, add_special_tokens=False)["input_ids"],
        skip_special_tokens=False,
    )
    if found != wanted:
        return f"supervised is {found[:80]!r} where {wanted[:80]!r} was to be"
    return None


def _audited(sample: Sample, encoded: Encoded, encoder: Encoder) -> AuditedSample:
    spans = [
        encoder.decode(list(group), skip_special_tokens=False)
        for supervised, group in groupby(encoded.labels, key=lambda label: label != IGNORED)
        if supervised
    ]
    return AuditedSample(
        id=sample.id,
        tokens=len(encoded.input_ids),
        image_tokens=sum(encoded.image_mask),
        supervised_tokens=sum(label != IGNORED for label in encoded.labels),
        supervised_spans=tuple(spans),
    )
