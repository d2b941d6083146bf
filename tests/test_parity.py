"""The parity ladder's parts: divergences, probe set, records, choice, diagnosis."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlmpipe.config import parse_config
from vlmpipe.config.parity import QUANT_TYPES, ParityConfig
from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.engines.base import Completion, Forced
from vlmpipe.errors import ArtifactError, ConfigError, StageError
from vlmpipe.export.gguf.quant_bench import QuantRow, metrics_of, table_of
from vlmpipe.export.gguf.quants import quant_types
from vlmpipe.export.merging.fold_choice import Candidate as FoldCandidate
from vlmpipe.export.merging.fold_choice import better
from vlmpipe.export.parity.choice import Candidate, recommend
from vlmpipe.export.parity.diagnosis import diagnose
from vlmpipe.export.parity.divergence import (
    ROWS,
    IncomparableError,
    divergence,
    exact_match,
    token_divergences,
)
from vlmpipe.export.parity.gguf_rungs import Above, GgufRung, LowerLadder, judge
from vlmpipe.export.parity.ladder import Ladder, read_answers, read_rungs, write_answers
from vlmpipe.export.parity.merged_rungs import MergedRungs
from vlmpipe.export.parity.probes import ProbeSet
from vlmpipe.export.parity.records import RungRecord, compare
from vlmpipe.export.parity.rung import Answers, Distributions, Rung, force, measured
from vlmpipe.pipeline import Stage
from vlmpipe.pipeline.fingerprint import settings_read
from vlmpipe.stages.s4_merge import MERGE
from vlmpipe.stages.s5_convert import CONVERT
from vlmpipe.stages.s6_deploy import DEPLOY


def forced(logits: Any, targets: Sequence[int] | None = None) -> Forced:
    rows = np.array(logits, dtype=np.float32)
    return Forced(np.array(targets if targets is not None else [0] * len(rows)), rows)


class Saying:
    """An engine that says what it is told to."""

    name = "saying"

    def __init__(self, logits: np.ndarray, **sees: Any) -> None:
        self.logits = logits
        self.ids: list[int] = sees.get("ids", [1, 2])
        self.features = sees.get("features", np.ones((4, 3)))
        self.image: Image.Image = sees.get("image", Image.new("RGB", (28, 28)))
        self.without = sees.get("without", logits)

    def forced(self, messages: Sequence[Message], answer: str) -> Forced:
        return forced(self.logits if any(turn.images for turn in messages) else self.without)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        return self.ids

    def handed_over(self, image: Image.Image) -> Image.Image:
        return self.image

    def image_features(self, image: Image.Image) -> np.ndarray:
        return self.features


def sample(*images: Image.Image, id_: str = "s", answer: str = "a") -> Sample:
    turns = (Message("user", (*images, "?")), Message("assistant", (answer,)))
    return Sample(id=id_, messages=turns, task="table")


SEEN = sample(Image.new("RGB", (30, 30)))
LOGITS = np.log(np.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]))


def rung(folder: Path, name: str, logits: np.ndarray, texts: Sequence[str] = ("a",)) -> Rung:
    engine: Any = Saying(logits)
    return Rung(name, force(engine, [SEEN], folder / name), Answers(tuple(texts), 0.5))


def test_divergence_is_that_of_a_hand_worked_case() -> None:
    other = np.log(np.array([[0.25, 0.5, 0.25], [0.2, 0.2, 0.6]]))
    klds, same = token_divergences(forced(LOGITS), forced(other + 3.0))
    expected = 0.5 * math.log(2) - 0.25 * math.log(2)
    assert klds == pytest.approx([expected, 0.0], abs=1e-7)
    assert same.tolist() == [False, True]


def test_divergence_is_not_symmetric_and_never_negative() -> None:
    other = np.log(np.array([[0.9, 0.05, 0.05], [0.2, 0.2, 0.6]]))
    there, _ = token_divergences(forced(LOGITS), forced(other))
    back, _ = token_divergences(forced(other), forced(LOGITS))
    assert there[0] != pytest.approx(back[0], rel=0.01)
    assert min(*there, *back) >= 0


def test_long_answers_are_compared_piece_by_piece_without_a_seam() -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.normal(size=(2, 2 * ROWS + 5, 7)).astype(np.float32)
    whole, _ = token_divergences(forced(ours), forced(theirs))
    single = [
        token_divergences(forced([a]), forced([b]))[0][0] for a, b in zip(ours, theirs, strict=True)
    ]
    assert whole == pytest.approx(single)


def test_other_tokens_or_another_vocabulary_cannot_be_compared() -> None:
    with pytest.raises(IncomparableError, match="token 1 is 0 above and 2 below"):
        token_divergences(forced(LOGITS, [0, 0]), forced(LOGITS, [0, 2]))
    with pytest.raises(IncomparableError, match="3 and 4 tokens"):
        token_divergences(forced(LOGITS), forced(np.zeros((2, 4))))


def test_distributions_on_disk_are_those_of_the_engine(tmp_path: Path) -> None:
    engine: Any = Saying(LOGITS)
    found = force(engine, [SEEN, SEEN], tmp_path / "x")
    assert found.sample(1).logits == pytest.approx(LOGITS.astype(np.float32))
    assert found.loss == pytest.approx(-(math.log(0.5) + math.log(0.2)) / 2, rel=1e-5)
    assert divergence(found, found).kld_mean == 0.0


def test_a_rung_passes_at_its_limit_and_not_beyond(tmp_path: Path) -> None:
    reference, other = rung(tmp_path, "merged", LOGITS), rung(tmp_path, "f16", LOGITS * 1.1)
    exact = divergence(reference.distributions, other.distributions).kld_mean
    assert compare(reference, other, exact).passed
    failed = compare(reference, other, exact / 2)
    assert not failed.passed
    assert failed.why is not None
    assert f"{exact:.3g}" in failed.why
    assert compare(reference, other, None).passed


def test_a_rung_that_is_not_a_number_fails_and_is_written_as_nothing(tmp_path: Path) -> None:
    broken = np.full_like(LOGITS, np.nan)
    record = compare(rung(tmp_path, "merged", LOGITS), rung(tmp_path, "f16", broken), 1.0)
    assert not record.passed
    Ladder({}, [record], "float32").write(tmp_path)
    assert json.loads((tmp_path / "parity.json").read_text())["rungs"][0]["kld_mean"] is None


def test_a_rung_of_other_tokens_fails_without_a_figure(tmp_path: Path) -> None:
    wide = np.zeros((2, 5))
    record = compare(rung(tmp_path, "merged", LOGITS), rung(tmp_path, "f16", wide), 1.0)
    assert (record.passed, record.kld_mean) == (False, None)
    assert "vocabularies of 3 and 5" in record.line


def test_answers_are_compared_word_for_word() -> None:
    assert exact_match(Answers(("a", "b"), 1.0), Answers(("a", "b "), 1.0)) == 0.5
    assert exact_match(None, Answers(("a",), 1.0)) is None


def test_answers_are_measured_by_each_samples_task() -> None:
    table = "<table><tr><td>1</td></tr></table>"
    samples = [sample(answer=table), sample(answer=table)]
    assert measured([table, "nothing"], samples).metric == pytest.approx(0.5)


def test_ladder_and_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    record = compare(rung(tmp_path, "merged", LOGITS), rung(tmp_path, "f16", LOGITS), 1e-4)
    Ladder({"count": 1}, [record], "float32", "f16").write(tmp_path)
    write_answers(tmp_path, {"merged": Answers(("ü", ""), 0.5)})
    assert [each.as_record() for each in read_rungs(tmp_path)] == [record.as_record()]
    assert read_answers(tmp_path) == {"merged": ["ü", ""]}
    (tmp_path / "parity.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"parity\.json cannot be read"):
        read_rungs(tmp_path)


FILES = [Candidate("f16", 900, 0.97), Candidate("q8_0", 500, 0.965), Candidate("q4_k_m", 300, 0.94)]


def test_smallest_file_that_keeps_the_metric_is_recommended() -> None:
    assert recommend(FILES, 0.97, 0.02).quant == "q8_0"
    assert recommend(FILES, 0.97, 0.05).quant == "q4_k_m"
    excluded = [*FILES[:2], replace(FILES[2], excluded="KL divergence 1")]
    assert recommend(excluded, 0.97, 0.05).quant == "q8_0"


def test_16_bit_file_is_recommended_where_no_other_is_good_enough() -> None:
    found = recommend([replace(each, metric=0.1) for each in FILES], 0.97, 0.02)
    assert found.quant == "f16"
    assert "convert.max_metric_loss" in found.why


def gguf_rung(quant: str, *, passed: bool) -> GgufRung:
    why = None if passed else "KL divergence 0.5 nats a token, limit 0.1"
    record = RungRecord(quant, "f16", 0.5, 1.0, 1.0, 1.0, 0.9, 0.1, 0.1, passed, why)
    nothing = Rung(quant, Distributions(Path(), 0.0, 0))
    return GgufRung(quant, nothing, record, record, 1.0, 1.0)


def test_a_failed_16_bit_file_fails_the_gate_and_names_the_part() -> None:
    verdict = judge(
        [gguf_rung("f16", passed=False), gguf_rung("q8_0", passed=True)],
        {"part": "vision features"},
    )
    assert not verdict.passed
    assert "f16: KL divergence 0.5" in verdict.reasons[0]
    assert "parity.max_kld.f16" in verdict.reasons[0]
    assert "vision features" in verdict.reasons[0]


def test_a_failed_quant_is_only_excluded_while_another_is_left() -> None:
    base, bad = gguf_rung("f16", passed=True), gguf_rung("q2_k", passed=False)
    assert judge([base, bad, gguf_rung("q8_0", passed=True)]).passed
    alone = judge([base, bad])
    assert not alone.passed
    assert "no quant is left: q2_k" in alone.reasons[0]
    assert judge([base]).passed


class Speaking(Saying):
    """One that answers too; `refuses` is what it raises instead of being forced."""

    def __init__(self, logits: np.ndarray, refuses: Exception | None = None) -> None:
        super().__init__(logits)
        self.refuses = refuses
        self.closed = False

    def forced(self, messages: Sequence[Message], answer: str) -> Forced:
        if self.refuses:
            raise self.refuses
        return super().forced(messages, answer)

    def complete(self, messages: Sequence[Message], *, max_new_tokens: int) -> Completion:
        return Completion("a", "stop", 2, 2, 0.2, 0.1)

    def close(self) -> None:
        self.closed = True


def lower_ladder(
    folder: Path, engines: dict[str, Speaking], above: np.ndarray = LOGITS
) -> LowerLadder:
    """A ladder over engines by type; `runtime` is the one under the runtime's resize."""

    def open_engine(quant: str, resize: str) -> Any:
        return engines["runtime" if resize == "runtime" else quant]

    reference = rung(folder, "merged", above)
    probes = ProbeSet((SEEN,), "d")
    scratch = folder / "scratch"
    return LowerLadder(open_engine, Above(reference, reference), probes, ParityConfig(), scratch)


def test_a_page_that_the_runtime_makes_too_large_is_told_and_ends_nothing(tmp_path: Path) -> None:
    large = Speaking(LOGITS, StageError("the conversation takes 3000 tokens"))
    ladder = lower_ladder(tmp_path, {"f16": Speaking(LOGITS), "runtime": large})
    assert ladder.climb("f16").passed
    record = ladder.climb_runtime_resize("f16")
    assert (record.kld_mean, record.passed) == (None, False)
    assert record.why == "the conversation takes 3000 tokens"
    assert large.closed


def test_each_quant_is_held_against_the_16_bit_file_and_gives_its_disk_back(tmp_path: Path) -> None:
    engines = {"f16": Speaking(LOGITS * 1.01), "q8_0": Speaking(LOGITS), "q4_0": Speaking(LOGITS)}
    ladder = lower_ladder(tmp_path, engines)
    against = [ladder.climb(quant).above.against for quant in engines]
    assert against == ["merged", "f16", "f16"]
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["f16"]


def bench_of(loss: float) -> QuantRow:
    return QuantRow("q2_k", "f", 1, {}, math.nan, math.nan, 0.5, loss, math.inf, 1.0, None)


def test_figures_that_are_not_finite_stand_in_no_file() -> None:
    rows = [bench_of(math.nan)]
    assert metrics_of(rows) == {
        "q2_k/size_bytes": 1.0,
        "q2_k/answer_tokens_per_second": 1.0,
        "q2_k/metric": 0.5,
    }
    text = json.dumps(table_of(rows, 0.5, "teds", None), allow_nan=False)
    assert json.loads(text)["rows"][0]["loss"] is None


def fold_candidate(base: str, metric: float, loss: float, *, passed: bool = True) -> Any:
    record = gguf_rung("merged", passed=passed).above
    merged = Rung("merged", Distributions(Path(), loss, 1), Answers((), metric))
    return FoldCandidate(SimpleNamespace(fold_base=base), MergedRungs(base, record, None, merged))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("w16", "dequant", "kept"),
    [
        ((0.9, 0.5), (0.8, 0.1), "w16"),
        ((0.9, 0.5), (0.9, 0.1), "dequant"),
        ((0.9, math.nan), (0.9, 0.1), "dequant"),
    ],
)
def test_the_better_base_is_kept(
    w16: tuple[float, float], dequant: tuple[float, float], kept: str
) -> None:
    best, why = better([fold_candidate("w16", *w16), fold_candidate("dequant", *dequant)])
    assert best.merged.fold_base == kept
    assert why


def test_a_base_that_fails_its_gate_is_not_kept_beside_one_that_holds() -> None:
    failed = fold_candidate("w16", 0.9, 0.1, passed=False)
    best, why = better([failed, fold_candidate("dequant", 0.8, 0.5)])
    assert best.merged.fold_base == "dequant"
    assert "the other fails its gate" in why


def diagnosis_of(**sees: Any) -> tuple[str, str]:
    reference: Any = Saying(LOGITS)
    other: Any = Saying(LOGITS * 2, **{"without": LOGITS, **sees})
    found = diagnose(reference, other, SEEN, limit=1e-3)
    return found.part, found.found


def test_the_first_part_that_departs_is_named() -> None:
    part, found = diagnosis_of(ids=[1, 3], features=np.zeros((4, 3)))
    assert (part, found) == (
        "preprocessing",
        "prompt token 1 is 2 above and 3 below (-1: an image's)",
    )
    part, found = diagnosis_of(image=Image.new("RGB", (56, 28)))
    assert part == "preprocessing"
    assert "28×28 above and in 56×28 below" in found
    part, found = diagnosis_of(image=Image.new("RGB", (28, 28), (0, 9, 0)))
    assert (part, "up to 9 of 255" in found) == ("preprocessing", True)
    assert diagnosis_of(features=np.full((4, 3), 1.1))[0] == "vision features"
    assert diagnosis_of(features=np.ones((5, 3)))[0] == "vision features"
    assert diagnosis_of(features=np.full((4, 3), np.nan))[0] == "vision features"
    assert diagnosis_of(without=LOGITS * 2)[0] == "text"
    assert diagnosis_of()[0] == "text after an image"


def test_limits_keep_their_defaults_until_they_are_named() -> None:
    rules = ParityConfig(max_kld={"Q4_K_M": 0.02})
    assert rules.limit("q4_k_m") == 0.02
    assert rules.limit("f16") == 2e-3
    assert rules.limit("iq3_xs") == 0.15


@pytest.mark.parametrize(
    ("name", "meant"),
    [("fold", "merged"), ("Q4KM", "q4_k_m"), ("serve", "served"), ("fp_8", "fp8"), ("f-16", "f16")],
)
def test_a_limit_of_no_rung_is_refused_with_what_was_meant(name: str, meant: str) -> None:
    told = rf"called {name.lower()}: did you mean {meant}\?\. Known"
    with pytest.raises(ConfigError, match=told):
        parse_config({"parity": {"max_kld": {"drift": 0.2, name: 0.1, "iq3_xs": 0.2}}})


def test_every_type_that_the_quantiser_writes_may_have_a_limit() -> None:
    assert set(QUANT_TYPES) == set(quant_types())
    every = dict.fromkeys([*QUANT_TYPES, "merged", "drift", "served", "fp8", "awq", "gptq"], 0.1)
    assert ParityConfig(max_kld=every).max_kld == every


def test_a_limit_below_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="f16: -1"):
        parse_config({"parity": {"max_kld": {"f16": -1}}})


def test_another_stages_limit_makes_no_stage_run_again() -> None:
    def read(stage: Stage, **limits: float) -> dict[str, Any]:
        return settings_read(stage, parse_config({"parity": {"max_kld": limits}}))

    assert read(MERGE, served=1.0, q4_k_m=1.0) == read(MERGE)
    assert read(CONVERT, served=1.0, merged=1.0, drift=1.0) == read(CONVERT)
    assert read(DEPLOY, merged=1.0, q4_k_m=1.0) == read(DEPLOY)
    changed = ((MERGE, "drift"), (MERGE, "merged"), (CONVERT, "f16"), (DEPLOY, "served"))
    for stage, name in changed:
        assert read(stage, **{name: 1.0}) != read(stage)
