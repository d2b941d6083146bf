"""`vlmpipe lab`: what the commands print, what they refuse, what they leave behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from road import SETTINGS
from vlmpipe.cli import lab
from vlmpipe.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
TINY, SWEEP = str(ROOT / "configs" / "tiny.yaml"), str(ROOT / "configs" / "sweeps" / "lora.yaml")


def lab_command(*words: str) -> Result:
    return CliRunner().invoke(lab.app, list(words))


def micro(folder: Path, **train: Any) -> list[str]:
    """Options of the smallest run, its outputs under `folder`."""
    settings = json.loads(json.dumps(SETTINGS))
    settings["run"]["outputs_dir"] = str(folder / "outputs")
    settings["train"] |= {"checkpoint_steps": [], **train}
    (folder / "micro.yaml").write_text(json.dumps(settings), encoding="utf-8")
    return ["-c", str(folder / "micro.yaml")]


def test_a_dry_run_lists_the_trials_and_runs_none(tmp_path: Path) -> None:
    words = ["sweep", SWEEP, "-c", TINY, f"run.outputs_dir={tmp_path}", "--dry-run"]
    shown = lab_command(*words)
    assert shown.exit_code == 0
    assert "r=8 alpha=16 targets=attention" in shown.stdout
    assert "12 trials, sorted afterwards by heldout/teds/tuned" in shown.stdout
    found = json.loads(lab_command(*words, "--json").stdout)
    assert len(found["trials"]) == 12
    assert found["trials"][0]["settings"]["train.lora.targets"] == "attention"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lr-find", "--from", "1", "--to", "1e-3"], "--from 1 is not below --to 0.001"),
        (["overfit", "train.lora.rank=4"], "unknown key"),
        (["sweep", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(words: list[str], said: str) -> None:
    refused = lab_command(*words, "-c", TINY)
    assert isinstance(refused.exception, ConfigError)
    assert said in str(refused.exception)


def test_a_ramp_turned_round_is_told_to_be_swapped() -> None:
    refused = lab_command("lr-find", "-c", TINY, "--from", "1", "--to", "1e-6")
    assert isinstance(refused.exception, ConfigError)
    assert refused.exception.remedies == ("swap them: --from 1e-06 --to 1",)
    refused = lab_command("lr-find", "-c", TINY, "--from", "1", "--to", "1")
    assert isinstance(refused.exception, ConfigError)
    assert refused.exception.remedies == ("leave both out: --from 1e-6 --to 1",)


def test_a_sweep_without_hope_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    fixed = {"train.unfreeze": ["last_blocks:99"]}
    file.write_text(json.dumps({"grid": {"train.lora.r": [4]}, "fixed": fixed}), encoding="utf-8")
    refused = lab_command("sweep", str(file), "-c", TINY, f"run.outputs_dir={tmp_path / 'o'}")
    assert isinstance(refused.exception, ConfigError)
    assert "no trial of the sweep can work" in str(refused.exception)
    assert not (tmp_path / "o").exists()


def test_help_and_dry_runs_import_nothing_heavy() -> None:
    program = (
        "import sys; from vlmpipe.cli import lab;"
        f"lab.app(['sweep', {SWEEP!r}, '-c', {TINY!r}, '--dry-run'], standalone_mode=False);"
        "print('heavy:', *sorted({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].strip() == "heavy:", done.stderr


@pytest.mark.slow
def test_a_failed_overfit_exits_5_with_its_causes_and_publishes_only_setup(tmp_path: Path) -> None:
    words = micro(tmp_path, learning_rate=1e-8)
    told = lab_command("overfit", *words, "--samples", "50", "--steps", "6", "--json")
    assert told.exit_code == 5, told.output
    found = json.loads(told.stdout)
    assert found["passed"] is False
    assert found["findings"][0]["cause"] == "the learning rate is too low"
    assert found["answers"][0]["reference"].startswith("<table>")
    assert found["samples"] == found["available"] < found["asked"]["samples"] == 50
    taken = found["samples"]
    assert f"all {taken} training samples are taken: there are no 50" in told.stderr
    run = tmp_path / "outputs" / "micro"
    assert (run / "lab" / "overfit" / "result.json").is_file()
    assert [path.name for path in run.glob("[0-9]_*")] == ["1_setup"]


@pytest.mark.slow
def test_a_sweep_shares_its_setup_goes_on_after_a_failed_trial_and_is_taken_up(
    tmp_path: Path,
) -> None:
    words = micro(tmp_path, max_steps=2)
    grid = {"train.lora.r": [4], "train.max_length": [2048, 16]}
    file = tmp_path / "grid.yaml"
    file.write_text(json.dumps({"grid": grid, "metric": "heldout/loss"}), encoding="utf-8")
    first = lab_command("sweep", str(file), *words, "--json")
    assert first.exit_code == 5, first.output
    found = json.loads(first.stdout)
    good, bad = found["rows"]
    assert good["metric"] > 0
    assert good["trained_parameters"] > 0
    assert good["seconds"] > 0
    assert bad["metric"] is None
    assert "max_length" in bad["error"] or "samples" in bad["error"]
    again = json.loads(lab_command("sweep", str(file), *words, "--json").stdout)
    assert again["rows"][0] == good
    folder = tmp_path / "outputs" / "micro" / "lab" / "sweep" / "grid"
    assert {path.name for path in folder.iterdir()} == {
        "logs",
        "result.json",
        "trials.csv",
        "trials.png",
    }
