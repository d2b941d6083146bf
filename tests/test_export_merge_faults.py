"""What a merge refuses, survives and leaves behind: each fault with its exit code."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import export_models as models
from merge_folds import fold, in_shards, lazy_bases, rename_keys
from vlmpipe.config import Config, parse_config
from vlmpipe.config.train import QuantizationSection
from vlmpipe.errors import ConfigError, StageError
from vlmpipe.export.merging import merge, safetensors_stream
from vlmpipe.export.merging.merged_model import Merged, write_merged
from vlmpipe.export.merging.safetensors_stream import PARTIAL_SUFFIX, read_header
from vlmpipe.export.merging.weights import INDEX_NAME, Checkpoint, weights_digest
from vlmpipe.models.adapter_base import record_adapter_base
from vlmpipe.models.base import BaseModelFolder, resolve_base
from vlmpipe.models.loading import load_model
from vlmpipe.pipeline.failures import explained

FAMILY = "qwen2_5_vl"


def config_of(base: Path, **merge: str) -> Config:
    return parse_config({"run": {"name": "Demo"}, "model": {"id": str(base)}, "merge": merge})


class Upstream:
    """A base as setup resolves it, and an adapter as train hands it on."""

    def __init__(self, folder: Path, quantization: QuantizationSection | None) -> None:
        base = in_shards(lazy_bases(folder)(FAMILY), folder / "base")
        (folder / "setup").mkdir()
        self.config = config_of(base)
        self.base = resolve_base(self.config.model, folder / "setup")
        self.train = folder / "train"
        models.random_adapter(base, FAMILY, self.train / "adapter")
        record_adapter_base(
            self.train / "adapter", self.base, dtype="bfloat16", quantization=quantization
        )

    def merge(self, target: Path, *, base: BaseModelFolder | None = None, **options: str) -> Merged:
        target.mkdir(parents=True, exist_ok=True)
        contract = models.contract_of(FAMILY)
        train, given = self.train, base or self.base
        return write_merged(self.config, given, train, contract, target, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Upstream:
    return Upstream(tmp_path_factory.mktemp("upstream"), QuantizationSection())


@pytest.fixture
def spoilt(upstream: Upstream, tmp_path: Path) -> Upstream:
    """The same, with an adapter that may be changed."""
    copy = Upstream.__new__(Upstream)
    copy.config, copy.base, copy.train = upstream.config, upstream.base, tmp_path / "train"
    shutil.copytree(upstream.train, copy.train)
    return copy


def test_adapter_for_another_base_is_refused(upstream: Upstream, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(upstream.base.folder, other)
    shard = next(other.glob("*.safetensors"))
    weights = {key: tensor * 1.01 for key, tensor in load_file(shard).items()}
    save_file(weights, shard, metadata={"format": "pt"})
    (tmp_path / "setup").mkdir()
    base = resolve_base(config_of(other).model, tmp_path / "setup")
    with pytest.raises(StageError, match="was trained on another base model") as caught:
        upstream.merge(tmp_path / "merged", base=base)
    assert upstream.base.digest[:12] in caught.value.message
    assert base.digest[:12] in caught.value.message
    assert caught.value.exit_code == 5
    assert list((tmp_path / "merged").iterdir()) == []


@pytest.mark.parametrize("record", [None, "{}", "not json"])
def test_adapter_that_does_not_say_its_base_is_refused(
    spoilt: Upstream, tmp_path: Path, record: str | None
) -> None:
    path = spoilt.train / "adapter/base.json"
    path.unlink()
    if record is not None:
        path.write_text(record)
    with pytest.raises(StageError, match=r"base\.json.* cannot be read"):
        spoilt.merge(tmp_path / "merged")


def test_adapter_of_renamed_modules_is_refused_by_both_names(
    spoilt: Upstream, tmp_path: Path
) -> None:
    weights = spoilt.train / "adapter/adapter_model.safetensors"
    rename_keys(weights, "model.language_model.layers", "model.layers")
    settings = spoilt.train / "adapter/adapter_config.json"
    text = json.loads(settings.read_text())
    text["target_modules"] = r"model\.layers\.\d+\..*_proj"
    settings.write_text(json.dumps(text))
    with pytest.raises(StageError, match="14 trained tensors have no place") as caught:
        spoilt.merge(tmp_path / "merged")
    old, new = "model.layers.0.mlp.down_proj", "model.language_model.layers.0.mlp.down_proj"
    assert f"{old}.weight, which is called {new}.weight now" in caught.value.problems
    assert list((tmp_path / "merged").iterdir()) == []


@pytest.mark.parametrize("cut", [1000, -1000])
def test_truncated_adapter_is_refused(spoilt: Upstream, tmp_path: Path, cut: int) -> None:
    path = spoilt.train / "adapter/adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(StageError, match=r"adapter_model\.safetensors cannot be read") as caught:
        spoilt.merge(tmp_path / "merged")
    assert any("--force train" in remedy for remedy in caught.value.remedies)


@pytest.mark.parametrize("cut", [4, 1000, -1000])
def test_truncated_shard_of_the_base_is_refused(
    upstream: Upstream, tmp_path: Path, cut: int
) -> None:
    base = tmp_path / "base"
    shutil.copytree(upstream.base.folder, base)
    path = sorted(base.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(StageError, match=rf"{path.name} cannot be read") as caught:
        fold(base, upstream.train / "adapter", FAMILY, tmp_path / "merged")
    assert any("--force setup" in remedy for remedy in caught.value.remedies)


def test_shard_that_shrinks_while_it_is_read_is_refused(upstream: Upstream, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(upstream.base.folder, base)
    checkpoint = Checkpoint(base)
    key = max(checkpoint.spans, key=lambda name: checkpoint.spans[name].end)
    shard = next(s for s in checkpoint.shards if key in {span.key for span in s.spans})
    os.truncate(shard.path, checkpoint.spans[key].end - 10)
    with checkpoint.opened(key) as stored, pytest.raises(StageError, match="ended at byte"):
        stored.rows(0, stored.span.rows)


def test_quantised_base_is_refused(upstream: Upstream, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(upstream.base.folder, base)
    path = sorted(base.glob("*.safetensors"))[0]
    weights = load_file(path)
    key = next(name for name, tensor in weights.items() if tensor.dim() == 2)
    save_file({**weights, key: weights[key].to(torch.float8_e4m3fn)}, path)
    with pytest.raises(StageError, match=r"fewer than 16 bits \(F8_E4M3\)|stored as F8_E4M3"):
        fold(base, upstream.train / "adapter", FAMILY, tmp_path / "merged")


def test_adapter_over_16_bit_weights_has_no_4_bit_ones_to_fold_into(
    spoilt: Upstream, tmp_path: Path
) -> None:
    record_adapter_base(spoilt.train / "adapter", spoilt.base, dtype="bfloat16", quantization=None)
    with pytest.raises(ConfigError, match=r"merge\.base=dequant: .*16-bit weights") as caught:
        spoilt.merge(tmp_path / "merged", method="dequant")
    assert {"merge.base=w16", "train.method=qlora"} == {
        remedy.rsplit(" ", 1)[1] for remedy in caught.value.remedies
    }
    assert caught.value.exit_code == 2


def test_both_bases_give_a_folder_that_loads(upstream: Upstream, tmp_path: Path) -> None:
    for method in ("w16", "dequant"):
        merged = upstream.merge(tmp_path / method, method=method)
        config = json.loads((tmp_path / method / "config.json").read_text())
        assert config["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]
        assert (tmp_path / method / "generation_config.json").is_file()
        assert (tmp_path / method / "preprocessor_config.json").is_file()
        assert merged.report.proof is not None
        assert merged.report.proof.digest == weights_digest(tmp_path / method)
        metadata = Checkpoint(tmp_path / method).shards[0].metadata
        assert metadata["vlmpipe.base_digest"] == upstream.base.digest
        assert metadata["vlmpipe.run"] == "Demo"
        load_model(tmp_path / method)


KILLED_HALF_WAY = """
import sys, time
from pathlib import Path
from vlmpipe.export.merging import merge, safetensors_stream
from vlmpipe.export.merging.adapter import read_adapter
from vlmpipe.export.merging.weights import Checkpoint
from vlmpipe.models.families import FAMILIES

publish, done = safetensors_stream.publish_shard, []

def second_never_returns(aside):
    if done:
        print("half", flush=True)
        time.sleep(600)
    done.append(publish(aside))

merge.publish_shard = second_never_returns
base, adapter, target = map(Path, sys.argv[1:])
merge.merge_adapter(Checkpoint(base), FAMILIES["qwen2_5_vl"], read_adapter(adapter), target)
"""


@pytest.mark.slow
def test_merge_that_is_killed_half_way_publishes_nothing_and_can_be_repeated(
    upstream: Upstream, tmp_path: Path
) -> None:
    target, adapter = tmp_path / "merged", upstream.train / "adapter"
    target.mkdir()
    command = [sys.executable, "-c", KILLED_HALF_WAY, str(upstream.base.folder), str(adapter)]
    with subprocess.Popen([*command, str(target)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "half\n"
        os.kill(child.pid, signal.SIGKILL)
    left = {path.name for path in target.iterdir()}
    assert any(name.endswith(PARTIAL_SUFFIX) for name in left)
    assert INDEX_NAME not in left
    shutil.copyfile(upstream.base.folder / INDEX_NAME, target / INDEX_NAME)
    with pytest.raises(StageError, match="lacks"):
        Checkpoint(target)
    (target / INDEX_NAME).unlink()
    upstream.merge(target)
    assert not [path for path in target.iterdir() if path.name.endswith(PARTIAL_SUFFIX)]
    upstream.merge(tmp_path / "afresh")
    assert weights_digest(target) == weights_digest(tmp_path / "afresh")


def test_nothing_is_left_under_a_shards_name_when_its_proof_fails(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prove: Callable[..., object] = merge.prove_shard

    def prove_spoilt(shard: object, path: Path, touched: frozenset[str], lineage: object) -> object:
        span = next(span for span in read_header(path).spans if span.key not in touched)
        with path.open("r+b") as stream:
            stream.seek(span.begin)
            first = stream.read(1)[0]
            stream.seek(span.begin)
            stream.write(bytes([first ^ 1]))
        return prove(shard, path, touched, lineage)

    monkeypatch.setattr(merge, "prove_shard", prove_spoilt)
    with pytest.raises(StageError, match="nothing was trained for"):
        upstream.merge(tmp_path / "merged")
    assert not list((tmp_path / "merged").glob("*.safetensors"))


def test_full_disk_is_told_and_leaves_no_half_written_file(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = safetensors_stream._write_all, []

    def write_until_full(handle: int, content: memoryview) -> None:
        written.append(len(content))
        if sum(written) > 500_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(handle, content)

    monkeypatch.setattr(safetensors_stream, "_write_all", write_until_full)
    with (
        pytest.raises(StageError, match="no space left on the disk") as caught,
        explained("merge", tmp_path, lambda: "vlmpipe merge"),
    ):
        upstream.merge(tmp_path / "merged")
    assert caught.value.exit_code == 5
    assert "then go on with: vlmpipe merge" in caught.value.remedies
    assert list((tmp_path / "merged").iterdir()) == []
