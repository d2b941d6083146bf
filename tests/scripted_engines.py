"""Engines that do as their prompts say, in whatever process they are opened."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

from PIL import Image

from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.engines.base import Completion, Score
from vlmpipe.errors import StageError, ToolError
from vlmpipe.evaluation.systems import SystemOrder


@dataclass
class ScriptedEngine:
    """Answers with what stands behind the colon of the last text; the word before it is an order.

    Every prompt that it is given is written down in `diary`, since it lives in another process.
    """

    diary: Path
    name: str = "hf:scripted"
    version: str = "scripted 1"
    engine_type: str = "hf"
    can_score: bool = True
    answer_seconds: float = 0.0
    dies_of_blank: bool = False
    serves: str | None = None
    """What it calls the model it runs, as servers do."""

    @property
    def served(self) -> SimpleNamespace | None:
        return SimpleNamespace(name=self.serves) if self.serves else None

    def complete(self, messages: Sequence[Message], *, max_new_tokens: int) -> Completion:
        order, _, rest = messages[-1].text.partition(":")
        if self.dies_of_blank and any(_blank(image) for image in messages[-1].images):
            os.kill(os.getpid(), signal.SIGSEGV)
        with self.diary.open("a", encoding="utf-8") as stream:
            stream.write(f"{order}:{rest}\n")
        text = self._obey(order, rest)
        tokens = len(text.split())
        cut = tokens > max_new_tokens
        if cut:
            text, tokens = " ".join(text.split()[:max_new_tokens]), max_new_tokens
        time.sleep(self.answer_seconds)
        return Completion(
            text=text,
            finish_reason="length" if cut else "stop",
            prompt_tokens=7,
            completion_tokens=tokens,
            seconds=0.2,
            first_token_seconds=0.1,
        )

    def _obey(self, order: str, rest: str) -> str:
        match order:
            case "die":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "die once" if _first_time(self.diary.with_suffix(".died")):
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                time.sleep(600)
            case "bug":
                raise RuntimeError("out of memory, say")
            case "refuse":
                raise StageError("the conversation does not fit")
            case "half":
                return "\ud83d" + rest
            case "huge":
                return "x" * 1_000_000
            case "endless":
                return "word " * 10_000
        return rest

    def score(self, messages: Sequence[Message], answer: str) -> Score:
        order = messages[-1].text.partition(":")[0]
        if order == "unscorable":
            raise StageError("too long")
        return Score(loss=0.5 if messages[-1].images else 1.0, tokens=4, accuracy=0.75)

    def close(self) -> None:
        pass


def _first_time(mark: Path) -> bool:
    if mark.exists():
        return False
    mark.touch()
    return True


class ScriptedBatch(ScriptedEngine):
    """The same, four conversations at a time."""

    def complete_all(
        self, conversations: Iterable[Sequence[Message]], *, max_new_tokens: int
    ) -> Iterator[Completion]:
        supply = iter(conversations)
        while batch := list(islice(supply, 4)):
            yield from [self.complete(each, max_new_tokens=max_new_tokens) for each in batch]


def _blank(image: Image.Image) -> bool:
    return image.getpixel((0, 0)) == (255, 255, 255)


def open_nothing() -> ScriptedEngine:
    """An engine that cannot be opened."""
    raise ToolError("there is no such server", "start it")


@dataclass(frozen=True)
class ListSource:
    """Samples in memory."""

    samples: tuple[Sample, ...]
    name: str = "heldout"

    @property
    def count(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)


def asked(*prompts: str, task: str = "qa") -> ListSource:
    """Samples s0, s1 … whose right answer is what stands behind the colon."""
    return ListSource(
        tuple(
            Sample(
                id=f"s{number}",
                messages=(
                    Message("user", (prompt,)),
                    Message("assistant", (prompt.partition(":")[2] or "x",)),
                ),
                task=task,
            )
            for number, prompt in enumerate(prompts)
        )
    )


def with_pictures(count: int) -> ListSource:
    """Samples that differ by the grey of their picture."""
    return ListSource(
        tuple(
            Sample(
                id=f"s{number}",
                messages=(
                    Message("user", (Image.new("RGB", (8, 8), (number, 0, 0)), f"say:{number}")),
                    Message("assistant", (str(number),)),
                ),
                task="qa",
            )
            for number in range(count)
        )
    )


def order_of(
    diary: Path, name: str = "hf:scripted", *, window: int = 1, **options: object
) -> SystemOrder:
    """An order for a scripted engine."""
    engine = ScriptedEngine if window == 1 else ScriptedBatch
    return SystemOrder(
        name=name,
        engine_type="hf",
        model_name="scripted",
        merge_state="base",
        quantization=None,
        digests={"weights": "1" * 64},
        contract_digest="2" * 64,
        open=partial(engine, diary, name, **options),
    )
