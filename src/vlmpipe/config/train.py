"""Section `train`: method, adapter, curriculum, loss, schedule."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from vlmpipe.config.base import GateMode, Section, UserPath

LossScope = Literal["assistant_after_image", "after_image", "assistant", "all_text"]
ResizeKernel = Literal["bicubic", "llama_cpp", "bilinear"]


def known_parts(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The parts, each of them `merger` or `last_blocks:N`.

    Raises:
        ValueError: naming one that is neither.
    """
    for part in parts:
        name, _, count = part.partition(":")
        known = part == "merger" or (name == "last_blocks" and count.isdigit() and int(count))
        if not known:
            raise ValueError(f"unfreeze {part!r} is neither 'merger' nor 'last_blocks:N'")
    return parts


class LoraSection(Section):
    """The low-rank adapter, on the language model only."""

    r: int = Field(32, ge=1, le=1024)
    """Rank: what the adapter can express, and its size."""

    alpha: int = Field(64, ge=1, le=4096)
    """Scale; the update is multiplied by alpha / r."""

    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of adapter inputs dropped in training."""

    targets: Literal["all", "attention", "ffn"] = "all"
    """Which linear layers of each block carry an adapter."""

    rslora: bool = False
    """Rank-stabilised LoRA: the update is multiplied by alpha / sqrt(r), so that a high rank learns
    as fast as a low one (arXiv 2312.03732)."""

    dora: bool = False
    """Weight-decomposed LoRA: magnitude and direction of each weight are learned apart; better at
    low ranks, and about a third slower (arXiv 2402.09353)."""

    plus_ratio: float | None = Field(None, ge=1, le=100)
    """LoRA+: the B matrices learn this many times as fast as the A matrices (arXiv 2402.12354);
    unset: alike."""


class QuantizationSection(Section):
    """How QLoRA holds the frozen base."""

    type: Literal["nf4", "fp4"] = "nf4"
    """4-bit data type of the frozen language model; nf4 is the one QLoRA was shown with."""

    double_quant: bool = True
    """Quantise the scales too: 0.4 bit a weight less."""

    compute_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Precision that 4-bit weights are expanded to for a multiplication."""


class CurriculumPhase(Section):
    """One phase of the resolution curriculum."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")
    """Names the phase in metrics and checkpoints."""

    max_size: tuple[int, int]
    """Box [height, width] in pixels that each image is fitted into, aspect kept."""

    difficulty: tuple[float, float] = (0.0, 1.0)
    """Samples whose difficulty lies in this range belong to the phase."""

    epochs: float | None = Field(None, gt=0)
    """Passes over the phase's samples; or `max_steps`."""

    max_steps: int | None = Field(None, ge=1)
    """Optimiser steps of the phase; unset, with `epochs` unset too: its share of
    `train.max_steps`."""

    learning_rate_scale: float = Field(1.0, gt=0, le=10)
    """Multiplies `train.learning_rate` in this phase."""

    unfreeze: tuple[str, ...] = ()
    """Parts of the tower that are trained from this phase on, as in `train.unfreeze`: progressive
    unfreezing."""

    @field_validator("unfreeze")
    @classmethod
    def unfreeze_names_known_parts(cls, parts: tuple[str, ...]) -> tuple[str, ...]:
        """Each part is `merger` or `last_blocks:N`."""
        return known_parts(parts)

    @field_validator("max_size")
    @classmethod
    def sides_hold_an_image_token(cls, size: tuple[int, int]) -> tuple[int, int]:
        """Each side must hold at least two image tokens."""
        if min(size) < 64:
            raise ValueError(f"max_size {list(size)} has a side under 64 pixels")
        return size

    @field_validator("difficulty")
    @classmethod
    def difficulty_is_a_range(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        """0 <= low <= high <= 1."""
        if not 0 <= bounds[0] <= bounds[1] <= 1:
            raise ValueError(f"difficulty {list(bounds)} is not 0 <= low <= high <= 1")
        return bounds

    @model_validator(mode="after")
    def length_is_said_once(self) -> CurriculumPhase:
        """epochs and max_steps exclude each other."""
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError(f"phase {self.name!r} sets both epochs and max_steps; keep one")
        return self


class LossSection(Section):
    """Which tokens are learned from."""

    scope: LossScope = "assistant_after_image"
    """assistant_after_image: the assistant's tokens after the first image, end of turn included;
    after_image: all text after the first image; assistant: every assistant token; all_text: every
    token but the image's, no mask at all. A sample without an image has all of its assistant tokens
    supervised, and with all_text the rest too."""


class AugmentSection(Section):
    """What is done to images in training alone; held-out samples are always seen as served."""

    resize_kernels: tuple[ResizeKernel, ...] = Field(("bicubic",), min_length=1)
    """Each image is resized by one of these, drawn by lot anew in every epoch. bicubic: as every
    engine of vlmpipe does; llama_cpp: as llama.cpp does when it is left to it, on black; bilinear:
    as older runtimes do. With all three a model suffers less from clients that do not prepare their
    images, and reads prepared ones a little worse; see docs/preprocess.md."""

    @field_validator("resize_kernels")
    @classmethod
    def kernels_are_different(cls, kernels: tuple[ResizeKernel, ...]) -> tuple[ResizeKernel, ...]:
        """A kernel named twice would be drawn twice as often without saying so."""
        if len(set(kernels)) < len(kernels):
            raise ValueError(f"resize_kernels {list(kernels)} names a kernel twice")
        return kernels


class EarlyStoppingSection(Section):
    """Ends a phase when the task metric on held-out samples no longer rises."""

    patience: int | None = Field(None, ge=1)
    """Measurements in a row without a new best after which a phase ends; the best weights are
    taken back. Unset: never."""

    every_steps: int = Field(50, ge=1)
    """Optimiser steps between two measurements."""

    samples: int = Field(16, ge=1)
    """Held-out samples that are answered each time."""

    min_gain: float = Field(0.0, ge=0)
    """A new best must be better than the old one by more than this."""


class WatchSection(Section):
    """What is watched while a training runs."""

    max_bad_steps: int = Field(3, ge=0)
    """Steps in a row whose loss or gradient is no number: each is left out and counted; one more
    stops the training, with the last good checkpoint kept."""

    spike_factor: float = Field(4.0, gt=1)
    """A loss, or a gradient norm, this many times the spread of the last steps above their median
    is told."""

    plateau_steps: int = Field(200, ge=10)
    """So many steps without a lower mean loss are told."""

    early_stopping: EarlyStoppingSection = EarlyStoppingSection()


DEFAULT_CURRICULUM = (
    CurriculumPhase(name="448", max_size=(448, 448)),
    CurriculumPhase(name="896", max_size=(896, 1232)),
    CurriculumPhase(name="1232", max_size=(1232, 1792)),
)


class TrainConfig(Section):
    """Fine-tuning."""

    method: Literal["qlora", "lora", "full"] = "qlora"
    """qlora: adapter over a 4-bit base; lora: over a 16-bit base; full: all language weights, for
    small models."""

    lora: LoraSection = LoraSection()
    quantization: QuantizationSection = QuantizationSection()
    curriculum: tuple[CurriculumPhase, ...] = DEFAULT_CURRICULUM
    """Phases in order; the same adapter and optimiser continue through them. Does not apply to
    text-only models. `[]` trains in one phase at `model.max_pixels`."""

    on_empty_phase: Literal["refuse", "widen"] = "refuse"
    """A phase that no sample falls into: refuse, or take the samples of the nearest difficulty, at
    least as many as an optimiser step takes."""

    loss: LossSection = LossSection()
    augment: AugmentSection = AugmentSection()

    unfreeze: tuple[str, ...] = ()
    """Stated exceptions to the frozen vision tower: `merger`, `last_blocks:N`. The census then
    expects exactly those to be trained, beside the language model's adapter."""

    max_steps: int = Field(100, ge=1)
    """Optimiser steps in all, divided evenly over phases that set no length of their own."""

    max_length: int = Field(2048, ge=16)
    """Longest sample in tokens, image tokens included. Longer ones are bad samples: nothing is
    ever cut."""

    learning_rate: float = Field(2e-4, gt=0, le=1)
    """Step size at its highest; each phase scales it by its `learning_rate_scale`."""

    lr_scheduler: Literal["linear", "cosine", "constant"] = "linear"
    """Shape of the schedule; each phase runs its own."""

    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    """Share of a phase's steps over which the learning rate rises from zero."""

    weight_decay: float = Field(0.0, ge=0, le=1)
    """Pull of the trained weights towards zero, in each step."""

    max_grad_norm: float = Field(1.0, gt=0)
    """A longer gradient is scaled down to this: one odd sample cannot throw the adapter."""

    batch_size: int = Field(1, ge=1)
    """Samples in a forward pass."""

    batch_tokens: int | None = Field(None, ge=64)
    """Tokens in a forward pass, text and image together, in place of `batch_size`: short samples go
    together in many, long ones alone, so that each pass takes about the same memory. Unset: by
    `batch_size`."""

    packing: Literal["auto", "on", "off"] = "auto"
    """Samples of a forward pass in one row without padding, each with its own positions, none
    seeing another. auto: where the attention in use can keep them apart, proven at the start; on:
    refuse where it cannot; off: padded rows."""

    gradient_accumulation: int = Field(4, ge=1)
    """Forward passes to an optimiser step, in all processes each; the loss is normalised by tokens
    over all of them."""

    vision_cache: Literal["off", "memory", "disk"] = "off"
    """What the frozen tower makes of an image is computed once and used again: memory: in every
    later epoch of this training; disk: in every later training too. Proven equal to the tower's
    own, bit for bit, at the start."""

    vision_cache_folder: UserPath | None = None
    """Where `vision_cache: disk` keeps its shards; unset: `vision` in the shared cache folder."""

    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: far less memory, about a third more time."""

    optimizer: Literal["adamw_torch", "paged_adamw_8bit", "adamw_8bit"] = "adamw_torch"
    """adamw_8bit: a quarter of the optimiser's memory; paged: moved to RAM when the GPU is full."""

    torch_compile: bool = False
    """Compile the model: minutes at the start, faster steps on a GPU; see docs/training.md."""

    expandable_segments: bool = True
    """Let CUDA's memory segments grow: images of many sizes fragment fixed ones."""

    save_steps: int | None = Field(50, ge=1)
    """Optimiser steps between checkpoints that an interrupted training resumes from; only the
    newest is kept. Unset: at the end of each phase alone."""

    keep_phase_states: bool = True
    """Publish the optimiser's state at the end of each phase but the last, so that a training with
    other settings for a later phase takes the earlier ones over."""

    watch: WatchSection = WatchSection()

    checkpoint_steps: tuple[int, ...] = (50, 100)
    """Optimiser steps, counted over all phases, at which a checkpoint is kept for good, beside
    those to resume from."""

    report_to: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Trackers beside the JSONL and TensorBoard files that are always written."""

    gate: GateMode = "report"
    """Verdict on the training itself: loss finite and lower at the end than at the start."""

    @field_validator("unfreeze")
    @classmethod
    def unfreeze_names_known_parts(cls, parts: tuple[str, ...]) -> tuple[str, ...]:
        """Each part is `merger` or `last_blocks:N`."""
        return known_parts(parts)

    @field_validator("curriculum")
    @classmethod
    def phase_names_are_unique(
        cls, phases: tuple[CurriculumPhase, ...]
    ) -> tuple[CurriculumPhase, ...]:
        """Two phases must not share a name: their checkpoints would collide."""
        names = [phase.name for phase in phases]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"curriculum has several phases named {', '.join(twice)}")
        return phases
