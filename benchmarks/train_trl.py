"""TRL's side: plain SFTTrainer on prompt/completion data with images, its own loss and collator.

    python benchmarks/train_trl.py --folder FOLDER --batch 2

Nothing is turned off or widened: the base is bfloat16, the adapter as PEFT makes it, the loss TRL's
chunked one, attention SDPA, gradient checkpointing as the recipe says. The processor is
transformers' Qwen2_5_VLProcessor over the image processor that works without torchvision.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import train_data
from train_process import Clock, Recipe, emit, side_options

from vlmpipe.config.train import QuantizationSection
from vlmpipe.models.loading import best_device, quantization_config


def processor_of(folder: Path) -> Any:
    """Qwen2_5_VLProcessor of a model folder, without its part for videos, which needs torchvision:
    that has no CPU build, and would only add to the memory of this side.
    """
    from transformers import AutoTokenizer, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    class WithoutVideos(Qwen2_5_VLProcessor):  # type: ignore[misc]
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name == "video_processor":
                return type(argument)
            return super().check_argument_for_proper_class(argument_name, argument)

    family = train_data.FAMILY
    area = family.grid_factor**2
    images = Qwen2VLImageProcessorPil(
        patch_size=family.patch_size,
        image_mean=list(family.image_mean),
        image_std=list(family.image_std),
        size={"shortest_edge": 8 * area, "longest_edge": 16384 * area},
    )
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    return WithoutVideos(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=None,
        chat_template=family.chat_template,
    )


def trainer_for(
    folder: Path, recipe: Recipe, batch: int, output: Path, clock: Clock | None = None
) -> Any:
    """A plain SFTTrainer; `batch` samples go through the model together."""
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText
    from trl import SFTConfig, SFTTrainer

    processor = processor_of(folder / "model")
    model = AutoModelForImageTextToText.from_pretrained(
        folder / "model", **_precision(recipe), device_map={"": best_device()}
    )
    if clock:
        clock.model_is_loaded()
    return SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(output),
            num_train_epochs=recipe.epochs,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=recipe.samples_a_step // batch,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type="linear",
            max_grad_norm=1.0,
            optim="adamw_torch",
            gradient_checkpointing=recipe.checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            bf16=recipe.dtype == "bfloat16",
            completion_only_loss=True,
            max_length=None,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(),
            seed=recipe.seed,
        ),
        train_dataset=train_data.prompt_completion(folder / "data"),
        processing_class=processor,
        peft_config=LoraConfig(**recipe.lora(train_data.FAMILY.lora_pattern("all"))),
        callbacks=[clock.callback()] if clock else [],
    )


def _precision(recipe: Recipe) -> dict[str, Any]:
    """The base as vlmpipe loads it: the same layers in 4-bit."""
    options: dict[str, Any] = {"dtype": getattr(torch, recipe.dtype)}
    if recipe.quantised:
        options["quantization_config"] = quantization_config(
            train_data.FAMILY, QuantizationSection()
        )
    return options


def main() -> None:
    """Train once and report."""
    arguments = side_options().parse_args()
    recipe = arguments.recipe
    recipe.use()
    clock = Clock()
    with tempfile.TemporaryDirectory() as output:
        trainer = trainer_for(arguments.folder, recipe, arguments.batch, Path(output), clock)
        clock.timed(trainer.train)()
    samples = recipe.epochs * len(trainer.train_dataset)
    emit(clock.result("trl", {"batch": arguments.batch}, samples, {}))


if __name__ == "__main__":
    main()
