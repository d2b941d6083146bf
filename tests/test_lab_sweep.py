"""Sweeps: what a file may say, whose setup a trial takes, what a failed trial leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline_fakes import Reporter
from vlmpipe.config import load_config
from vlmpipe.errors import ConfigError
from vlmpipe.models.embedded import untrained
from vlmpipe.pipeline import Outcome, Runner, RunOptions, RunStore, Stage, StageContext
from vlmpipe.training.lab import sweep as sweeping
from vlmpipe.training.lab.sweep_file import Sweep, read_sweep
from vlmpipe.training.lab.sweep_files import write_sweep
from vlmpipe.training.lab.sweep_refusal import refuse_hopeless
from vlmpipe.training.lab.sweep_rows import TrialRow

ROOT = Path(__file__).resolve().parents[1]


def sweep_of(folder: Path, *words: str, **content: Any) -> Sweep:
    file = folder / "grid.yaml"
    file.write_text(json.dumps(content), encoding="utf-8")
    return read_sweep(file, [], [f"run.outputs_dir={folder / 'outputs'}", "run.name=r", *words])


def test_the_shipped_example_crosses_rank_alpha_and_targets() -> None:
    found = read_sweep(
        ROOT / "configs" / "sweeps" / "lora.yaml", [ROOT / "configs" / "tiny.yaml"], []
    )
    assert len(found.trials) == 12
    assert len({trial.name for trial in found.trials}) == 12
    assert found.metric == "heldout/teds/tuned"
    lora = [(t.config.train.lora.r, t.config.train.lora.alpha) for t in found.trials]
    assert set(lora) == {(8, 16), (8, 64), (32, 16), (32, 64)}
    assert all(trial.config.train.max_steps == 200 for trial in found.trials)


def test_every_kind_of_value_reaches_the_trials_configuration(tmp_path: Path) -> None:
    phases = [{"name": "a", "max_size": [112, 112]}]
    found = sweep_of(
        tmp_path,
        grid={
            "train.curriculum": [phases, []],
            "train.learning_rate": [1e-05],
            "train.batch_tokens": [None, 512],
        },
        fixed={"train.packing": "off", "train.gradient_checkpointing": False},
    )
    for trial in found.trials:
        given = load_config([], trial.words)
        assert given.train == trial.config.train
        assert given.train.packing == "off"
        assert given.train.learning_rate == 1e-05
    assert {len(trial.config.train.curriculum) for trial in found.trials} == {0, 1}


def test_each_seed_is_a_trial_and_the_same_settings_keep_their_run(tmp_path: Path) -> None:
    few = sweep_of(tmp_path, grid={"train.lora.r": [8]}, seeds=[1, 2])
    many = sweep_of(tmp_path, grid={"train.lora.r": [4, 8]}, seeds=[1, 2, 3])
    assert [trial.config.run.seed for trial in few.trials] == [1, 2]
    assert len(many.trials) == 6
    assert {trial.name for trial in few.trials} < {trial.name for trial in many.trials}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "grid"),
        ({"grid": {"train.lora.r": []}}, "no values"),
        ({"grid": {"train.lora.r": [8, 8]}}, "twice"),
        ({"grid": {"train.lora.rank": [8]}}, "unknown key"),
        ({"grid": {"train.lora.r": [8, 0]}}, "train.lora.r"),
        ({"grid": {"run.name": ["a"]}}, "run.name"),
        ({"grid": {"run.seed": [1]}, "seeds": [1]}, "run.seed"),
        ({"grid": {"train.lora.r": [8]}, "fixed": {"train.lora.r": 4}}, "both grid and fixed"),
        ({"grid": {"train.lora.r": [8]}, "metrics": "x"}, "metrics"),
    ],
)
def test_a_faulty_sweep_is_refused_before_anything_runs(
    content: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        sweep_of(tmp_path, **content)
    assert said in str(caught.value)


EMBEDDED = "model.id=embedded:random-qwen2_5_vl"


def test_parts_that_no_trial_has_are_refused_once_with_the_way_out(tmp_path: Path) -> None:
    fixed = {"train.unfreeze": ["last_blocks:99"]}
    found = sweep_of(tmp_path, EMBEDDED, grid={"train.lora.r": [4, 8]}, fixed=fixed)
    with pytest.raises(ConfigError, match="of 2 none was begun") as caught:
        refuse_hopeless(found.trials)
    assert len(caught.value.problems) == 1
    assert "last_blocks:99" in caught.value.problems[0]
    assert any('["last_blocks:4"]' in remedy for remedy in caught.value.remedies)
    assert not (tmp_path / "outputs").exists()


def test_packing_and_sources_that_no_trial_can_use_are_refused_together(tmp_path: Path) -> None:
    grid = {"model.attn_implementation": ["eager"], "train.packing": ["on", "auto"]}
    found = sweep_of(tmp_path, EMBEDDED, grid=grid)
    refuse_hopeless(found.trials)  # one of them can work
    with pytest.raises(ConfigError, match=r"train\.packing=on is not possible"):
        refuse_hopeless(found.trials[:1])
    absent = 'data.sources=[{"path": "/nowhere.jsonl"}]'
    grid["train.packing"] = ["on"]
    found = sweep_of(tmp_path, EMBEDDED, absent, grid=grid)
    with pytest.raises(ConfigError) as caught:
        refuse_hopeless(found.trials)
    told = str(caught.value)
    assert "nowhere.jsonl" in told
    assert "train.packing=on is not possible" in told


def test_a_model_that_is_not_here_yet_is_left_to_the_trials(tmp_path: Path) -> None:
    fixed = {"train.unfreeze": ["last_blocks:99"]}
    found = sweep_of(tmp_path, "model.id=no/such", grid={"train.lora.r": [4]}, fixed=fixed)
    refuse_hopeless(found.trials)


def test_one_model_that_is_none_does_not_keep_the_others_from_their_trials(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    models = [str(tmp_path / "empty"), "embedded:nothing", "embedded:random-qwen3"]
    found = sweep_of(tmp_path, grid={"model.id": models})
    refuse_hopeless(found.trials)
    with pytest.raises(ConfigError, match=r"(?s)holds no config\.json.*no embedded model"):
        refuse_hopeless(found.trials[:2])


def test_a_folders_shape_is_read_without_its_weights(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    untrained("random-qwen3_vl").config.save_pretrained(base)
    fixed = {"train.unfreeze": ["last_blocks:5"]}
    found = sweep_of(tmp_path, f"model.id={base}", grid={"train.lora.r": [4]}, fixed=fixed)
    with pytest.raises(ConfigError, match="the tower has 4 blocks"):
        refuse_hopeless(found.trials)


def setup_stage(counts: list[str]) -> Stage:
    def run(context: StageContext) -> Outcome:
        counts.append(context.run_folder.name)
        (context.folder / "data.txt").write_text("samples", encoding="utf-8")
        return Outcome()

    return Stage(name="setup", number=1, version=1, run=run, reads=("run.seed", "train.max_length"))


def run_setup(stage: Stage, config: Any, store: RunStore) -> bool:
    """Whether it was cached."""
    (result,) = Runner([stage], config, store, Reporter(), RunOptions(command="test")).run()
    return result.cached


def test_a_trial_takes_a_setup_of_the_same_fingerprint_and_no_other(tmp_path: Path) -> None:
    counts: list[str] = []
    stage = setup_stage(counts)
    found = sweep_of(tmp_path, grid={"train.lora.r": [4, 8], "train.max_length": [1024, 2048]})
    home = RunStore(tmp_path / "outputs", "r")
    run_setup(stage, load_config([], ["train.max_length=2048"]), home)
    stores, cached = [home], []
    for trial in found.trials:
        store = RunStore(tmp_path / "outputs", trial.name)
        sweeping._share_setup(trial, store, stores, stage)
        cached.append(run_setup(stage, trial.config, store))
        stores.append(store)
    assert [t.config.train.max_length for t in found.trials] == [1024, 2048, 1024, 2048]
    assert cached == [False, True, True, True]
    assert counts == ["r", found.trials[0].name]


@pytest.fixture
def broken_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials whose own process refuses to begin."""
    monkeypatch.setattr(
        sweeping, "trial_argv", lambda command, trial: ["sh", "-c", "echo 'error: no'; exit 5"]
    )


@pytest.mark.usefixtures("broken_children")
def test_a_failed_trial_is_a_row_with_its_error_and_the_next_one_runs(tmp_path: Path) -> None:
    found = sweep_of(tmp_path, grid={"train.lora.r": [4, 8]})
    home = RunStore(tmp_path / "outputs", "r")
    stages = {"setup": setup_stage([])}
    rows = list(sweeping.run_trials(found, [], stages, home, tmp_path / "logs", Reporter()))
    assert [row.metric for row in rows] == [None, None]
    assert all("error: no" in str(row.error) for row in rows)
    result = write_sweep(found, rows, tmp_path / "out")
    assert result.as_json()["failed"] == 2
    assert (tmp_path / "out" / "trials.csv").read_text().count("error: no") == 2
    assert not (tmp_path / "out" / "trials.png").exists()


def test_figures_of_the_trials_so_far_are_written_sorted(tmp_path: Path) -> None:
    found = sweep_of(tmp_path, grid={"train.lora.r": [4, 8]})
    rows = [
        TrialRow(1, "a", {"train.lora.r": 4}, None, metric=0.4, interval=(0.3, 0.5)),
        TrialRow(2, "b", {"train.lora.r": 8}, None, metric=0.6, interval=(0.5, 0.7)),
    ]
    write_sweep(found, rows, tmp_path / "out")
    lines = (tmp_path / "out" / "trials.csv").read_text().splitlines()
    assert lines[0].startswith("trial,run,train.lora.r,seed,metric,low,high")
    assert lines[1].startswith("2,b,8,,0.6,0.5,0.7")
    assert (tmp_path / "out" / "trials.png").stat().st_size > 1000
