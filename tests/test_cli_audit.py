"""`vlmpipe audit model`: every audit of a prepared run, all faults together, nothing trained."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vlmpipe.cli import app, audit
from vlmpipe.config.train import TrainConfig
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.errors import ArtifactError, StageError
from vlmpipe.models.families import Family
from vlmpipe.stages import s1_setup
from vlmpipe.training.audits.cache_folder import audit_cache_folder

WORDS = [
    "model.id=embedded:random-qwen2_5_vl",
    "data.synthetic.n=12",
    "data.synthetic.difficulty=[0.0, 0.1]",
    "train.max_steps=2",
    "train.max_length=4096",
    "train.on_empty_phase=widen",
    'train.curriculum=[{"name": "small", "max_size": [112, 112]},'
    ' {"name": "large", "max_size": [168, 224], "unfreeze": ["merger"]}]',
]
UNPREFIXED = property(lambda self: ["visual", "lm_head"])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs folder of a run whose setup is done, the llama.cpp sources aside."""
    folder = tmp_path_factory.mktemp("audited")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        sources = SimpleNamespace(version="0", commit="0")
        patch.setattr(s1_setup, "llama_cpp_sources", lambda *args: sources)
        assert app.run(["setup", *WORDS, "run.name=here"]) == 0
    return folder


@pytest.fixture
def at(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(prepared)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that it is put back
    monkeypatch.setenv("COLUMNS", "120")
    return prepared


def audited(*words: str) -> int:
    """Exit code of `vlmpipe audit model` on the prepared run; an expected error is raised."""
    argv = ["model", *WORDS, "run.name=here", *words]
    return int(audit.app(args=argv, standalone_mode=False) or 0)


@pytest.mark.slow
def test_a_sound_run_is_shown_and_passes(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audited() == 0
    shown = capsys.readouterr().out
    for part in ("language layers", "norms", "embeddings", "tower", "merger", "head", "adapter"):
        assert part in shown
    assert "nf4" in shown
    assert "LoRA in layers 0 to 1: 7 modules each" in shown
    assert "model.language_model.layers.0.self_attn.q_proj" in shown
    assert "phase small: " in shown
    assert "<|im_end|>'" in shown
    assert "image tokens: " in shown
    # The second phase opens the merger: its gradients are looked at by themselves.
    assert "lora_A" in shown
    assert "weights" in shown
    assert "fault" not in shown
    assert not (at / "outputs" / "here" / "2_train").exists()


@pytest.mark.slow
def test_as_json_it_is_one_object(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audited("--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True
    assert [check["name"] for check in found["checks"]] == [
        "samples and phases",
        "masks of phase small",
        "masks of phase large",
        "image tokens",
        "precision and targets",
        "packing",
        "features of the tower",
        "largest batch of phase small",
        "largest batch of phase large",
        "gradients of phase small",
        "gradients of phase large",
    ]
    kinds = {group["kind"] for group in found["gradients"]["large"]["groups"]}
    assert kinds == {"lora_A", "lora_B", "weights"}
    assert found["census"]["targets"]["per_layer"] == [7, 7]
    assert "error" not in found


@pytest.mark.slow
def test_faults_of_samples_and_model_are_told_together(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels_of = Encoder._labels

    def late(self: Encoder, ids: Any, is_answer: Any, scope: Any) -> Any:
        return labels_of(self, ids, [False, *is_answer[:-1]], scope)

    monkeypatch.setattr(Encoder, "_labels", late)
    monkeypatch.setattr(Family, "unquantized_modules", UNPREFIXED)
    with pytest.raises(StageError, match="3 of 5 audits found a fault") as caught:
        audited()
    assert caught.value.exit_code == 5
    told = "\n".join(caught.value.problems)
    assert "masks of phase small: the loss mask of sample" in told
    assert "masks of phase large: the loss mask of sample" in told
    assert "precision and targets: model.visual." in told
    assert any("train.method=lora" in remedy for remedy in caught.value.remedies)
    shown = capsys.readouterr().out
    assert "fault masks of phase small" in shown
    assert "ok    image tokens" in shown

    assert audited("--json") == 5
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is False
    assert found["error"]["exit_code"] == 5


@pytest.mark.slow
def test_a_sample_that_is_too_long_does_not_keep_the_model_from_being_audited(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StageError) as caught:
        audited("train.max_length=40")
    assert "longer than train.max_length=40" in "\n".join(caught.value.problems)
    shown = capsys.readouterr().out
    assert "note: taking setup as it is" in shown
    assert "ok    precision and targets" in shown


@pytest.mark.slow
@pytest.mark.parametrize("length", [90, 40])
def test_lengths_packing_and_cache_folder_are_told_together(
    length: int, at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (at / "a_file").write_text("no folder", encoding="utf-8")
    with pytest.raises(StageError, match="3 of 12 audits found a fault") as caught:
        audited(
            f"train.max_length={length}",
            "model.attn_implementation=eager",
            "train.packing=on",
            "train.vision_cache=disk",
            "train.vision_cache_folder=a_file/features",
        )
    told = "\n".join(caught.value.problems)
    assert f"longer than train.max_length={length}" in told
    assert "packing: train.packing=on is not possible" in told
    assert "folder of the vision cache: the folder for features of images" in told
    assert any("train.vision_cache_folder=" in remedy for remedy in caught.value.remedies)
    assert "ok    gradients of phase large" in capsys.readouterr().out


@pytest.mark.slow
def test_parts_that_the_tower_has_not_are_a_fault_among_others(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StageError, match="2 of 5 audits") as caught:
        audited('train.unfreeze=["last_blocks:99"]', "train.max_length=40")
    told = "\n".join(caught.value.problems)
    assert "precision and targets: " in told
    assert "last_blocks:99" in told


def test_a_cache_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    settings = TrainConfig(vision_cache="disk", vision_cache_folder=tmp_path / "a" / "b")
    assert audit_cache_folder(settings) == tmp_path / "a" / "b"
    assert list(tmp_path.iterdir()) == []


def test_without_setup_it_says_the_command(at: Path) -> None:
    with pytest.raises(ArtifactError, match="no prepared samples yet") as caught:
        audit.app(args=["model", "run.name=absent"], standalone_mode=False)
    assert caught.value.remedies == ("prepare them: vlmpipe setup run.name=absent",)
