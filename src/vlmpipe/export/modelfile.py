"""The Modelfile that makes an Ollama model of the GGUF files, and its parts for Ollama's API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.errors import ConfigError
from vlmpipe.models.families import FAMILIES


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
        ConfigError: for a system prompt that a Modelfile cannot hold.
    """
    if contract.system_prompt and '"""' in contract.system_prompt:
        raise ConfigError(
            'model.system_prompt holds """, which ends a text in an Ollama Modelfile',
            "use other quotation marks in model.system_prompt",
        )
    parameters: dict[str, float | int | list[str]] = {
        "stop": list(contract.stop_tokens),
        "num_ctx": contract.context_length,
        "temperature": 0,
    }
    return OllamaSettings(go_template(contract), contract.system_prompt, parameters)


def go_template(contract: PreprocessContract) -> str:
    """ChatML in the syntax of Go's text/template, as Ollama reads it.

    The system prompt is a message among `.Messages`: Ollama puts it first. Images are set before a
    message's text by Ollama itself.
    """
    prefix = FAMILIES[contract.family].answer_prefix.replace("\\n", "\n")
    answer = f'{{{{ if eq .Role "assistant" }}}}{prefix}{{{{ end }}}}' if prefix else ""
    return (
        "{{ range .Messages }}<|im_start|>{{ .Role }}\n"
        f"{answer}{{{{ .Content }}}}<|im_end|>\n"
        "{{ end }}<|im_start|>assistant\n"
        f"{prefix}"
    )


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


def _word(value: float | int | str) -> str:
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"
