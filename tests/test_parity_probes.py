"""The frozen probe set of the parity ladder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlmpipe.config import parse_config
from vlmpipe.data.prepare import prepare_data
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.errors import ArtifactError
from vlmpipe.export.parity.probes import is_on_grid, read_probes, select_probes
from vlmpipe.pipeline.events import SilentReporter

GRID = ImageGrid(patch_size=14, merge_size=2, min_pixels=8 * 28**2, max_pixels=448**2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    config = parse_config(
        {
            "model": {"id": "embedded:random-qwen2_5_vl"},
            "data": {
                "synthetic": {"n": 30, "difficulty": [0.0, 0.1]},
                "heldout_fraction": 0.5,
            },
        }
    )
    prepare_data(config, folder, SilentReporter())
    return folder


def test_probes_are_held_out_and_mostly_off_the_grid(data: Path) -> None:
    probes = select_probes(data, 8, GRID)
    record = probes.record(GRID)
    assert record["count"] == len({each.id for each in probes.samples}) == 8
    assert record["off_grid"] >= 6
    assert record["off_grid"] == sum(not is_on_grid(each, GRID) for each in probes.samples)
    assert select_probes(data, 8, GRID) == probes


def test_probes_are_filled_up_from_training_samples(data: Path) -> None:
    assert len(select_probes(data, 25, GRID).samples) == 25
    assert len(select_probes(data, 500, GRID).samples) == 30


def test_probe_set_is_frozen_by_its_digest(data: Path, tmp_path: Path) -> None:
    probes = select_probes(data, 4, GRID)
    probes.write(tmp_path, GRID)
    assert read_probes(tmp_path, data).digest == probes.digest
    record = json.loads((tmp_path / "probes.json").read_text())
    (tmp_path / "probes.json").write_text(json.dumps({**record, "sha256": "0" * 64}))
    with pytest.raises(ArtifactError, match="are not those that"):
        read_probes(tmp_path, data)
    with pytest.raises(ArtifactError, match="cannot be read as a probe set"):
        read_probes(tmp_path / "nowhere", data)
