"""What each phase of a curriculum bought."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from evaluation_fakes import KNOWN_LOSS, UNKNOWN_LOSS, ColourEngine, colour_sample, compared
from vlmpipe.config.validate import ValidateConfig
from vlmpipe.evaluation.answers import measured_here
from vlmpipe.evaluation.validation import rules
from vlmpipe.evaluation.validation.phases import PhaseTable, compare_phases
from vlmpipe.evaluation.validation.verdicts import Assessment, judge, summary_of
from vlmpipe.training.phase_adapters import PhaseAdapter

COLOURS = {f"#0000{n:02x}": name for n, name in enumerate("abcdefgh")}
HELDOUT = [colour_sample(name, colour, name) for colour, name in COLOURS.items()]
PHASES = (
    PhaseAdapter(number=0, name="small", last_step=2, folder="phases/0_small"),
    PhaseAdapter(number=1, name="medium", last_step=4, folder="phases/1_medium"),
    PhaseAdapter(number=2, name="large", last_step=6, folder="adapter"),
)


class Phased:
    """A model that knows, after each phase, some of the colours."""

    def __init__(self, known: dict[str, int]) -> None:
        self.known = known
        self.asked: list[str] = []
        self.engine: ColourEngine | None = None

    @contextmanager
    def after(self, phase: PhaseAdapter) -> Iterator[ColourEngine]:
        self.asked.append(phase.name)
        self.engine = ColourEngine("tuned", dict(list(COLOURS.items())[: self.known[phase.name]]))
        yield self.engine


def phased(small: int, medium: int, answered: int = 4, **splits) -> tuple[PhaseTable, Phased]:
    model = Phased({"small": small, "medium": medium})
    asked = {"train": HELDOUT[:2], "heldout": HELDOUT, **splits}
    table = compare_phases(
        compared(COLOURS, asked),
        asked,
        PHASES,
        model.after,
        answered=answered,
        max_new_tokens=20,
        measure=measured_here,
    )
    return table, model


def test_every_phase_is_scored_between_the_base_and_the_tuned_model():
    table, model = phased(small=2, medium=5)
    assert model.asked == ["small", "medium"], "the last phase's model is the tuned one"
    assert [state.name for state in table.states] == ["base", "small", "medium", "large"]
    assert [state.last_step for state in table.states] == [0, 2, 4, 6]
    assert [state.loss for state in table.states] == [
        UNKNOWN_LOSS,
        pytest.approx((2 * KNOWN_LOSS + 6 * UNKNOWN_LOSS) / 8),
        pytest.approx((5 * KNOWN_LOSS + 3 * UNKNOWN_LOSS) / 8),
        KNOWN_LOSS,
    ]
    assert [state.value for state in table.states] == [0.0, 0.5, 1.0, 1.0]
    metrics = table.figures().metrics
    assert metrics["phases/loss/base"] == UNKNOWN_LOSS
    assert metrics["phases/agreement/2_large"] == 1.0


def test_every_phase_has_a_line_that_says_what_it_bought():
    table, _ = phased(small=2, medium=5)
    assessment = Assessment.of(compared(COLOURS, {"train": [], "heldout": HELDOUT}), phases=table)
    lines = summary_of(assessment, judge(assessment, ValidateConfig()))
    [small] = [line for line in lines if line.startswith("after phase small (step 2)")]
    assert "loss 1.7500, -0.5000 (95 % interval -1" in small
    assert small.endswith("agreement 0.500")


def test_few_are_answered_and_all_are_scored():
    table, model = phased(small=8, medium=8, answered=3)
    assert len(model.engine.asked) == 3
    assert len(table.states[1].losses) == 8
    assert table.as_json()["answered"] == 3


def test_a_phase_that_made_things_worse_is_told_and_does_not_refuse():
    table, _ = phased(small=7, medium=1)
    [(state, change)] = table.worse
    assert state.name == "medium"
    assert change.difference == pytest.approx((UNKNOWN_LOSS - KNOWN_LOSS) * 6 / 8)
    assert [row["worse"] for row in table.as_json()["rows"]] == [False, False, True, False]
    [verdict] = rules.phases(table)
    assert verdict.passed is None
    assert "made the loss on held-out samples worse: phase medium (+1.5000" in verdict.sentence


def test_a_loss_that_rose_by_chance_is_not_called_worse():
    table, _ = phased(small=5, medium=3)
    assert table.worse == []
    [verdict] = rules.phases(table)
    assert verdict.passed is None
    assert verdict.sentence.startswith(
        "the loss on held-out samples rose, not told apart from chance: phase medium (+0.5000 nats"
        " a token (95 % interval"
    )
    assert "base 2.2500 -> small" in verdict.sentence


def test_phases_that_lowered_the_loss_made_nothing_worse():
    table, _ = phased(small=2, medium=5)
    [verdict] = rules.phases(table)
    assert verdict.passed is True
    assert verdict.sentence.startswith("no phase made the loss on held-out samples worse: base")


def test_training_probes_serve_where_nothing_was_held_out():
    table, _ = phased(small=1, medium=1, heldout=[])
    assert table.split == "train"
    assert len(table.states[0].losses) == 2


def test_one_phase_or_none_asked_gives_no_table():
    comparison = compared(COLOURS, {"train": [], "heldout": HELDOUT})
    options = {"max_new_tokens": 5, "measure": measured_here}
    splits = {"heldout": HELDOUT}
    after = Phased({}).after
    assert compare_phases(comparison, splits, PHASES[:1], after, answered=4, **options) is None
    assert compare_phases(comparison, splits, PHASES, after, answered=0, **options) is None
    assert list(rules.phases(None)) == []
