"""Conversion gone wrong: a flipped byte, a failing converter, a full disk; what is told of it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from road import Finished, Road
from serving_models import Conversions
from vlmpipe.errors import ToolError
from vlmpipe.export.gguf.files import Converter, GgufFile, GgufNames
from vlmpipe.export.gguf.header import read_header
from vlmpipe.export.gguf.quants import known_quants
from vlmpipe.models.families import FAMILIES
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.system.llama_cpp import llama_cpp_sources

pytestmark = pytest.mark.slow

BROKEN_CONVERTER = """
raise SystemExit("KeyError: no such tensor: model.language_model.layers.0")
"""


def flip_last_byte(path: Path) -> None:
    """Damage in a weight, which no header shows."""
    with path.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        last = stream.read(1)[0]
        stream.seek(-1, os.SEEK_END)
        stream.write(bytes([last ^ 1]))


@pytest.mark.parametrize("which", ["q8_0", "mmproj"])
def test_a_flipped_byte_in_a_gguf_file_is_refused_by_name_by_who_reads_it(
    which: str, finished_run: tuple[Road, Finished], tmp_path: Path
) -> None:
    road = finished_run[0].copy(tmp_path)
    [damaged] = (road.stage("convert") / "gguf").glob(f"*{which}*.gguf")
    flip_last_byte(damaged)
    for command in (["status"], ["deploy", "--force"], ["run-all"]):
        refused = road.run(*command, code=4)
        assert f"5_convert/v001/gguf/{damaged.name}: sha256" in refused.stderr
        assert "--force convert" in refused.stderr
    assert road.versions("deploy") == ["v001"]


def test_a_flipped_byte_in_a_served_file_is_refused_before_it_is_served(
    finished_run: tuple[Road, Finished], tmp_path: Path
) -> None:
    road = finished_run[0].copy(tmp_path)
    [served] = (road.stage("deploy") / "bundle" / "model").glob("*q8_0.gguf")
    flip_last_byte(served)
    refused = road.run("serve", "deploy.port=0", code=4)
    assert f"6_deploy/v001/bundle/model/{served.name}: sha256" in refused.stderr


def test_a_failing_converter_ends_the_run_with_its_last_words_and_its_log(
    finished_run: tuple[Road, Finished], tmp_path: Path
) -> None:
    road = finished_run[0].copy(tmp_path)
    published = road.published()
    checkout = tmp_path / "llama.cpp"
    checkout.mkdir()
    (checkout / "convert_hf_to_gguf.py").write_text(BROKEN_CONVERTER)
    failed = road.run("convert", f"convert.llama_cpp_dir={checkout}", code=6)
    assert "no such tensor: model.language_model.layers.0" in failed.stderr
    logs = {Path(word) for word in failed.stderr.split() if word.endswith(".log")}
    assert logs
    assert all("no such tensor" in log.read_text(encoding="utf-8") for log in logs)
    assert road.published() == published
    road.run("status", "--verify")


def test_types_that_cannot_be_made_are_refused_before_anything_runs(tmp_path: Path) -> None:
    road = Road(tmp_path)
    refusals = {
        'convert.quants=["q4_k_n"]': "did you mean q4_k_",
        'convert.quants=["iq2_xs"]': "convert.imatrix=true",
        "convert.mmproj_type=q8_1": "did you mean q8_0",
    }
    for setting, remedy in refusals.items():
        refused = road.run("run-all", setting, code=2)
        assert remedy in refused.stderr
    assert not road.folder.exists() or not road.published()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of three megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, *options], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here: not the superuser")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_told_apart_from_a_fault_of_the_tools(
    small_disk: Path, conversions: Conversions, tmp_path: Path
) -> None:
    tiny = conversions.of("tiny")
    sources = llama_cpp_sources(None, SilentReporter())
    names = GgufNames(small_disk, "demo")
    tools = Converter(sources, tiny.model, FAMILIES["qwen2_5_vl"], names, tmp_path / "log")
    source = GgufFile(tiny.gguf, read_header(tiny.gguf, sources))
    with pytest.raises(OSError, match="No space left") as converting:
        tools.convert("f16")
    with pytest.raises(OSError, match="No space left") as quantising:
        tools.quantise(source, "q8_0", known_quants(["q8_0"])["q8_0"], 1)
    assert {converting.value.errno, quantising.value.errno} == {errno.ENOSPC}


def test_a_converter_that_fails_on_a_disk_with_room_is_the_tools_fault(
    conversions: Conversions, tmp_path: Path
) -> None:
    tiny = conversions.of("tiny")
    model = Path(shutil.copytree(tiny.model, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "architectures": ["NoSuchModel"]}))
    sources = llama_cpp_sources(None, SilentReporter())
    names = GgufNames(tmp_path, "demo")
    tools = Converter(sources, model, FAMILIES["qwen2_5_vl"], names, tmp_path / "log")
    with pytest.raises(ToolError, match="ended with exit code 1"):
        tools.convert("f16")
