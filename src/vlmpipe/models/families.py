"""What each Qwen generation names and shapes: the only place that knows one family from another."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlmpipe.errors import ArtifactError

FamilyName = Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3"]

ATTENTION_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
FFN_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}{{- '<<answer_prefix>>' -}}{%- endif -%}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' or part['type'] == 'image_url' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'text' -%}
{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n<<answer_prefix>>' -}}
{%- endif -%}
"""
"""ChatML as all Qwen generations were trained on it, without the default system message that some
of their own templates add: what is not in the conversation is not in the prompt."""

NO_THINKING = "<think>\\n\\n</think>\\n\\n"
"""What Qwen3 is prompted with when thinking is off. It precedes every answer, earlier turns
included, so that each turn looks in training as it does when it is generated."""


@dataclass(frozen=True)
class Family:
    """Names and shapes of one model generation."""

    name: FamilyName
    title: str
    architecture: str
    has_vision: bool = True
    language_prefix: str = "model.language_model"
    """Module path of the language model as transformers builds it."""

    vision_prefix: str | None = "model.visual"
    merger_prefixes: tuple[str, ...] = ()
    """Modules between the tower and the language model."""

    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    gguf_pre_tokenizer: str = "qwen2"
    """llama.cpp's name of the regular expression that splits text before BPE."""

    answer_prefix: str = ""

    @property
    def chat_template(self) -> str:
        """Jinja template of the conversation, used by training and by every engine."""
        return CHAT_TEMPLATE.replace("<<answer_prefix>>", self.answer_prefix)

    @property
    def grid_factor(self) -> int:
        """Pixels on a side of one image token: image sides are multiples of this."""
        return self.patch_size * self.merge_size

    @property
    def layer_pattern(self) -> str:
        """Regular expression for the blocks of the language model."""
        return rf"{self.language_prefix}\.layers\.\d+".replace("model.", r"model\.")

    @property
    def unquantized_modules(self) -> list[str]:
        """Modules that stay out of 4-bit. The tower needs its full path: bitsandbytes matches
        `visual` alone against nothing, and the tower silently becomes 4-bit.
        """
        return [*([self.vision_prefix] if self.vision_prefix else []), "lm_head"]

    def lora_pattern(self, targets: Literal["all", "attention", "ffn"]) -> str:
        """Regular expression over full module names: projections of the language model only."""
        names = {
            "attention": ATTENTION_PROJECTIONS,
            "ffn": FFN_PROJECTIONS,
            "all": ATTENTION_PROJECTIONS + FFN_PROJECTIONS,
        }[targets]
        return rf"^{self.layer_pattern}\..*\.({'|'.join(names)})$"


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="qwen2_vl",
            title="Qwen2-VL",
            architecture="Qwen2VLForConditionalGeneration",
            merger_prefixes=("model.visual.merger",),
        ),
        Family(
            name="qwen2_5_vl",
            title="Qwen2.5-VL",
            architecture="Qwen2_5_VLForConditionalGeneration",
            merger_prefixes=("model.visual.merger",),
        ),
        Family(
            name="qwen3_vl",
            title="Qwen3-VL",
            architecture="Qwen3VLForConditionalGeneration",
            merger_prefixes=("model.visual.merger", "model.visual.deepstack_merger_list"),
            patch_size=16,
            image_mean=(0.5, 0.5, 0.5),
            image_std=(0.5, 0.5, 0.5),
        ),
        Family(
            name="qwen3",
            title="Qwen3",
            architecture="Qwen3ForCausalLM",
            has_vision=False,
            language_prefix="model",
            vision_prefix=None,
            answer_prefix=NO_THINKING,
        ),
    )
}


def family_of(model_folder: Path) -> Family:
    """The family that a model folder's config.json declares, never guessed from its name.

    Raises:
        ArtifactError: when there is no readable config.json, or it names another architecture.
    """
    config = read_model_config(model_folder)
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        known = ", ".join(f"{f.title} ({f.name})" for f in FAMILIES.values())
        raise ArtifactError(
            f"{model_folder / 'config.json'} says model_type {config.get('model_type')!r},"
            " which is not a family that vlmpipe knows",
            f"choose a model of: {known}, with model.id=ID_OR_FOLDER",
        )
    return family


def stated_dtype(model_folder: Path) -> str:
    """Precision that config.json states, which some families do for the language model alone.

    Raises:
        ArtifactError: when config.json cannot be read, or states none.
    """
    config = read_model_config(model_folder)
    for part in (config, config.get("text_config") or {}):
        for key in ("dtype", "torch_dtype"):
            if part.get(key):
                return str(part[key])
    raise ArtifactError(
        f"{model_folder / 'config.json'} states no dtype of the weights",
        'write it into the file: "dtype": "bfloat16"',
    )


def read_model_config(model_folder: Path) -> dict[str, Any]:
    """config.json of a model folder.

    Raises:
        ArtifactError: when it is absent or not JSON.
    """
    path = model_folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise ArtifactError(
            f"{model_folder} holds no config.json: it is not a model folder",
            "give a folder in transformers' layout, or a hub id: model.id=ID_OR_FOLDER",
        ) from exc
    except (OSError, ValueError) as exc:
        raise ArtifactError(f"{path} cannot be read: {exc}") from exc
    if not isinstance(config, dict):
        raise ArtifactError(f"{path} does not hold a JSON object")
    return config
