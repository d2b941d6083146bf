"""The ladder's rung for a model behind an Ollama server, which cannot be teacher-forced.

Its greedy answers are held against those of the same file in process and, where the server tells
its likeliest tokens, their probabilities along its own answers against the file's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.engines.likely import Choice, LikelyToken
from vlmpipe.engines.ollama import OllamaEngine, TokenChance
from vlmpipe.engines.ollama_messages import InexpressibleError
from vlmpipe.errors import VlmpipeError
from vlmpipe.export.parity.rung import measured
from vlmpipe.export.parity.top_divergence import top_divergence

TOP = 20
"""Likeliest tokens asked for at each place: the most that Ollama gives."""

MIN_EXACT = 0.9
"""Least share of answers that must be word for word the file's own: rounding that differs between
builds turns a token now and then."""


class Follower(Protocol):
    """An engine in process that can be led along a given answer."""

    @property
    def name(self) -> str:
        """As it stands in results."""

    def follow(self, messages: Sequence[Message], tokens: Sequence[int]) -> Iterator[np.ndarray]:
        """Log-probabilities [vocabulary] at each of the tokens."""


TokenId = Callable[[str], int | None]
"""Id of a token by its text; None where the text does not name one."""


@dataclass
class _Findings:
    """What the samples came to."""

    texts: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    same: int = 0
    divergences: list[float] = field(default_factory=list)
    agreements: list[bool] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    fault: str | None = None
    """What ended the asking early."""


def ollama_rung(
    engine: OllamaEngine,
    samples: Sequence[Sample],
    references: Sequence[str],
    *,
    against: str,
    max_new_tokens: int,
    min_exact: float = MIN_EXACT,
    follower: tuple[Follower, TokenId] | None = None,
) -> dict[str, Any]:
    """Ask every sample of the server; `references` are the greedy answers of the same file in
    process, to as many tokens, under the name `against`.

    Returns the record that `parity.json` has of a rung. `kld_mean` is over the likeliest tokens and
    the rest taken as one, a lower bound of the divergence over the vocabulary; it is None without a
    `follower` or on a server before 0.12.11. Samples that the chat API cannot express are left out
    and named. Whatever fails on the way, the server or the following of its answer, fails the rung
    and nothing else, in its own words.
    """
    found = _Findings()
    for sample, reference in zip(samples, references, strict=True):
        try:
            _ask(engine, sample, reference, max_new_tokens, follower, found)
        except InexpressibleError as exc:
            found.skipped.append(f"{sample.id}: {exc.message}")
        except VlmpipeError as exc:
            found.fault = f"{sample.id}: {exc.message}"
            break
    return _record(found, against, min_exact)


def token_finder(tokenizer: Any) -> TokenId:
    """Ids of tokens by their text, by a transformers tokenizer; a part of a character has none."""

    def find(text: str) -> int | None:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return int(ids[0]) if len(ids) == 1 else None

    return find


def _ask(
    engine: OllamaEngine,
    sample: Sample,
    reference: str,
    max_new_tokens: int,
    follower: tuple[Follower, TokenId] | None,
    found: _Findings,
) -> None:
    completion, chances = engine.complete_with_chances(
        sample.prompt, max_new_tokens=max_new_tokens, top=TOP if follower else 0
    )
    found.texts.append(completion.text)
    found.samples.append(sample)
    found.same += completion.text.split() == reference.split()
    if follower and chances:
        _follow(sample, chances, *follower, found)


def _follow(
    sample: Sample,
    chances: Sequence[TokenChance],
    engine: Follower,
    token_id: TokenId,
    found: _Findings,
) -> None:
    ids = [token_id(chance.token) for chance in chances]
    known = ids[: ids.index(None)] if None in ids else ids
    tokens = [token for token in known if token is not None]
    pairs = zip(tokens, chances, strict=False)
    choices = [_choice(token, chance, token_id) for token, chance in pairs]
    divergence = top_divergence(choices, engine.follow(sample.prompt, tokens))
    found.divergences += divergence.klds.tolist()
    found.agreements += divergence.same_first.tolist()


def _choice(taken: int, chance: TokenChance, token_id: TokenId) -> Choice:
    """What the server told of one token, tokens by their ids; those without one are left out."""
    told = [(token_id(token), token, logprob) for token, logprob in chance.top]
    top = [LikelyToken(id_, text.encode(), at) for id_, text, at in told if id_ is not None]
    return Choice(LikelyToken(taken, chance.token.encode(), chance.logprob), tuple(top))


def _record(found: _Findings, against: str, min_exact: float) -> dict[str, Any]:
    asked = len(found.texts)
    exact = found.same / asked if asked else None
    passed = found.fault is None and exact is not None and exact >= min_exact
    klds = found.divergences
    return {
        "rung": "ollama",
        "against": against,
        "kld_mean": float(np.mean(klds)) if klds else None,
        "kld_p99": float(np.quantile(klds, 0.99)) if klds else None,
        "top1_agreement": float(np.mean(found.agreements)) if klds else None,
        "exact_match": exact,
        "metric": measured(found.texts, found.samples).metric if asked else None,
        "passed": passed,
        "why": None if passed else _why(found, asked, min_exact),
        "skipped": found.skipped,
    }


def _why(found: _Findings, asked: int, min_exact: float) -> str:
    if found.fault:
        return f"it ended after {asked} answers, at {found.fault}"
    if not asked:
        return "no sample of the probe set can be expressed in Ollama's chat API"
    return f"{found.same} of {asked} answers are the file's own, wanted {min_exact:.0%}"
