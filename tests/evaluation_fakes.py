"""An engine of our own protocol that looks, or does not look, at its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.engines.base import Completion, EngineType, Score
from vlmpipe.evaluation.records import Sampling, System
from vlmpipe.evaluation.validation.comparison import Comparison, compare

KNOWN_LOSS, UNKNOWN_LOSS = 0.25, 2.25
"""Nats a token where the engine would give the reference, and where it would not."""


def system_of(engine: str = "hf:adapter", max_new_tokens: int = 50) -> System:
    """What an engine's records say that it is."""
    state = engine.partition(":")[2]
    return System(
        engine=engine,
        model_name="colours",
        engine_type="hf",
        engine_version="colours 1.0",
        lora_enabled=state == "adapter",
        merge_state="base" if state == "base" else "adapter",
        quantization=None,
        digests={"model.safetensors": "0" * 64},
        sampling=Sampling(max_new_tokens=max_new_tokens),
        seed=42,
        preprocess_contract="c" * 64,
    )


def systems_of(max_new_tokens: int = 20) -> dict[str, System]:
    """Of base and tuned."""
    return {
        "base": system_of("hf:base", max_new_tokens),
        "tuned": system_of("hf:adapter", max_new_tokens),
    }


def compared(
    tuned: Mapping[str, str], splits: Mapping[str, Sequence[Sample]], base: str = "?"
) -> Comparison:
    """An engine that answers by colour against one that gives the same answer to everything."""
    engines = {"base": ColourEngine("base", {"": base}), "tuned": ColourEngine("tuned", tuned)}
    return compare(engines, systems_of(), splits)


def colour_sample(name: str, colour: str, answer: str, task: str = "qa") -> Sample:
    """A picture of one colour, and an answer about it."""
    picture = Image.new("RGB", (64, 48), colour)
    return Sample(
        id=name,
        messages=(
            Message("user", (picture, "Which colour?")),
            Message("assistant", (answer,)),
        ),
        task=task,
    )


def text_sample(name: str, question: str, answer: str) -> Sample:
    """A question without an image."""
    messages = (Message("user", (question,)), Message("assistant", (answer,)))
    return Sample(id=name, messages=messages, task="qa")


@dataclass
class ColourEngine:
    """Answers by the colour of the first image; an empty key answers whatever is shown."""

    name: str
    answers: Mapping[str, str]
    asked: list[str] = field(default_factory=list)
    engine_type: EngineType = "hf"
    version: str = "colours 1.0"
    can_score: bool = True

    def complete(self, messages: Sequence[Message], *, max_new_tokens: int) -> Completion:
        """One token a character, a tenth of a second each; cut where the limit is reached."""
        self.asked.append(messages[-1].text)
        text = self._answer(messages)
        kept = text[:max_new_tokens]
        return Completion(
            text=kept,
            finish_reason="stop" if kept == text else "length",
            prompt_tokens=10,
            completion_tokens=len(kept),
            seconds=0.5 + 0.1 * (len(kept) - 1),
            first_token_seconds=0.5,
        )

    def score(self, messages: Sequence[Message], answer: str) -> Score:
        """Low loss where the engine would say just that."""
        known = self._answer(messages) == answer
        return Score(
            loss=KNOWN_LOSS if known else UNKNOWN_LOSS,
            tokens=len(answer) + 1,
            accuracy=1.0 if known else 0.0,
        )

    def close(self) -> None:
        """Nothing is held."""

    def _answer(self, messages: Sequence[Message]) -> str:
        images = [image for message in messages for image in message.images]
        shown = "#%02x%02x%02x" % images[0].getpixel((0, 0)) if images else ""  # noqa: UP031
        return self.answers.get(shown, self.answers.get("", "?"))
