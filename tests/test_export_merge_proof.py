"""What a merge proves from the files that it wrote, and what it refuses to have proven."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import export_models as models
from merge_folds import fold, in_shards, lazy_bases
from vlmpipe.errors import StageError
from vlmpipe.export.merging.adapter import read_adapter
from vlmpipe.export.merging.plan import Plan, plan_adapter
from vlmpipe.export.merging.proof import MergeProof, prove_merge, prove_shard
from vlmpipe.export.merging.rewrite import BLOCK_VALUES, row_blocks
from vlmpipe.export.merging.safetensors_stream import read_header
from vlmpipe.export.merging.weights import Checkpoint
from vlmpipe.models.families import FAMILIES

FAMILY = "qwen2_5_vl"


class Folded:
    """A finished merge, to be proven again after something was done to its files."""

    def __init__(self, base: Path, adapter: Path, folder: Path) -> None:
        self.base, self.adapter, self.folder = base, adapter, folder

    @property
    def plan(self) -> Plan:
        return plan_adapter(
            Checkpoint(self.base), FAMILIES[FAMILY], read_adapter(self.adapter), None
        )

    def prove(self, plan: Plan | None = None, used: Counter[str] | None = None) -> MergeProof:
        """The whole proof, over the files as they are now."""
        plan = plan or self.plan
        base, result = Checkpoint(self.base), Checkpoint(self.folder)
        pairs = zip(base.shards, result.shards, strict=True)
        touched, lineage = frozenset(plan.changes), {"vlmpipe.run": "a run"}
        shards = [prove_shard(old, new.path, touched, lineage) for old, new in pairs]
        return prove_merge(base, result, plan, shards, used or Counter(plan.adapter_keys))

    def flip(self, key: str, byte: int = 1) -> None:
        """Turn over one bit of a tensor's stored bytes."""
        result = Checkpoint(self.folder)
        shard = next(s for s in result.shards if key in {span.key for span in s.spans})
        with shard.path.open("r+b") as stream:
            stream.seek(result.spans[key].begin + byte)
            old = stream.read(1)[0]
            stream.seek(-1, 1)
            stream.write(bytes([old ^ 0x40]))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Folded:
    root = tmp_path_factory.mktemp("finished")
    base = in_shards(lazy_bases(root)(FAMILY), root / "base")
    models.random_adapter(base, FAMILY, root / "adapter")
    fold(base, root / "adapter", FAMILY, root / "merged")
    return Folded(base, root / "adapter", root / "merged")


@pytest.fixture
def folded(finished: Folded, tmp_path: Path) -> Folded:
    """A copy whose files may be spoilt."""
    shutil.copytree(finished.folder, tmp_path / "merged")
    return Folded(finished.base, finished.adapter, tmp_path / "merged")


def adapted(part: str, plan: Plan) -> str:
    return next(key for key in sorted(plan.adapted) if part in key)


def test_proof_counts_what_was_done(finished: Folded) -> None:
    proof, tensors = finished.prove(), len(Checkpoint(finished.base).keys)
    assert proof.expected == proof.changed == 14
    assert proof.untouched == tensors - 14
    assert proof.adapter_keys == 28
    assert proof.recomputed_tensors == 14
    assert 0.5 < proof.worst_rounding <= 1


def test_spoilt_tensor_that_was_to_stay_is_found(folded: Folded) -> None:
    folded.flip("visual.merger.mlp.0.weight")
    with pytest.raises(StageError, match="nothing was trained for") as caught:
        folded.prove()
    assert caught.value.problems == ("visual.merger.mlp.0.weight",)


def test_spoilt_update_is_found(folded: Folded) -> None:
    folded.flip(adapted("layers.1.mlp.down_proj", folded.plan))
    with pytest.raises(StageError, match=r"layers\.1\.mlp\.down_proj.*departs by"):
        folded.prove()


def test_update_of_another_scale_is_found(folded: Folded) -> None:
    plan, key = folded.plan, adapted("layers.0.self_attn.q_proj", folded.plan)
    change = plan.changes[key]
    assert change.factors is not None
    other = replace(change, factors=replace(change.factors, scale=change.factors.scale * 1.5))
    with pytest.raises(StageError, match=r"q_proj.*departs by"):
        folded.prove(replace(plan, changes={**plan.changes, key: other}))


def test_adapted_tensor_that_is_still_the_bases_is_found(folded: Folded) -> None:
    key = adapted("layers.0.mlp.up_proj", folded.plan)
    base, result = Checkpoint(folded.base), Checkpoint(folded.folder)
    shard = next(s.path for s in result.shards if key in {span.key for span in s.spans})
    with base.opened(key) as stored, shard.open("r+b") as stream:
        stream.seek(result.spans[key].begin)
        values = stored.rows(0, stored.span.rows).contiguous()
        stream.write(values.view(torch.uint8).numpy().tobytes())
    with pytest.raises(StageError, match="13 tensors changed where 14") as caught:
        folded.prove()
    assert caught.value.problems == (f"{key}: was to change and did not",)


def test_adapter_key_that_was_used_twice_or_never_is_found(finished: Folded) -> None:
    keys = sorted(finished.plan.adapter_keys)
    used = Counter({**dict.fromkeys(keys[2:], 1), keys[1]: 2})
    with pytest.raises(StageError, match="2 of the adapter's 28 tensors") as caught:
        finished.prove(used=used)
    assert caught.value.problems == (f"{keys[0]}: used 0 times", f"{keys[1]}: used 2 times")


def test_other_layout_is_found(folded: Folded) -> None:
    shard = read_header(Checkpoint(folded.folder).shards[0].path)
    text = shard.path.read_bytes()
    shard.path.write_bytes(text.replace(b'"part":"0"', b'"part":"7"', 1))
    with pytest.raises(StageError, match="is not laid out as the base's"):
        folded.prove()


def test_lineage_that_is_not_in_the_files_is_found(folded: Folded) -> None:
    shard = read_header(Checkpoint(folded.folder).shards[0].path)
    text = shard.path.read_bytes()
    shard.path.write_bytes(text.replace(b'"a run"', b'"A run"', 1))
    with pytest.raises(StageError, match="is not laid out as the base's"):
        folded.prove()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_conversion_of_the_whole_base_is_proven_too(
    finished: Folded, tmp_path: Path, dtype: str
) -> None:
    report = fold(finished.base, finished.adapter, FAMILY, tmp_path / "merged", dtype=dtype)
    assert report.proof is not None
    assert report.dtype == dtype
    assert report.base_was_rounded == (dtype == "float16")
    assert report.proof.changed == 14
    assert report.proof.worst_rounding <= 1


def test_files_carry_where_they_come_from(finished: Folded) -> None:
    for shard in Checkpoint(finished.folder).shards:
        assert shard.metadata["format"] == "pt"
        assert shard.metadata["vlmpipe.run"] == "a run"


def test_merged_model_is_a_base_to_merge_into_again(finished: Folded, tmp_path: Path) -> None:
    adapter, target = tmp_path / "adapter", tmp_path / "merged"
    models.random_adapter(finished.folder, FAMILY, adapter)
    report = fold(finished.folder, adapter, FAMILY, target, run="the next run")
    assert report.proof is not None
    assert report.proof.changed == 14
    for number, shard in enumerate(Checkpoint(target).shards):
        assert shard.metadata["vlmpipe.run"] == "the next run"
        assert shard.metadata["part"] == str(number)


@pytest.fixture
def without_kernel_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "copy_file_range", refuse)


@pytest.mark.usefixtures("without_kernel_copy")
def test_bytes_are_copied_where_the_kernel_cannot(finished: Folded, tmp_path: Path) -> None:
    fold(finished.base, finished.adapter, FAMILY, tmp_path / "merged")
    for shard in Checkpoint(finished.folder).shards:
        assert (tmp_path / "merged" / shard.path.name).read_bytes() == shard.path.read_bytes()


def test_tensors_in_two_files_without_an_index_are_refused(
    finished: Folded, tmp_path: Path
) -> None:
    shutil.copytree(finished.base, tmp_path / "base")
    (tmp_path / "base/model.safetensors.index.json").unlink()
    first = next((tmp_path / "base").glob("*.safetensors"))
    shutil.copyfile(first, tmp_path / "base/copy.safetensors")
    with pytest.raises(StageError, match="in more than one file"):
        Checkpoint(tmp_path / "base")


def test_index_that_points_outside_its_folder_is_refused(finished: Folded, tmp_path: Path) -> None:
    shutil.copytree(finished.base, tmp_path / "base")
    index = {"weight_map": {"a": "../elsewhere.safetensors"}}
    (tmp_path / "base/model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(StageError, match="outside its folder"):
        Checkpoint(tmp_path / "base")


def test_memory_does_not_grow_with_the_tensor(finished: Folded) -> None:
    span = replace(next(iter(Checkpoint(finished.base).spans.values())), shape=(152_064, 8192))
    blocks = list(row_blocks(span))
    assert max((end - begin) * span.row_values for begin, end in blocks) <= BLOCK_VALUES
    assert [begin for begin, _ in blocks[1:]] == [end for _, end in blocks[:-1]]
    assert (blocks[0][0], blocks[-1][1]) == (0, span.rows)
