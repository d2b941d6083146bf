"""What a bare llama-server must be told to do as the contract says."""

from __future__ import annotations

from vlmpipe.encoding.contract import PreprocessContract


def runtime_flags(contract: PreprocessContract, template_file: str | None = None) -> list[str]:
    """Words for llama-server: limits on image tokens, context length, and the chat template, which
    is the GGUF file's own where no other is given.

    They bring its prompt and its counts in line with training. They do not change how it resizes:
    send images that `vlmpipe prepare-image` prepared.
    """
    words = ["-c", str(contract.context_length), "--jinja"]
    if template_file is not None:
        words += ["--chat-template-file", template_file]
    if not contract.has_vision:
        return words
    low, high = contract.min_image_tokens, contract.max_image_tokens
    return [*words, "--image-min-tokens", str(low), "--image-max-tokens", str(high)]
