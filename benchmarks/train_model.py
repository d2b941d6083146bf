"""A Qwen2.5-VL with random weights that keeps the FLOP shares of Qwen2.5-VL-3B.

    python benchmarks/train_model.py        (prints the shares of both)

Widths, depths and the vocabulary are those of the 3B divided so that tower, language layers and
head have the same share of the multiplications of an image token, at about 1/63 of the 3B's cost:
widths by 4, depths by 4, the vocabulary by 16. Heads keep their 128 (80 in the tower) channels, and
one block in eight of the tower sees the whole image, as there.

Shares of a forward pass, in multiply-accumulates (MAC), linear layers alone; attention's own
products are given beside them, since they grow with the sample.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from train_process import Recipe

from vlmpipe.models.embedded import preprocessor_config
from vlmpipe.models.families import FAMILIES
from vlmpipe.models.tokenizer import token_id, write_tokenizer
from vlmpipe.training.watch.flops import Work, flops_of

FAMILY = FAMILIES["qwen2_5_vl"]
SEED = 20261101
INITIALIZER_RANGE = 0.08
"""Weights drawn at transformers' 0.02 give logits so flat that no loss tells samples apart."""

MERGED_PATCHES = 4
"""Patches of the tower that become one image token."""


@dataclass(frozen=True)
class Shape:
    """What decides the cost of a Qwen2.5-VL."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool
    tower_hidden: int
    tower_depth: int
    tower_heads: int
    tower_intermediate: int
    full_attention_blocks: tuple[int, ...]
    mrope_section: tuple[int, int, int] = (16, 24, 24)


SHAPES = {
    "3b": Shape(2048, 36, 16, 2, 11008, 151936, True, 1280, 32, 16, 3420, (7, 15, 23, 31)),
    "7b": Shape(3584, 28, 28, 4, 18944, 152064, False, 1280, 32, 16, 3420, (7, 15, 23, 31)),
    "small": Shape(512, 9, 4, 1, 2752, 9496, True, 320, 8, 4, 855, (7,)),
    "tiny": Shape(256, 2, 4, 2, 512, 2304, True, 64, 2, 4, 128, (1,), (8, 12, 12)),
}
"""`3b` and `7b`: Qwen/Qwen2.5-VL-3B-Instruct and -7B-Instruct, from their config.json; `tiny` only
shows that a benchmark runs."""


@dataclass(frozen=True)
class Costs:
    """Multiply-accumulates of a forward pass, in linear layers."""

    tower: int
    """For one image token: its four patches through the tower, and the merger."""

    layers: int
    """For one token through the language layers."""

    head: int
    """For one row of logits."""

    @property
    def shares(self) -> dict[str, float]:
        """Of an image token's tower and layers, and one row of logits."""
        total = self.tower + self.layers + self.head
        return {name: value / total for name, value in asdict(self).items()}


def costs(shape: Shape) -> Costs:
    """The linear layers of the architecture, counted."""
    head_width = shape.hidden // shape.heads
    attention = 2 * shape.hidden**2 + 2 * shape.hidden * head_width * shape.kv_heads
    layer = attention + 3 * shape.hidden * shape.intermediate
    block = 4 * shape.tower_hidden**2 + 3 * shape.tower_hidden * shape.tower_intermediate
    merged = MERGED_PATCHES * shape.tower_hidden
    patch = 3 * FAMILY.temporal_patch_size * FAMILY.patch_size**2 * shape.tower_hidden
    return Costs(
        tower=MERGED_PATCHES * (shape.tower_depth * block + patch)
        + merged * (merged + shape.hidden),
        layers=shape.layers * layer,
        head=shape.hidden * shape.vocabulary,
    )


def attention_share(shape: Shape, tokens: int) -> float:
    """What causal attention's own products add to the language layers, on samples of T tokens."""
    return shape.layers * shape.hidden * tokens / costs(shape).layers


def write_model(shape: Shape, folder: Path, device: str = "cpu") -> None:
    """A model folder as transformers and vlmpipe load it, in bfloat16.

    The weights are drawn on the device; the same device gives the same bytes each time.
    """
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(SEED)
    with torch.device(device):
        model = Qwen2_5_VLForConditionalGeneration._from_config(
            model_config(shape), dtype=torch.bfloat16
        )
    model.save_pretrained(folder)
    write_tokenizer(folder, FAMILY.chat_template)
    settings = json.dumps(preprocessor_config(FAMILY), indent=2)
    (folder / "preprocessor_config.json").write_text(settings + "\n", encoding="utf-8")


def model_config(shape: Shape) -> Any:
    """The architecture's configuration, with the embedded vocabulary's special tokens."""
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        vision_config=_vision(shape),
        text_config=_text(shape),
        tie_word_embeddings=shape.tied,
        dtype="bfloat16",
    )


def _vision(shape: Shape) -> dict[str, Any]:
    return {
        "depth": shape.tower_depth,
        "hidden_size": shape.tower_hidden,
        "intermediate_size": shape.tower_intermediate,
        "num_heads": shape.tower_heads,
        "out_hidden_size": shape.hidden,
        "window_size": 112,
        "initializer_range": INITIALIZER_RANGE,
        "fullatt_block_indexes": list(shape.full_attention_blocks),
    }


def _text(shape: Shape) -> dict[str, Any]:
    return {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "initializer_range": INITIALIZER_RANGE,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": list(shape.mrope_section),
        },
        "tie_word_embeddings": shape.tied,
        "bos_token_id": None,
        "eos_token_id": token_id("<|im_end|>"),
        "pad_token_id": token_id("<|endoftext|>"),
    }


def lora_flops(shape: Shape, recipe: Recipe, lengths: Sequence[tuple[int, int]]) -> float:
    """What LoRA needs for samples of so many tokens, so many of them supervised: 4N a token,
    causal attention, the adapter itself, the head's supervised rows; neither tower nor
    recomputation.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2_5_VLForConditionalGeneration

    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(model_config(shape))
        adapted = get_peft_model(model, LoraConfig(**recipe.lora(FAMILY.lora_pattern("all"))))
    work = Work(
        samples=len(lengths),
        tokens=sum(length for length, _ in lengths),
        token_pairs=sum(length**2 for length, _ in lengths),
        supervised=sum(supervised for _, supervised in lengths),
    )
    return flops_of(adapted, FAMILY, gradient_checkpointing=False).model(work)


def comparison(name: str = "small", tokens: int = 600) -> dict[str, Any]:
    """Shares of a shape beside the 3B's.

    Attention's own products are told at `tokens` for the shape and at four times as many for the
    3B: the depth of samples at which they weigh alike.
    """
    rows = {}
    for each, length in (("3b", 4 * tokens), (name, tokens)):
        counted = costs(SHAPES[each])
        rows[each] = {
            "shares": {part: round(share, 4) for part, share in counted.shares.items()},
            "mac_per_image_token": counted.tower + counted.layers,
            "attention_over_layers": round(attention_share(SHAPES[each], length), 4),
            "at_tokens": length,
        }
    return rows


if __name__ == "__main__":
    print(json.dumps(comparison(), indent=2))
