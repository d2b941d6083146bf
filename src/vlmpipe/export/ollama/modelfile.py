"""The Modelfile that makes an Ollama model of the GGUF files, and its parts for Ollama's API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlmpipe.encoding.chat import render
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Message
from vlmpipe.engines.llama_cpp import ANSWER_ROOM
from vlmpipe.engines.ollama_messages import TEXT_ONLY
from vlmpipe.errors import ConfigError
from vlmpipe.export.ollama.go_template import go_template

OLLAMA_IMAGE_TOKENS = 768
"""What Ollama counts for an image, whatever its size, when it decides which turns still fit the
context (`imageNumTokens` in its server/prompt.go); turns that do not fit are silently left out."""


@dataclass(frozen=True)
class OllamaSettings:
    """What Ollama is told beside the weights."""

    template: str
    """Go template that renders what the contract's chat template renders."""

    system: str | None
    parameters: dict[str, float | int | list[str]]


def ollama_settings(contract: PreprocessContract) -> OllamaSettings:
    """Template, system prompt and parameters that match training.

    Raises:
        ConfigError: for a chat template or a system prompt that Ollama cannot take.
    """
    parameters: dict[str, float | int | list[str]] = {
        "stop": list(contract.stop_tokens),
        "num_ctx": context_tokens(contract),
        "temperature": 0,
        "repeat_penalty": 1,  # Ollama's own, 1.1, changes greedy answers, tables most of all
    }
    return OllamaSettings(go_template(contract.chat_template), _system(contract), parameters)


def context_tokens(contract: PreprocessContract) -> int:
    """Tokens of Ollama's context: what the data needs, and room for an answer; never so few that
    Ollama's own estimate of an image drops it.
    """
    needed = contract.context_length + ANSWER_ROOM
    return needed + OLLAMA_IMAGE_TOKENS if contract.has_vision else needed


def render_modelfile(files: Sequence[str], settings: OllamaSettings) -> str:
    """The Modelfile's text; `files` are paths relative to it, weights first, then the mmproj."""
    lines = [f"FROM ./{name}" for name in files]
    lines.append(f'TEMPLATE """{settings.template}"""')
    if settings.system:
        lines.append(f'SYSTEM """{settings.system}"""')
    for name, value in settings.parameters.items():
        values = value if isinstance(value, list) else [value]
        lines += [f"PARAMETER {name} {_word(each)}" for each in values]
    return "\n".join(lines) + "\n"


def _system(contract: PreprocessContract) -> str | None:
    """The system prompt as the chat template writes it: control tokens broken up."""
    if not contract.system_prompt:
        return None
    text = render(TEXT_ONLY, [Message("system", (contract.system_prompt,))])
    if '"""' in text:
        raise ConfigError(
            'model.system_prompt holds """, which ends a text in an Ollama Modelfile',
            "use other quotation marks in model.system_prompt",
        )
    lost = sorted({sign for sign in text if not _kept(sign)})
    if lost:
        names = ", ".join(f"U+{ord(sign):04X}" for sign in lost)
        raise ConfigError(
            f"model.system_prompt holds {names}, which `ollama create` drops from a Modelfile",
            "use plain spaces and printable characters in model.system_prompt",
        )
    return text


def _kept(sign: str) -> bool:
    """Whether Ollama's Modelfile parser keeps a character: Go's strconv.IsPrint, and spaces."""
    return sign in " \t\n" or sign.isprintable()


def _word(value: float | int | str) -> str:
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"
