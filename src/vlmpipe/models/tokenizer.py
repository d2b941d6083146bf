"""The embedded models' tokenizer: Qwen2's pre-tokenizer and special tokens, a small vocabulary."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

PRE_TOKENIZER_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 splits text before BPE."""

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
THINKING_TOKENS = ("<think>", "</think>")


def write_tokenizer(folder: Path, chat_template: str) -> None:
    """Write tokenizer.json, its configuration and the chat template into a model folder."""
    text = files("vlmpipe.models").joinpath("data/tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "unk_token": None,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": 32768,
        "split_special_tokens": False,
        "chat_template": chat_template,
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")


def token_id(token: str) -> int:
    """Id of a token in the embedded vocabulary."""
    data = json.loads(
        files("vlmpipe.models").joinpath("data/tokenizer.json").read_text(encoding="utf-8")
    )
    return next(entry["id"] for entry in data["added_tokens"] if entry["content"] == token)


def vocabulary_size() -> int:
    """Entries of the embedded vocabulary, special tokens included."""
    data = json.loads(
        files("vlmpipe.models").joinpath("data/tokenizer.json").read_text(encoding="utf-8")
    )
    return len(data["model"]["vocab"]) + len(data["added_tokens"])
