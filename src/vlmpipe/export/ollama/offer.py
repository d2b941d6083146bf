"""The recommended file offered to an Ollama server, and its rung of the ladder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from vlmpipe.encoding.conversation import Message
from vlmpipe.engines.llama_cpp import LlamaCppEngine
from vlmpipe.engines.ollama import OllamaEngine
from vlmpipe.engines.ollama_api import OllamaApi
from vlmpipe.errors import ToolError
from vlmpipe.export.gguf.conversion import Conversion
from vlmpipe.export.gguf.file_set import GgufSet, ollama_name, served_files
from vlmpipe.export.ollama.modelfile import ollama_settings
from vlmpipe.export.ollama.registration import Offer, OllamaResult, Question, offer_model
from vlmpipe.export.ollama.rung import ollama_rung, token_finder
from vlmpipe.export.parity.gguf_rungs import opener
from vlmpipe.export.parity.speed import ANSWER_TOKENS
from vlmpipe.models.loading import load_tokenizer
from vlmpipe.pipeline import Verdict

RUNG_PROBES = 8
"""Probes asked of the server: it answers one at a time."""


def offer_to_ollama(
    work: Conversion, made: GgufSet, quant: str, verdict: Verdict
) -> tuple[OllamaResult, dict[str, Any] | None]:
    """Register the file where a server answers, and hold its answers against the file's own.

    A model that failed the ladder is not offered: it would take the place of one that did not. The
    stage stands either way: nothing that a server does raises. The second value is the rung, None
    where nothing was registered.
    """
    rules = work.config.convert
    if not verdict.passed:
        why = f"not offered to Ollama: {verdict.reasons[0]}"
        return OllamaResult("withheld", why), None
    offer = Offer(
        url=rules.ollama_url,
        name=ollama_name(rules, work.config.run.name),
        files=served_files(made, quant),
        settings=ollama_settings(work.contract),
        contract=work.contract,
        modelfile=work.context.folder.parent / "latest" / "Modelfile",
        merged=work.model,
    )
    if not _answers(offer.url):
        return offer_model(offer, []), None
    with closing(opener(made.paths, made.mmproj, work.contract)(quant, "contract")) as engine:
        result = offer_model(offer, _questions(engine, work.probes.samples[0].prompt))
        rung = _rung(work, offer, engine, result) if result.state == "registered" else None
    return result, rung


def _answers(url: str) -> bool:
    try:
        with OllamaApi(url) as api:
            return api.version() is not None
    except ToolError:
        return False


def _questions(engine: LlamaCppEngine, prompt: Sequence[Message]) -> list[Question]:
    """A probe as it is, and, where it holds images, the same words without them."""
    plain = [Message(turn.role, (turn.text,)) for turn in prompt]
    asked = [prompt, plain] if any(turn.images for turn in prompt) else [prompt]
    return [
        Question(each, engine.complete(each, max_new_tokens=ANSWER_TOKENS).text) for each in asked
    ]


def _rung(
    work: Conversion, offer: Offer, engine: LlamaCppEngine, result: OllamaResult
) -> dict[str, Any]:
    placeholders = result.prompts is not None and result.prompts.placeholders is True
    samples = work.probes.samples[:RUNG_PROBES]
    limit = work.config.parity.max_new_tokens
    with OllamaApi(offer.url) as api:
        return ollama_rung(
            OllamaEngine(api, offer.name, work.contract, placeholders=placeholders),
            samples,
            [engine.complete(each.prompt, max_new_tokens=limit).text for each in samples],
            against=f"{engine.name} in process",
            max_new_tokens=limit,
            follower=(engine, token_finder(load_tokenizer(work.model))),
        )
