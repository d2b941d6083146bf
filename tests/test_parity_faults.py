"""The ladder over real engines, whole and with each part broken on purpose."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import export_models as models
from vlmpipe.config import parse_config
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.engines.llama_cpp import LlamaCppEngine
from vlmpipe.export.gguf.file_set import GgufSet, Wanted, make_files
from vlmpipe.export.gguf.files import Converter, GgufNames
from vlmpipe.export.parity.climb import Climbed, MergedModel, climb_files
from vlmpipe.export.parity.gguf_rungs import Opener, judge, opener
from vlmpipe.export.parity.ladder import write_answers
from vlmpipe.export.parity.merged_rungs import UpperLadder
from vlmpipe.export.parity.merged_rungs import judge as judge_merge
from vlmpipe.export.parity.probes import ProbeSet
from vlmpipe.export.parity.references import ADAPTER, MERGED, Trained
from vlmpipe.export.parity.rung import Answers
from vlmpipe.models.adapter_base import record_adapter_base
from vlmpipe.models.base import read_base, resolve_base
from vlmpipe.models.families import FAMILIES
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.system.llama_cpp import llama_cpp_sources

FAMILY = "qwen2_5_vl"
LIMIT = 1e-4

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Whole:
    """A model that was trained, merged and converted without a fault."""

    root: Path
    trained: Trained
    merged: MergedModel
    made: GgufSet
    contract: PreprocessContract
    probes: ProbeSet

    def converted(self, model: Path, name: str) -> GgufSet:
        """Another folder's files."""
        folder = self.root / name
        folder.mkdir()
        sources = llama_cpp_sources(None, SilentReporter())
        converter = Converter(
            sources, model, FAMILIES[FAMILY], GgufNames(folder, name), self.root / "log"
        )
        return make_files(converter, Wanted({}, ("f16", 1)), SilentReporter())

    def climb(self, open_engine: Opener, scratch: Path) -> Climbed:
        """The lower ladder with these engines; the control is the base's own conversion."""

        def control(folder: Path) -> Opener:
            made = self.converted(self.trained.base.folder, f"base-{scratch.name}")
            return opener({"base": made.paths["f16"]}, made.mmproj, self.contract)

        return climb_files(
            self.merged, ["f16"], open_engine, control, self.probes, scratch, SilentReporter()
        )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    root = tmp_path_factory.mktemp("whole")
    config = parse_config(
        {
            "model": {"id": f"embedded:random-{FAMILY}"},
            "parity": {"max_new_tokens": 4, "max_kld": {"f16": LIMIT, "merged": LIMIT}},
        }
    )
    (root / "setup").mkdir()
    base = resolve_base(config.model, root / "setup")
    models.random_adapter(base.folder, FAMILY, root / "train" / "adapter")
    record_adapter_base(root / "train" / "adapter", base, dtype="bfloat16", quantization=None)
    contract = models.contract_of(FAMILY)
    trained = Trained(config, read_base(root / "setup"), root / "train", contract)
    (root / "merge").mkdir()
    models.merge_into(base.folder, root / "train" / "adapter", root / "merge" / "model", FAMILY)
    nothing = Answers(("",), 0.0)
    write_answers(root / "merge", {ADAPTER: nothing, MERGED: nothing})
    probes = ProbeSet((models.sample_of(FAMILY),), "d")
    empty: Any = None
    whole = Whole(root, trained, MergedModel(root / "merge", trained), empty, contract, probes)
    made = whole.converted(root / "merge" / "model", "gguf")
    return Whole(root, trained, whole.merged, made, contract, probes)


@pytest.fixture
def fault(whole: Whole, tmp_path: Path) -> Callable[..., tuple[str, str, str]]:
    """The failed rung, the part and the culprit that the ladder names for broken engines."""

    def found(open_engine: Opener) -> tuple[str, str, str]:
        climbed = whole.climb(open_engine, tmp_path)
        verdict, diagnosis = judge(climbed.files, climbed.diagnosis), climbed.diagnosis
        assert not verdict.passed
        assert diagnosis is not None
        assert diagnosis["part"] in verdict.reasons[0]
        return climbed.files[0].above.rung, diagnosis["part"], diagnosis["at_fault"]

    return found


def altered(folder: Path, target: Path, key_end: str, factor: float) -> Path:
    """A copy of a model folder with one tensor scaled."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, target)
    path = target / "model.safetensors"
    tensors = load_file(path)
    key = next(key for key in sorted(tensors) if key.endswith(key_end))
    tensors[key] = tensors[key] * factor
    save_file(tensors, path, metadata={"format": "pt"})
    return target


def test_a_whole_model_passes_with_images(whole: Whole, tmp_path: Path) -> None:
    climbed = whole.climb(opener(whole.made.paths, whole.made.mmproj, whole.contract), tmp_path)
    assert judge(climbed.files).passed
    assert climbed.diagnosis is None
    first = climbed.files[0].above
    assert (first.rung, first.against, first.passed) == ("f16", "merged", True)
    assert climbed.runtime is not None
    assert climbed.runtime.limit is None


def test_a_broken_weight_is_found_in_the_text(
    whole: Whole, fault: Callable[..., tuple[str, str, str]], tmp_path: Path
) -> None:
    model = whole.merged.folder / "model"
    broken = altered(model, tmp_path / "m", "layers.0.mlp.down_proj.weight", 3.0)
    made = whole.converted(broken, f"text-{tmp_path.name}")
    found = fault(opener(made.paths, whole.made.mmproj, whole.contract))
    assert found == ("f16", "text", "fine-tune")


def test_a_broken_mmproj_is_found_in_the_vision_features(
    whole: Whole, fault: Callable[..., tuple[str, str, str]], tmp_path: Path
) -> None:
    model = whole.merged.folder / "model"
    broken = altered(model, tmp_path / "m", "merger.mlp.2.weight", 3.0)
    made = whole.converted(broken, f"vision-{tmp_path.name}")
    found = fault(opener(whole.made.paths, made.mmproj, whole.contract))
    assert found == ("f16", "vision features", "fine-tune")


def test_a_broken_template_is_found_in_the_preprocessing(
    whole: Whole, fault: Callable[..., tuple[str, str, str]]
) -> None:
    template = whole.contract.chat_template.replace("'\\n'", "' '").replace("\\n", " ")
    assert template != whole.contract.chat_template
    other = whole.contract.model_copy(update={"chat_template": template, "rendered": {}})
    found = fault(opener(whole.made.paths, whole.made.mmproj, other))
    assert found == ("f16", "preprocessing", "fine-tune")


def test_a_foreign_resize_is_found_in_the_preprocessing(
    whole: Whole, fault: Callable[..., tuple[str, str, str]]
) -> None:
    def unresized(quant: str, resize: Any) -> LlamaCppEngine:
        return opener(whole.made.paths, whole.made.mmproj, whole.contract)(quant, "runtime")

    assert fault(unresized)[:2] == ("f16", "preprocessing")


def test_a_broken_fold_fails_its_own_rung(whole: Whole, tmp_path: Path) -> None:
    model = whole.merged.folder / "model"
    broken = altered(model, tmp_path / "m", "layers.0.mlp.down_proj.weight", 3.0)
    upper = UpperLadder(whole.trained, whole.probes, tmp_path / "scratch")
    verdict = judge_merge(upper.climb(broken, "w16", "bfloat16"))
    assert [reason.startswith("the fold: KL divergence") for reason in verdict.reasons] == [True]
