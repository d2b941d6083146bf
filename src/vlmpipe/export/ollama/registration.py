"""Registration with an Ollama server: created, shown to render the training prompt, asked; undone
on failure.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Message
from vlmpipe.engines.ollama import OllamaEngine
from vlmpipe.engines.ollama_api import OllamaApi
from vlmpipe.errors import ToolError, VlmpipeError
from vlmpipe.export.ollama.modelfile import OllamaSettings
from vlmpipe.export.ollama.prompt import PromptProof, prove_prompts
from vlmpipe.export.ollama.route import Route, RouteName, plan_routes
from vlmpipe.export.parity.speed import ANSWER_TOKENS

KEPT_SUFFIX = "-before"
"""Name under which a model that is about to be replaced is kept until the new one answers."""

MIN_LIKENESS = 0.5
"""Least share of a probe's answer that must be the in-process engine's. Rounding may turn a word;
a projector that was ignored or misread leaves nothing alike."""

MERGED_FILES = ("*.safetensors", "*.json", "*.jinja", "merges.txt")
"""What a server reads of a merged folder."""


@dataclass(frozen=True)
class Question:
    """What a registered model is asked, and what the same file answers in process."""

    messages: Sequence[Message]
    expected: str | None
    """None: the answer is recorded and not compared."""


@dataclass(frozen=True)
class OllamaResult:
    """What became of the registration."""

    state: str
    """`registered`, `absent` (no server answered), `failed` (and undone) or `withheld` (the model
    failed its own gate)."""

    detail: str
    answer: str | None = None
    """To the first question."""

    route: RouteName | None = None
    reason: str = ""
    """Why this route."""

    notes: tuple[str, ...] = ()
    """What is otherwise than in training on this server, and routes that failed before."""

    prompts: PromptProof | None = None
    likeness: tuple[float | None, ...] = ()
    """Share of each answer that is the expected one, 0 to 1; None where none was expected."""

    def as_record(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Offer:
    """A model for an Ollama server."""

    url: str
    name: str
    files: Sequence[Path]
    """GGUF files: the text model first, then the mmproj where there is one."""

    settings: OllamaSettings
    contract: PreprocessContract
    modelfile: Path
    """Where the published Modelfile will lie, for the command to register later."""

    merged: Path | None = None
    """The merged 16-bit folder, for servers that make their own file of it."""


def offer_model(offer: Offer, questions: Sequence[Question]) -> OllamaResult:
    """Make the files a model of the server and ask it, route after route that its version
    suggests, until one answers every question as it should.

    A model of that name is restored when the new one fails. Never raises for what a server does.
    """
    later = f"register later with: {register_command(offer.name, offer.modelfile)}"
    try:
        with OllamaApi(offer.url) as api:
            version = api.version()
            if version is None:
                return OllamaResult("absent", f"no Ollama server answered at {offer.url}; {later}")
            return _try_routes(api, version, offer, questions, later)
    except ToolError as exc:
        return OllamaResult("absent", f"{offer.url} is not the address of a server: {exc}; {later}")


def register_command(name: str, modelfile: Path) -> str:
    """The command that registers the published files by hand."""
    return shlex.join(["ollama", "create", name, "-f", str(modelfile)])


def likeness(ours: str, theirs: str) -> float:
    """How much of two answers is the same, 0 to 1; spacing aside."""
    first, second = " ".join(ours.split()), " ".join(theirs.split())
    return SequenceMatcher(None, first, second, autojunk=False).ratio()


def _try_routes(
    api: OllamaApi, version: str, offer: Offer, questions: Sequence[Question], later: str
) -> OllamaResult:
    plan = plan_routes(version, offer.contract, has_merged=offer.merged is not None)
    failures: list[str] = []
    for route in plan.routes:
        try:
            result = _create_and_ask(api, offer, route, questions)
        except VlmpipeError as exc:
            failures.append(f"{route.name}: {exc.message}")
            continue
        detail = f"registered with Ollama {version} at {offer.url} as {offer.name} ({route.name})"
        return replace(result, detail=detail, notes=(*plan.notes, *failures, *result.notes))
    why = "; ".join(failures) or "; ".join(plan.notes)
    return OllamaResult(
        "failed",
        f"Ollama {version} at {offer.url} did not take {offer.name}: {why}; {later}",
        notes=plan.notes,
    )


def _create_and_ask(
    api: OllamaApi, offer: Offer, route: Route, questions: Sequence[Question]
) -> OllamaResult:
    order: dict[str, Any] = {
        "model": offer.name,
        "files": {name: api.push_blob(path) for name, path in _sent_files(offer, route).items()},
        "template": offer.settings.template,
        "parameters": offer.settings.parameters,
    }
    if offer.settings.system:
        order["system"] = offer.settings.system
    with _undone_on_failure(api, offer.name):
        api.create(order)
        proof = prove_prompts(api, offer.name, offer.contract)
        engine = OllamaEngine(
            api, offer.name, offer.contract, placeholders=proof.placeholders is True
        )
        answers = [
            engine.complete(question.messages, max_new_tokens=ANSWER_TOKENS).text
            for question in questions
        ]
        alike = tuple(_judge(*pair) for pair in zip(questions, answers, strict=True))
    return OllamaResult(
        "registered",
        "",
        answers[0] if answers else None,
        route=route.name,
        reason=route.reason,
        notes=proof.notes,
        prompts=proof,
        likeness=alike,
    )


def _judge(question: Question, answer: str) -> float | None:
    if question.expected is None:
        return None
    share = likeness(question.expected, answer)
    if share < MIN_LIKENESS:
        raise ToolError(
            f"it answers {answer[:60]!r} where the same file answers {question.expected[:60]!r}"
            " in process"
        )
    return round(share, 4)


def _sent_files(offer: Offer, route: Route) -> dict[str, Path]:
    if route.name != "safetensors" or offer.merged is None:
        return {path.name: path for path in offer.files}
    found = (path for pattern in MERGED_FILES for path in sorted(offer.merged.glob(pattern)))
    return {path.name: path for path in found}


@contextmanager
def _undone_on_failure(api: OllamaApi, name: str) -> Iterator[None]:
    """Leave the server as it was when what is done within fails.

    The kept copy goes last: a server that fails to put it back still has it.
    """
    kept = name + KEPT_SUFFIX
    existed = api.exists(name)
    if existed:
        api.copy(name, kept)
    try:
        yield
    except BaseException:
        try:
            api.delete(name)
        finally:
            if existed:
                api.copy(kept, name)
                api.delete(kept)
        raise
    if existed:
        api.delete(kept)
