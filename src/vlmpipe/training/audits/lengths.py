"""Samples that are longer than what a training takes: told and dropped, or refused; never cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vlmpipe.config import Config
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.errors import BadSamplesError
from vlmpipe.models.families import read_model_config
from vlmpipe.training.audits.smaller_grids import key_for, smaller_grids
from vlmpipe.training.batching.lengths import SampleLengths
from vlmpipe.training.curriculum import Phase

LISTED = 20


@dataclass(frozen=True)
class LengthLimit:
    """How long a sample may be."""

    tokens: int
    said_by: str
    """The key, or the model's file, that says so."""

    def kept(
        self, indices: Sequence[int], lengths: SampleLengths, grid: ImageGrid
    ) -> tuple[int, ...]:
        """Those of the samples that are not too long at this image size."""
        return tuple(index for index in indices if lengths.tokens(index, grid) <= self.tokens)


@dataclass(frozen=True)
class LongSample:
    """A sample and its length in a phase."""

    id: str
    origin: str
    """`file:line`."""

    tokens: int


@dataclass(frozen=True)
class PhaseLengths:
    """One phase's lengths against the limit."""

    phase: str
    samples: int
    longest: LongSample
    dropped: tuple[LongSample, ...]
    """Those above the limit: not trained on in this phase."""

    fitting_size: str | None
    """The largest image size at which they would fit, as a setting; None where no image is too
    large."""


@dataclass(frozen=True)
class LengthAudit:
    """Every phase's lengths."""

    limit: int
    limited_by: str
    """The key, or the model's file, that says so."""

    phases: tuple[PhaseLengths, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """What was dropped, for the person who watches."""
        return [
            f"phase {row.phase}: {len(row.dropped)} of {row.samples} samples are longer than"
            f" {self.limited_by} and are left out, the longest with {row.longest.tokens} tokens"
            f" ({row.longest.origin or row.longest.id})"
            for row in self.phases
            if row.dropped
        ]


def fit_lengths(
    phases: Sequence[Phase],
    samples: Sequence[Sample],
    lengths: SampleLengths,
    config: Config,
    limit: LengthLimit,
) -> tuple[list[Phase], LengthAudit]:
    """The phases without the samples that are too long for them, and a report.

    Raises:
        BadSamplesError: naming them by file and line, unless `data.on_bad_sample=skip`; then, when
            a phase is left without samples.
    """
    rows = [_measure(phase, samples, lengths, limit.tokens) for phase in phases]
    audit = LengthAudit(limit.tokens, limit.said_by, tuple(rows))
    kept = [
        replace(phase, indices=limit.kept(phase.indices, lengths, phase.grid)) for phase in phases
    ]
    emptied = any(not phase.indices for phase in kept)
    if emptied or (config.data.on_bad_sample == "refuse" and any(row.dropped for row in rows)):
        raise _refusal(audit, config, emptied=emptied)
    return kept, audit


def position_limit(model_folder: Path) -> int | None:
    """Positions that a model was made for, as its config.json says; None where it does not.

    Raises:
        ArtifactError: when config.json cannot be read.
    """
    config = read_model_config(model_folder)
    for part in (config.get("text_config") or {}, config):
        if part.get("max_position_embeddings"):
            return int(part["max_position_embeddings"])
    return None


def length_limit(config: Config, positions: int | None) -> LengthLimit:
    """`train.max_length`, or the model's `positions` where it has fewer."""
    asked = config.train.max_length
    if positions is not None and positions < asked:
        return LengthLimit(positions, f"the model's max_position_embeddings={positions}")
    return LengthLimit(asked, f"train.max_length={asked}")


def _measure(
    phase: Phase, samples: Sequence[Sample], lengths: SampleLengths, limit: int
) -> PhaseLengths:
    indices = list(dict.fromkeys(phase.indices))
    tokens = {index: lengths.tokens(index, phase.grid) for index in indices}
    long = sorted((i for i in indices if tokens[i] > limit), key=lambda i: -tokens[i])
    longest = max(indices, key=lambda i: tokens[i])
    return PhaseLengths(
        phase=phase.name,
        samples=len(indices),
        longest=_named(samples[longest], tokens[longest]),
        dropped=tuple(_named(samples[index], tokens[index]) for index in long),
        fitting_size=_fitting_size(phase, long, lengths, limit),
    )


def _named(sample: Sample, tokens: int) -> LongSample:
    return LongSample(sample.id, sample.origin, tokens)


def _fitting_size(
    phase: Phase, long: Sequence[int], lengths: SampleLengths, limit: int
) -> str | None:
    def fits(grid: ImageGrid) -> bool:
        return all(lengths.tokens(index, grid) <= limit for index in long)

    if not any(lengths.image_tokens(index, phase.grid) for index in long):
        return None
    grid = next(filter(fits, smaller_grids(phase.grid)), None)
    return None if grid is None else key_for(grid, phase.name)


def _refusal(audit: LengthAudit, config: Config, *, emptied: bool) -> BadSamplesError:
    long = [(row.phase, each) for row in audit.phases for each in row.dropped]
    most = max(each.tokens for _, each in long)
    sizes = [row.fitting_size for row in audit.phases if row.fitting_size]
    by_config = audit.limit == config.train.max_length
    problems = [
        f"{each.origin or each.id}: takes {each.tokens} tokens in phase {phase}"
        for phase, each in long
    ]
    return BadSamplesError(
        f"{len({each.id for _, each in long})} samples are longer than {audit.limited_by}; nothing"
        " is ever cut" + ("; a phase would be left without samples" if emptied else ""),
        *([f"take them whole: train.max_length={most}"] if by_config else []),
        *([f"make their images smaller: {'; '.join(sizes)}"] if sizes else []),
        *([] if emptied else ["leave them out: data.on_bad_sample=skip"]),
        "or shorten or remove them in the source",
        problems=[*problems[:LISTED], *_rest(len(problems) - LISTED)],
    )


def _rest(count: int) -> list[str]:
    return [f"and {count} more"] if count > 0 else []
