"""Section `data`: where samples come from and how they are split."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vlmpipe.config.base import Section, UserPath

TaskName = Literal["table", "chart", "molecule", "caption", "document", "qa"]
"""Tasks with a generator and metrics of their own."""


class DataSource(Section):
    """One file of samples."""

    path: UserPath
    """JSONL file; image paths in it are relative to its folder."""

    format: Literal["messages"] = "messages"
    """`messages`: one object a line, `{"messages": [{"role", "content": [...]}], "id", "task"}`."""

    task: str | None = None
    """Task of samples that name none themselves; unset: `data.task`."""

    weight: float = Field(1.0, gt=0, le=100)
    """How often each sample is seen in an epoch, relative to the other sources."""


class SyntheticConfig(Section):
    """The task's own generator, used when `sources` is empty."""

    n: int = Field(64, ge=2, le=1_000_000)
    """Samples generated, held-out ones included."""

    difficulty: tuple[float, float] = (0.0, 1.0)
    """Range of difficulty drawn from, 0 easiest."""

    languages: tuple[Literal["en", "ko"], ...] = Field(("en", "ko"), min_length=1)
    """What documents are written in: each sample is in one of them, drawn by lot."""

    scan: float = Field(0.0, ge=0, le=1)
    """How badly a scanner treats the pictures (skew, blur, noise, stains ...): 0 leaves them as
    they were drawn, 1 is a bad fax of a creased copy."""

    @model_validator(mode="after")
    def difficulty_is_a_range(self) -> SyntheticConfig:
        """0 <= low <= high <= 1."""
        low, high = self.difficulty
        if not 0 <= low <= high <= 1:
            raise ValueError(f"difficulty {list(self.difficulty)} is not 0 <= low <= high <= 1")
        return self


class DataConfig(Section):
    """Samples for training and for held-out evaluation."""

    task: TaskName = "table"
    """Chooses the prompt, the synthetic generator and the primary metric."""

    sources: tuple[DataSource, ...] = ()
    """Files of samples; empty means the task's synthetic generator."""

    synthetic: SyntheticConfig = SyntheticConfig()

    general_ratio: float = Field(0.0, ge=0, le=0.5)
    """Share of the training samples that are general ones, mixed in against forgetting: 0.1 to 0.2
    keeps most of what the base could. validate's general probe shows what it bought."""

    general_sources: tuple[DataSource, ...] = ()
    """Where the general samples come from; empty: a generator of reading, requests and the tasks
    that the run does not train, none of them in validate's general probe."""

    heldout_fraction: float = Field(0.2, ge=0, lt=1)
    """Share of the samples kept away from training, rounded, at least one. Samples with the same
    image never stand on both sides. 0 holds nothing out: validate then judges memory only."""

    max_samples: int | None = Field(None, ge=2)
    """Takes only the first so many samples, for a quick look."""

    on_bad_sample: Literal["refuse", "skip"] = "refuse"
    """refuse: list every bad sample by file and line and stop; skip: list them and go on."""

    max_image_pixels: int = Field(100_000_000, ge=28 * 28, le=178_956_970)
    """Images that claim more pixels than this are bad samples, decided from the header alone."""
