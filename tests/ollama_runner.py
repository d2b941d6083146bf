"""Answers of the local Ollama server by a real GGUF model, run as the server was given it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from ollama_server import Answered, Asked, Model, Runner
from vlmpipe.encoding.chat import IMAGE_SLOT
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Message
from vlmpipe.engines.likely import Choice, LikelyToken
from vlmpipe.engines.llama_cpp import LlamaCppEngine

ENLARGED = 1024
"""Image tokens that llama-server is told to make at least, since Ollama 0.30."""


@contextmanager
def real_runner(
    folder: Path, contract: PreprocessContract, *, min_image_tokens: int = 0
) -> Iterator[Runner]:
    """A runner that loads a model's own bytes and evaluates the prompt that the server rendered."""
    smallest = min_image_tokens * contract.grid.factor**2
    if smallest > contract.min_pixels:
        contract = contract.model_copy(
            update={
                "min_pixels": smallest,
                "max_pixels": max(contract.max_pixels, 2 * smallest),
                "image_tokens": {},
                "rendered": {},
            }
        )
    engines: dict[int, LlamaCppEngine] = {}

    def run(model: Model, asked: Asked) -> Answered:
        engine = engines.get(id(model)) or _load(model, folder, contract)
        engines[id(model)] = engine
        return _evaluate(engine, contract, asked)

    try:
        yield run
    finally:
        for engine in engines.values():
            engine.close()


def _load(model: Model, folder: Path, contract: PreprocessContract) -> LlamaCppEngine:
    folder.mkdir(exist_ok=True)
    paths: list[Path | None] = []
    for name, data in (("weights", model.weights), ("mmproj", model.projector)):
        paths.append(folder / f"{id(model)}-{name}.gguf" if data is not None else None)
        if data is not None:
            (folder / f"{id(model)}-{name}.gguf").write_bytes(data)
    weights, mmproj = paths
    assert weights is not None
    context = model.order["parameters"]["num_ctx"]
    return LlamaCppEngine(weights, mmproj, contract, name="ollama", n_ctx=max(context, 4096))


def _evaluate(engine: LlamaCppEngine, contract: PreprocessContract, asked: Asked) -> Answered:
    images: list[Image.Image] = []

    def place(mark: re.Match[str]) -> str:
        if int(mark[1]) >= len(asked.images):
            return ""
        images.append(asked.images[int(mark[1])])
        return IMAGE_SLOT

    prompt = re.sub(r"\[img-(\d+)\]", place, asked.prompt)
    # The prompt is rendered already: a template that is nothing but this prompt.
    as_it_is = {"chat_template": f"{{% raw %}}{prompt}{{% endraw %}}", "system_prompt": None}
    engine.contract = contract.model_copy(update=as_it_is)
    parts = tuple(images) or ("",)
    answer = engine.stream(
        [Message("user", parts)],
        max_new_tokens=asked.num_predict,
        top_logprobs=asked.top_logprobs or None,
    )
    logprobs = []
    while True:
        try:
            piece = next(answer)
        except StopIteration as done:
            said = done.value
            break
        if piece.choice is not None:
            logprobs.append(_told(piece.choice))
    return Answered(
        said.text, said.finish_reason, said.prompt_tokens, said.completion_tokens, logprobs
    )


def _told(choice: Choice) -> dict[str, object]:
    def entry(token: LikelyToken) -> dict[str, object]:
        return {"token": token.data.decode(errors="replace"), "logprob": token.logprob}

    return {**entry(choice.token), "top_logprobs": [entry(each) for each in choice.top]}
