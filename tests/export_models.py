"""Random models of every family with random adapters, as the export tests use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from vlmpipe.encoding.contract import PreprocessContract, build_contract
from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.export.merging.adapter import read_adapter
from vlmpipe.export.merging.merge import merge_adapter
from vlmpipe.export.merging.model_files import copy_model_files
from vlmpipe.export.merging.weights import Checkpoint
from vlmpipe.models.embedded import build_embedded
from vlmpipe.models.families import FAMILIES
from vlmpipe.models.loading import load_model

FAMILY_NAMES = tuple(FAMILIES)
RANK, ALPHA = 4, 8


def random_base(family: str, folder: Path) -> Path:
    """A base model's folder."""
    build_embedded(f"random-{family}", folder)
    return folder


def contract_of(family: str, *, system_prompt: str | None = None) -> PreprocessContract:
    """A contract under small limits."""
    return build_contract(
        FAMILIES[family],
        min_pixels=None,
        max_pixels=224 * 224,
        max_size=None,
        system_prompt=system_prompt,
        context_length=256,
    )


def random_adapter(base: Path, family: str, folder: Path, **options: Any) -> Any:
    """A PEFT model with an adapter that changes every projection, saved into `folder`."""
    import torch
    from peft import LoraConfig, get_peft_model

    settings = {
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": FAMILIES[family].lora_pattern("all"),
        "task_type": "CAUSAL_LM",
        **options,
    }
    torch.manual_seed(7)
    model = get_peft_model(load_model(base), LoraConfig(**settings))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
        elif "modules_to_save" in name:
            parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(str(folder))
    return model.eval()


def sample_of(family: str) -> Sample:
    """One question with its answer; with an image where the family sees."""
    parts: tuple[Any, ...] = ("Which digits?",)
    if FAMILIES[family].has_vision:
        parts = (picture(), *parts)
    messages = (Message("user", parts), Message("assistant", ("<table>123</table>",)))
    return Sample(id="s0", messages=messages, task="table")


def picture() -> Image.Image:
    """An image of odd size with structure in it."""
    image = Image.linear_gradient("L").resize((150, 97)).convert("RGB")
    image.paste((200, 30, 30), (20, 20, 60, 50))
    return image


def merged_folder(family: str, folder: Path) -> Path:
    """A base with a random adapter folded in, complete, under `contract_of(family)`."""
    base = random_base(family, folder / "base")
    random_adapter(base, family, folder / "adapter")
    return merge_into(base, folder / "adapter", folder / "model", family)


def merge_into(base: Path, adapter: Path, target: Path, family: str) -> Path:
    """An adapter folded into a base, as a complete folder."""
    target.mkdir()
    report = merge_adapter(Checkpoint(base), FAMILIES[family], read_adapter(adapter), target)
    copy_model_files(base, target, contract_of(family), dtype=report.dtype)
    return target
