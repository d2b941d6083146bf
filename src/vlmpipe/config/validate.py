"""Section `validate`: probes, thresholds, the gate."""

from __future__ import annotations

from pydantic import Field

from vlmpipe.config.base import GateMode, Section, UserPath
from vlmpipe.config.judge import JudgeConfig


class GeneralConfig(Section):
    """What is asked to see whether the training cost the model something elsewhere."""

    samples: int = Field(12, ge=0)
    """Samples of the general probe, at most; their answers are scored and not generated. 0: not
    measured."""

    path: UserPath | None = None
    """JSONL file of messages to take instead, as in `data.sources`; unset: lines of print to read,
    small requests, and tasks of this package that are not trained."""


class ValidateConfig(Section):
    """Base against tuned."""

    train_probes: int = Field(5, ge=1)
    """Training samples asked back, to see whether they were learned. Of `data.sources` they are
    drawn, each task its share and at least one."""

    heldout_samples: int = Field(16, ge=1)
    """Held-out samples asked, at most; drawn as the probes are."""

    max_new_tokens: int = Field(512, ge=1)
    """An answer is cut here, and counted as cut."""

    thresholds: dict[str, float] = Field(default_factory=dict)
    """Smallest value of any metric of this stage, e.g. `{"heldout/teds/tuned": 0.9}`; the largest
    of one that is better when smaller, such as `cer`, `cut`, `loss`, `perplexity`,
    `peak_mib` and `seconds_per_answer`. A name that the stage does not measure fails the gate."""

    max_overfit_gap: float = Field(0.5, ge=0, le=1)
    """Over-fit when a task's primary metric on training probes exceeds its held-out one by more.
    The gap itself decides; its 95 % interval is told."""

    general: GeneralConfig = GeneralConfig()

    max_forgetting: float | None = Field(2.0, ge=0)
    """Forgetting: how much the loss on the general probe may rise, nats a token (2 is 7.4 times the
    perplexity), over what the base knows of it. A fine-tune always loses some. Unset (`null`) it is
    told and not judged."""

    phase_samples: int = Field(4, ge=0)
    """Held-out samples answered after each phase of the curriculum; all of them are scored. 0: the
    phases are not compared."""

    min_image_gain: float = Field(0.05)
    """Image reliance: mean target loss, in nats a token, with another sample's image minus that
    with the true one. Below this the model answers from the language prior, and the gate refuses.
    Does not apply to text-only models."""

    gate: GateMode = "enforce"
    """merge refuses an adapter whose verdict failed, unless told `--allow-failed-gate`."""

    judge: JudgeConfig | None = None
    """A language model that judges the answers as well; off unless given."""
