"""Reading prepared samples back, and naming the files that a configuration refers to."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from data_files import config_for, picture, turns, write_lines
from vlmpipe.config import parse_config
from vlmpipe.data.images import decode_png, encode_png
from vlmpipe.data.prepare import prepare_data
from vlmpipe.data.rows import ROWS_PER_GROUP
from vlmpipe.data.store import SplitSamples, load_split, referenced_files
from vlmpipe.data.stored_images import StoredImage
from vlmpipe.encoding.images import upright_size
from vlmpipe.errors import ArtifactError
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.pipeline.fingerprint import HashIndex

COUNT = 2 * ROWS_PER_GROUP + 5


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> SplitSamples:
    folder = tmp_path_factory.mktemp("store")
    settings = {"n": COUNT, "difficulty": [0, 0.05]}
    config = parse_config({"data": {"synthetic": settings, "heldout_fraction": 0}})
    prepare_data(config, folder, SilentReporter())
    return load_split(folder, "train")


def test_a_split_is_a_sequence(train: SplitSamples) -> None:
    ids = [f"table-42-{number:06d}" for number in range(COUNT)]
    assert len(train) == COUNT
    assert [sample.id for sample in train] == ids == train.column("id")
    assert [train[place].id for place in (0, 15, 16, COUNT - 1, -1)] == [
        ids[place] for place in (0, 15, 16, COUNT - 1, -1)
    ]
    assert [sample.id for sample in train[14:18]] == ids[14:18]
    for place in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError):
            train[place]


def test_pictures_stay_lossless(train: SplitSamples) -> None:
    from vlmpipe.tasks import TASKS

    made = TASKS["table"].generate(20, 42, (0, 0.05))
    assert train[20].images[0].tobytes() == made.images[0].tobytes()
    assert train[20].difficulty == made.difficulty


def test_a_split_can_be_sent_to_another_process(train: SplitSamples) -> None:
    again = pickle.loads(pickle.dumps(train))
    assert len(again) == COUNT
    assert again[3].reference == train[3].reference


def test_missing_and_damaged_files_are_artifact_errors(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read as samples"):
        load_split(tmp_path, "train")
    (tmp_path / "heldout.parquet").write_bytes(b"PAR1 but not really PAR1")
    with pytest.raises(ArtifactError, match=r"heldout\.parquet") as caught:
        load_split(tmp_path, "heldout")
    assert "--force setup" in str(caught.value)


def test_sources_and_their_images_are_listed(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    first = write_lines(
        tmp_path / "s.jsonl",
        {"messages": turns("a.png")},
        {"messages": turns("gone.png")},
        "broken",
        {"messages": turns()},
        {"messages": turns("a.png")},
    )
    (tmp_path / "b").mkdir()
    second = write_lines(tmp_path / "b" / "s.jsonl", {"messages": turns("../a.png")})
    assert referenced_files(config_for(first, second)) == {
        "data.sources[0] s.jsonl": first,
        "data.sources[0] a.png": tmp_path / "a.png",
        "data.sources[0] gone.png": tmp_path / "gone.png",
        "data.sources[1] s.jsonl": second,
        "data.sources[1] ../a.png": tmp_path / "b" / "../a.png",
    }


def test_everything_listed_can_be_hashed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    names = ("pipe.png", "folder.png", "gone.png", "x" * 5000, "a\0b")
    source = write_lines(tmp_path / "s.jsonl", *({"messages": turns(name)} for name in names))
    files = referenced_files(config_for(source, tmp_path / "no.jsonl", tmp_path / "folder.png"))
    index = HashIndex(tmp_path / "hashes.json")
    digests = {name: index.sha256(path) for name, path in files.items()}
    assert digests.pop("data.sources[0] s.jsonl") != "missing"
    assert set(digests.values()) == {"missing", "unreadable"}  # the long name is no name
    assert sorted(name.split()[1][:10] for name in digests) == ["gone.png", "no.jsonl", "x" * 10]


def test_without_sources_nothing_is_referenced() -> None:
    assert referenced_files(parse_config({})) == {}


def test_naming_files_imports_nothing_heavy() -> None:
    program = (
        "import sys; from vlmpipe.data.store import referenced_files;"
        "from vlmpipe.tasks import TASKS; from vlmpipe.config import parse_config;"
        "referenced_files(parse_config({}));"
        "print(sorted({'torch', 'transformers', 'datasets', 'pyarrow', 'jiwer', 'apted', 'lxml'}"
        " & set(sys.modules)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "[]"


def test_preparing_imports_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from vlmpipe.config import parse_config;"
        "from vlmpipe.data.prepare import prepare_data;"
        "from vlmpipe.pipeline.events import SilentReporter;"
        "prepare_data(parse_config({'data': {'task': 'qa'}}), Path(sys.argv[1]), SilentReporter());"
        "print('torch' in sys.modules)"
    )
    argv = [sys.executable, "-c", program, str(tmp_path)]
    told = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


def test_an_image_is_read_when_its_pixels_are_needed_and_not_for_its_size(
    train: SplitSamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    pictures = SplitSamples.pictures
    monkeypatch.setattr(
        SplitSamples, "pictures", lambda self, index: read.append(index) or pictures(self, index)
    )
    sample = train[20]
    (image,) = sample.images
    size, mode = image.size, image.mode
    assert (upright_size(image), read) == ((size[1], size[0]), [])
    stored = decode_png(pictures(train, 20)[0])
    for pixels in (image.tobytes(), np.asarray(image).tobytes(), image.copy().tobytes()):
        assert pixels == stored.tobytes()
    assert (read, image.size, image.mode, mode) == ([20], stored.size, "RGB", "RGB")
    assert train[20] == sample
    for again in (pickle.loads(pickle.dumps(image)), deepcopy(image)):
        assert again.tobytes() == stored.tobytes()


def test_any_thread_may_look_at_images(train: SplitSamples) -> None:
    wanted = [sample.images[0].tobytes() for sample in train]
    order = [place for start in range(ROWS_PER_GROUP) for place in range(start, COUNT, 16)]
    with ThreadPoolExecutor(4) as pool:
        for place, pixels in zip(
            order, pool.map(lambda at: train[at].images[0].tobytes(), order), strict=True
        ):
            assert pixels == wanted[place]


def test_a_damaged_picture_keeps_its_size_and_fails_whenever_its_pixels_are_asked_for() -> None:
    data = encode_png(Image.effect_noise((60, 40), 90).convert("RGB"))
    for bad in (data[:200], encode_png(Image.new("RGB", (40, 60)))):
        image = StoredImage(40, 60, lambda bad=bad: bad)
        assert image.size == (60, 40)
        for _ in range(2):
            with pytest.raises(OSError, match=r"truncated|announced"):
                image.tobytes()


def test_data_of_the_release_before_hold_no_sizes_and_are_still_read(
    train: SplitSamples, tmp_path: Path
) -> None:
    table = parquet.read_table(train.path).drop_columns(["sizes"])
    parquet.write_table(table, tmp_path / "train.parquet", row_group_size=ROWS_PER_GROUP)
    old = load_split(tmp_path, "train")
    assert [sample.images[0].tobytes() for sample in old[14:18]] == [
        sample.images[0].tobytes() for sample in train[14:18]
    ]
