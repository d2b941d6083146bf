"""General data against forgetting: its share in every phase, and what it is kept apart from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from data_files import picture, turns, write_lines
from vlmpipe.config import Config, parse_config
from vlmpipe.config.train import TrainConfig
from vlmpipe.data.general import PROBE_SEED, general_samples
from vlmpipe.data.prepare import DataSummary, prepare_data
from vlmpipe.data.splitting import content_keys
from vlmpipe.data.store import load_split, load_training
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.errors import BadSamplesError
from vlmpipe.evaluation.validation.general_probe import general_probe
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.stages.s1_setup import SETUP, samples_line
from vlmpipe.stages.s3_validate import VALIDATE
from vlmpipe.training.curriculum import plan_phases

GRID = ImageGrid(patch_size=14, merge_size=2, min_pixels=6272, max_pixels=448 * 448)
RANGES = [[0.0, 0.08], [0.05, 0.2], [0.0, 1.0]]


def config_of(n: int = 60, probe: dict[str, Any] | None = None, **data: Any) -> Config:
    synthetic = {"n": n, "difficulty": [0.0, 0.2], "languages": ["en"]}
    settings = {"synthetic": synthetic, "general_ratio": 0.15, **data}
    return parse_config({"data": settings, "validate": {"general": probe or {}}})


def prepared(folder: Path, config: Config, **how: Any) -> DataSummary:
    return prepare_data(config, folder, SilentReporter(), **how)


def keys_of(samples: Sequence[Sample]) -> set[str]:
    return {key for sample in samples for key in content_keys(sample)}


def general_part(folder: Path) -> list[Sample]:
    return load_training(folder)[len(load_split(folder, "train")) :]


def text_file(folder: Path, count: int = 40, name: str = "general.jsonl", mark: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    lines = [
        {"messages": turns(question=f"{mark}question {n}?", answer=f"{n}"), "id": f"{mark}{n}"}
        for n in range(count)
    ]
    return write_lines(folder / name, *lines)


def digest(samples: Sequence[Sample]) -> str:
    found = hashlib.sha256()
    for sample in samples:
        found.update(repr((sample.id, sample.task, sample.difficulty, sample.origin)).encode())
        for message in sample.messages:
            found.update(message.role.encode())
            for part in message.parts:
                pixels = None if isinstance(part, str) else repr(part.size).encode()
                found.update(part.encode() if isinstance(part, str) else pixels + part.tobytes())
    return found.hexdigest()


@pytest.mark.parametrize(
    ("count", "trained", "has_vision", "expected"),
    [
        (24, {"table"}, True, "491efcd3d710cea8c26311e51f2a31545ee791a0b72220de660b359b850be4ff"),
        (12, {"qa"}, False, "4b9a3770b63a4a50edddfe69ee6e6a19a9cd9065ac3699ef4bbcd3dff98aa12b"),
    ],
    ids=["vision", "text"],
)
def test_the_probe_is_what_it_was_before_training_data_was_drawn_beside_it(
    count: int, trained: set[str], has_vision: bool, expected: str
) -> None:
    """Taken from the probe as it was when it had a generator of its own."""
    assert digest(general_samples(count, trained, has_vision=has_vision)) == expected


def test_another_seed_gives_other_samples_of_the_same_kinds() -> None:
    probe = general_samples(12, {"table"}, has_vision=True)
    other = general_samples(12, {"table"}, has_vision=True, seed=PROBE_SEED + 1)
    assert [sample.task for sample in other] == [sample.task for sample in probe]
    assert len(keys_of(other) & keys_of(probe)) <= 1  # one task has samples that never change


def test_without_a_ratio_nothing_is_mixed_in(tmp_path: Path) -> None:
    summary = prepared(tmp_path, config_of(general_ratio=0))
    assert summary.general is None
    assert not (tmp_path / "general.parquet").exists()
    train = load_split(tmp_path, "train")
    assert [s.id for s in load_training(tmp_path)] == [s.id for s in train]


def test_the_splits_are_those_of_a_run_without_general_data(tmp_path: Path) -> None:
    prepared(tmp_path / "with", config_of())
    prepared(tmp_path / "without", config_of(general_ratio=0))
    for name in ("train.parquet", "heldout.parquet"):
        with_it, without = (tmp_path / run / name for run in ("with", "without"))
        assert with_it.read_bytes() == without.read_bytes()
    assert set(load_split(tmp_path / "with", "train").column("task")) == {"table"}
    names = sorted(path.name for path in (tmp_path / "with").iterdir())
    assert names == ["data.json", "general.parquet", "heldout.parquet", "train.parquet"]


def shares(folder: Path, ranges: Sequence[Any], **how: Any) -> list[float]:
    """Of general samples among what each phase of these ranges sees in an epoch."""
    samples, train = load_training(folder), len(load_split(folder, "train"))
    sections = [
        {"name": f"p{place}", "max_size": [112, 112], "difficulty": bounds}
        for place, bounds in enumerate(ranges)
    ]
    phases = plan_phases(
        TrainConfig.model_validate({"curriculum": sections}),
        samples.column("difficulty"),
        samples.column("weight"),
        GRID,
        has_vision=True,
    )
    return [sum(i >= train for i in p.indices) / len(p.indices) for p in phases]


def test_every_phase_sees_the_share_whatever_difficulty_it_takes(tmp_path: Path) -> None:
    summary = prepared(tmp_path, config_of(n=250))
    assert summary.general is not None
    assert summary.general.share == pytest.approx(0.15, abs=0.003)
    assert summary.general.repeated == 1
    assert summary.general.samples == round(summary.train.samples * 0.15 / 0.85)
    for share in shares(tmp_path, RANGES):
        assert share == pytest.approx(0.15, abs=0.02)


def test_a_source_that_is_seen_more_often_does_not_thin_the_share(tmp_path: Path) -> None:
    often, rarely = text_file(tmp_path, 30, "a.jsonl", "a"), text_file(tmp_path, 60, "b.jsonl", "b")
    sources = [{"path": str(often), "weight": 3.0}, {"path": str(rarely), "weight": 1.0}]
    prepared(tmp_path / "out", config_of(sources=sources))
    [share] = shares(tmp_path / "out", [[0.0, 1.0]])
    assert share == pytest.approx(0.15, abs=0.03)


@pytest.mark.parametrize("has_vision", [True, False])
def test_no_sample_of_the_probe_is_trained_on(
    has_vision: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the seed were the probe's own, and so every sample at first one of its own."""
    probe_size = 30
    config = config_of(probe={"samples": probe_size}, task="qa", max_samples=12)
    monkeypatch.setattr("vlmpipe.data.mixing.SEED_OFFSET", PROBE_SEED - config.run.seed)
    sources = [{"path": str(text_file(tmp_path))}]
    config = config.model_copy(update={"data": config_of(sources=sources, task="qa").data})
    summary = prepared(tmp_path / "out", config, wants_images=has_vision)
    assert summary.general is not None
    assert summary.general.withheld >= summary.general.samples
    probe = general_probe(config, {"qa"}, has_vision=has_vision)
    mixed = general_part(tmp_path / "out")
    assert len(probe) == probe_size
    assert mixed
    assert not keys_of(mixed) & keys_of(probe)


def test_seeds_differ_whatever_the_run_s_own_is(tmp_path: Path) -> None:
    for seed in (PROBE_SEED, 0, 2**32 - 1):
        config = config_of(n=40)
        run = config.run.model_copy(update={"seed": seed})
        summary = prepared(tmp_path / str(seed), config.model_copy(update={"run": run}))
        assert summary.general is not None
        assert summary.general.withheld <= 1


def test_a_text_model_gets_text_alone(tmp_path: Path) -> None:
    sources = [{"path": str(text_file(tmp_path))}]
    summary = prepared(tmp_path / "out", config_of(sources=sources, task="qa"), wants_images=False)
    assert summary.general is not None
    assert set(summary.general.kinds) == {"request"}
    assert not any(sample.images for sample in general_part(tmp_path / "out"))


def test_the_same_seed_gives_the_same_file_and_another_one_another(tmp_path: Path) -> None:
    config = config_of()
    other = config.model_copy(update={"run": config.run.model_copy(update={"seed": 43})})
    for name, each in (("a", config), ("b", config), ("c", other)):
        prepared(tmp_path / name, each)
    first, same, another = (
        (tmp_path / name / "general.parquet").read_bytes() for name in ("a", "b", "c")
    )
    assert first == same
    assert first != another


def test_files_are_drawn_from_by_lot_and_only_as_many_as_are_wanted(tmp_path: Path) -> None:
    sources = [{"path": str(text_file(tmp_path, 200))}]
    summary = prepared(tmp_path / "out", config_of(general_sources=sources))
    assert summary.general is not None
    assert summary.general.samples == round(summary.train.samples * 0.15 / 0.85)
    assert summary.general.kinds == {"general": summary.general.samples}
    numbers = [int(sample.reference) for sample in general_part(tmp_path / "out")]
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) > 100
    [facts] = summary.general_sources
    assert facts["samples"] == summary.general.samples


def test_too_few_are_seen_more_often_and_that_is_told(tmp_path: Path) -> None:
    sources = [{"path": str(text_file(tmp_path, 3))}]
    summary = prepared(tmp_path / "out", config_of(n=120, general_sources=sources))
    assert summary.general is not None
    assert summary.general.samples == 3
    assert summary.general.repeated > 3
    assert any("too few general samples" in note for note in summary.notes)
    [share] = shares(tmp_path / "out", [[0.0, 1.0]])
    assert share == pytest.approx(0.15, abs=0.03)


def test_sources_of_general_data_keep_their_weights_among_themselves(tmp_path: Path) -> None:
    files = [text_file(tmp_path, 6, f"{mark}.jsonl", mark) for mark in "ab"]
    listed = [{"path": str(files[0]), "weight": 3.0}, {"path": str(files[1])}]
    prepared(tmp_path / "out", config_of(n=120, general_sources=listed))
    weights: dict[str, float] = {}
    samples = load_training(tmp_path / "out")
    for sample, weight in zip(samples, samples.column("weight"), strict=True):
        if sample.id.startswith("general/"):
            weights[sample.id[8]] = weight
    assert weights["a"] == pytest.approx(3 * weights["b"])


def test_what_is_held_out_is_not_let_in_by_a_general_file(tmp_path: Path) -> None:
    """The same lines as task data and as general data."""
    path = str(text_file(tmp_path, 40))
    config = config_of(sources=[{"path": path}], general_sources=[{"path": path}])
    summary = prepared(tmp_path / "out", config)
    heldout = load_split(tmp_path / "out", "heldout")
    assert len(heldout) > 0
    assert not keys_of(general_part(tmp_path / "out")) & keys_of(heldout)
    assert summary.general is not None


def test_a_file_s_lines_that_the_probe_asks_are_left_out(tmp_path: Path) -> None:
    path = text_file(tmp_path, 20)
    probe = {"path": str(path), "samples": 15}
    config = config_of(n=100, probe=probe, general_sources=[{"path": str(path)}])
    summary = prepared(tmp_path / "out", config)
    assert summary.general is not None
    assert (summary.general.samples, summary.general.withheld) == (5, 15)
    asked = {sample.reference for sample in general_probe(config, {"table"}, has_vision=True)}
    assert asked == {str(number) for number in range(15)}
    assert not asked & {sample.reference for sample in general_part(tmp_path / "out")}


def test_a_bad_line_is_named_or_skipped_as_others_are(tmp_path: Path) -> None:
    good = [{"messages": turns(question=f"{n}?", answer=f"{n}")} for n in range(4)]
    path = write_lines(tmp_path / "general.jsonl", *good, '{"messages": ', *good[:1])
    sources = [{"path": str(path)}]
    with pytest.raises(BadSamplesError) as caught:
        prepared(tmp_path / "out", config_of(n=120, general_sources=sources))
    assert caught.value.problems[0].startswith(f"data.general_sources: {path}:5: not valid JSON")
    assert list((tmp_path / "out").iterdir()) == []
    skip = config_of(n=120, general_sources=sources, on_bad_sample="skip")
    summary = prepared(tmp_path / "out", skip)
    assert summary.skipped == 1
    assert summary.problems[0].startswith(f"data.general_sources: {path}:5:")
    assert summary.general is not None
    assert summary.general.samples == 5


def test_pictures_in_a_general_file_are_no_use_to_a_text_model(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    path = write_lines(tmp_path / "g.jsonl", json.dumps({"messages": turns("a.png")}))
    sources = [{"path": str(text_file(tmp_path))}]
    config = config_of(sources=sources, task="qa", general_sources=[{"path": str(path)}])
    with pytest.raises(BadSamplesError, match="samples cannot be used"):
        prepared(tmp_path / "out", config, wants_images=False)


def test_a_generated_sample_that_is_too_long_is_passed_over(tmp_path: Path) -> None:
    def no_requests(sample: Sample) -> str | None:
        return "too long" if sample.task == "request" else None

    summary = prepared(tmp_path, config_of(), check_sample=no_requests)
    assert summary.general is not None
    assert summary.skipped == 0
    assert "request" not in summary.general.kinds
    assert summary.general.repeated == 1


def test_setup_tells_what_it_mixed_in_and_depends_on_the_files(tmp_path: Path) -> None:
    path, probe = text_file(tmp_path, 40), text_file(tmp_path, 5, "probe.jsonl", "p")
    sources = [{"path": str(path)}]
    config = config_of(general_sources=sources, probe={"path": str(probe)})
    summary = prepared(tmp_path / "out", config)
    assert (
        samples_line(summary)
        == "48 training and 12 held-out samples, 8 general ones mixed in (14.3%)"
    )
    assert SETUP.external(config) == {
        "data.general_sources[0] general.jsonl": path,
        "validate.general.path probe.jsonl": probe,
    }
    assert SETUP.external(config_of(general_sources=sources, general_ratio=0)) == {}
    assert VALIDATE.external(config) == {"validate.general.path probe.jsonl": probe}
    data = json.loads((tmp_path / "out" / "data.json").read_text())
    assert data["general"]["samples"] == 8
    assert data["train"]["tasks"] == {"table": 48}
