"""Preparing data: sources and generator, bad samples, the files that come out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_files import SHARED_DATA, config_for, picture, png_header, turns, write_lines
from vlmpipe.config import parse_config
from vlmpipe.data.prepare import LISTED, prepare_data
from vlmpipe.data.store import load_split
from vlmpipe.encoding.conversation import Sample
from vlmpipe.errors import BadSamplesError, ConfigError
from vlmpipe.pipeline.events import SilentReporter


class Listener(SilentReporter):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.finished = 0

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress_done(self) -> None:
        self.finished += 1


def colour(number: int) -> tuple[int, int, int]:
    return (number * 17 % 256, number * 31 % 256, number * 53 % 256)


def good_file(folder: Path, count: int = 6, name: str = "samples.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    lines = []
    for number in range(count):
        picture(folder / f"{number}.png", colour(number))
        lines.append({"messages": turns(f"{number}.png", answer=f"answer {number}"), "id": number})
    return write_lines(folder / name, *lines)


def faulty_file(folder: Path) -> Path:
    """Two good samples among nine bad ones; the bad ones are lines 2 to 10."""
    picture(folder / "good.png")
    Image.effect_noise((200, 200), 90).save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:3000])
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("hello")
    png_header(folder / "bomb.png", 60_000, 60_000)
    images = ("gone.png", "cut.jpg", "empty.png", "bomb.png", "text.png")
    return write_lines(
        folder / "samples.jsonl",
        {"messages": turns("good.png")},
        *({"messages": turns(image)} for image in images),
        '{"messages": ',
        {"messages": [{"role": "robot", "content": "hi"}]},
        {"messages": turns("good.png")[:1]},
        {"messages": turns("good.png", answer="")},
        {"messages": turns(question="1+1?")},
    )


EXPECTED_FAULTS = {
    2: "image gone.png: missing",
    3: "image cut.jpg: damaged: ",
    4: "image empty.png: empty (0 bytes)",
    5: "image bomb.png: claims 3,600,000,000 pixels, above data.max_image_pixels",
    6: "image text.png: not an image of a known format",
    7: "not valid JSON",
    8: "message 1 has role 'robot'",
    9: "no assistant answer",
    10: "the answer is empty",
}


def prepared(folder: Path, *sources: Path, **data: Any) -> list[list[Sample]]:
    prepare_data(config_for(*sources, **data), folder, SilentReporter())
    return [list(load_split(folder, "train")), list(load_split(folder, "heldout"))]


def test_every_fault_is_named_by_file_and_line(tmp_path: Path) -> None:
    source = faulty_file(tmp_path)
    with pytest.raises(BadSamplesError) as caught:
        prepare_data(config_for(source), tmp_path / "out", SilentReporter())
    error = caught.value
    assert error.exit_code == 5
    assert error.message == "9 of 11 samples cannot be used"
    assert "data.on_bad_sample=skip" in str(error)
    assert len(error.problems) == len(EXPECTED_FAULTS)
    for problem, (line, words) in zip(error.problems, EXPECTED_FAULTS.items(), strict=True):
        assert problem.startswith(f"{source}:{line}: {words}")
    assert list((tmp_path / "out").iterdir()) == []


def test_skipping_counts_and_lists_what_was_left_out(tmp_path: Path) -> None:
    source, listener = faulty_file(tmp_path), Listener()
    config = config_for(source, on_bad_sample="skip")
    summary = prepare_data(config, tmp_path / "out", listener)
    data = json.loads((tmp_path / "out" / "data.json").read_text())
    assert summary.skipped == data["skipped"] == 9
    assert data["problems"] == list(summary.problems)
    assert data["problems"][0] == f"{source}:2: image gone.png: missing"
    assert summary.train.samples + summary.heldout.samples == 2
    assert data["sources"][0]["samples"] == 2
    assert listener.notes == ["9 bad samples left out, listed in data.json"]
    assert listener.finished == 1


@pytest.mark.parametrize("mode", ["refuse", "skip"])
def test_a_file_in_another_form_is_told_what_the_form_is(tmp_path: Path, mode: str) -> None:
    source = tmp_path / "array.json"
    source.write_text(json.dumps([{"messages": []}], indent=1))
    with pytest.raises(BadSamplesError) as caught:
        prepare_data(config_for(source, on_bad_sample=mode), tmp_path / "out", SilentReporter())
    assert any("one JSON object" in remedy for remedy in caught.value.remedies)


def test_many_problems_are_listed_in_part(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "s.jsonl", *["nonsense"] * 50)
    with pytest.raises(BadSamplesError) as caught:
        prepare_data(config_for(source), tmp_path / "out", SilentReporter())
    assert len(caught.value.problems) == LISTED + 1
    assert caught.value.problems[-1] == "and 30 more, all in the log"


def test_a_full_list_goes_to_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write_lines(tmp_path / "s.jsonl", *["nonsense"] * 30)
    with pytest.raises(BadSamplesError):
        prepare_data(config_for(source), tmp_path / "out", SilentReporter())
    assert sum("not valid JSON" in record.getMessage() for record in caplog.records) == 30


@pytest.mark.parametrize("mode", ["refuse", "skip"])
def test_a_file_without_a_usable_sample_is_refused(tmp_path: Path, mode: str) -> None:
    source = write_lines(tmp_path / "s.jsonl", "")
    with pytest.raises(BadSamplesError, match="no usable sample"):
        prepare_data(config_for(source, on_bad_sample=mode), tmp_path / "out", SilentReporter())


def test_sources_that_are_not_there_are_named_together(tmp_path: Path) -> None:
    config = config_for(tmp_path / "gone.jsonl", good_file(tmp_path), tmp_path)
    with pytest.raises(ConfigError) as caught:
        prepare_data(config, tmp_path / "out", SilentReporter())
    assert [problem.split(" ")[0] for problem in caught.value.problems] == [
        "data.sources[0].path",
        "data.sources[2].path",
    ]
    assert "No such file" in caught.value.problems[0]
    assert "not a file" in caught.value.problems[1]


def test_the_hook_refuses_samples_too_long_for_the_context(tmp_path: Path) -> None:
    source = good_file(tmp_path / "in")

    def too_long(sample: Sample) -> str | None:
        width = sample.images[0].width
        return f"takes {width} tokens, above 2048" if sample.reference.endswith("3") else None

    with pytest.raises(BadSamplesError) as caught:
        prepare_data(config_for(source), tmp_path / "out", SilentReporter(), too_long)
    assert caught.value.problems == (f"{source}:4: takes 40 tokens, above 2048",)


def test_a_text_only_model_refuses_images_by_name(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    source = write_lines(tmp_path / "s.jsonl", {"messages": turns()}, {"messages": turns("a.png")})
    with pytest.raises(BadSamplesError) as caught:
        prepare_data(config_for(source), tmp_path / "out", SilentReporter(), wants_images=False)
    assert caught.value.problems == (f"{source}:2: holds an image, and the model reads text only",)


def test_a_text_only_model_refuses_a_generator_of_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.task 'table' generates images") as caught:
        prepare_data(parse_config({}), tmp_path, SilentReporter(), wants_images=False)
    assert "data.task=qa" in str(caught.value)


def test_samples_come_back_as_they_were_given(tmp_path: Path) -> None:
    source = good_file(tmp_path / "in")
    train, heldout = prepared(tmp_path / "out", source)
    assert (len(train), len(heldout)) == (5, 1)
    by_id = {sample.id: sample for sample in [*train, *heldout]}
    assert sorted(by_id) == [str(number) for number in range(6)]
    third = by_id["3"]
    assert third.reference == "answer 3"
    assert third.messages[0].text == "Read it."
    assert third.origin == f"{source.name}:4"
    with Image.open(tmp_path / "in" / "3.png") as original:
        assert third.images[0].tobytes() == original.tobytes()


def test_order_is_kept_and_ids_are_made_unique(tmp_path: Path) -> None:
    line = {"messages": turns()}
    lines = [{**line, "messages": turns(question=f"{n}?")} for n in range(3)]
    lines[1]["id"] = lines[2]["id"] = "same"
    source = write_lines(tmp_path / "s.jsonl", *lines)
    train, _ = prepared(tmp_path / "out", source, heldout_fraction=0)
    assert [sample.id for sample in train] == ["s:1", "same", "same#2"]


def test_tasks_come_from_the_sample_then_the_source_then_the_config(tmp_path: Path) -> None:
    own = write_lines(
        tmp_path / "own.jsonl",
        {"messages": turns(question="1?"), "task": "receipt"},
        {"messages": turns(question="2?")},
    )
    config = parse_config(
        {
            "data": {
                "sources": [{"path": str(own), "task": "qa"}, {"path": str(own)}],
                "heldout_fraction": 0,
            }
        }
    )
    listener = Listener()
    prepare_data(config, tmp_path / "out", listener)
    tasks = load_split(tmp_path / "out", "train").column("task")
    assert tasks == ["receipt", "qa", "receipt", "table"]
    assert listener.notes == ["answers of task receipt are measured as plain text"]


def test_weights_are_kept_and_sources_recorded(tmp_path: Path) -> None:
    first, second = good_file(tmp_path / "a", 3), good_file(tmp_path / "b", 2)
    config = parse_config(
        {
            "data": {
                "sources": [{"path": str(first), "weight": 2.5}, {"path": str(second)}],
                "heldout_fraction": 0,
            }
        }
    )
    summary = prepare_data(config, tmp_path / "out", SilentReporter())
    assert load_split(tmp_path / "out", "train").column("weight") == [2.5] * 3 + [1.0] * 2
    assert summary.sources[0] == {
        "path": str(first),
        "sha256": hashlib.sha256(first.read_bytes()).hexdigest(),
        "weight": 2.5,
        "samples": 3,
    }


def test_max_samples_takes_the_first_usable_ones(tmp_path: Path) -> None:
    source = faulty_file(tmp_path)
    config = config_for(source, on_bad_sample="skip", max_samples=2, heldout_fraction=0)
    prepare_data(config, tmp_path / "out", SilentReporter())
    assert len(load_split(tmp_path / "out", "train")) == 2
    train, heldout = prepared(tmp_path / "few", good_file(tmp_path / "in"), max_samples=3)
    assert sorted(sample.id for sample in [*train, *heldout]) == ["0", "1", "2"]


def test_the_same_picture_never_stands_on_both_sides(tmp_path: Path) -> None:
    picture(tmp_path / "same.png")
    with Image.open(tmp_path / "same.png") as image:
        image.save(tmp_path / "copy.bmp")
    lines = []
    for number in range(12):
        picture(tmp_path / f"{number}.png", colour(number))
        name = {3: "same.png", 7: "copy.bmp"}.get(number, f"{number}.png")
        lines.append({"messages": turns(name, question=f"{number}?"), "id": str(number)})
    source = write_lines(tmp_path / "s.jsonl", *lines)
    sides = set()
    for seed in range(12):
        config = parse_config(
            {
                "run": {"seed": seed},
                "data": {"sources": [{"path": str(source)}], "heldout_fraction": 0.5},
            }
        )
        prepare_data(config, tmp_path / "out", SilentReporter())
        held = set(load_split(tmp_path / "out", "heldout").column("id"))
        assert ("3" in held) == ("7" in held)
        assert len(held) == 6
        sides.add("3" in held)
    assert sides == {True, False}


def test_generated_tables_are_split_and_described(tmp_path: Path) -> None:
    config = parse_config({"data": {"synthetic": {"n": 10, "difficulty": [0, 0.2]}}})
    summary = prepare_data(config, tmp_path, SilentReporter())
    assert (summary.train.samples, summary.heldout.samples) == (8, 2)
    assert summary.train.tasks == {"table": 8}
    assert summary.train.images == 8
    train = load_split(tmp_path, "train")
    assert all(each <= 0.2 for each in train.column("difficulty"))
    assert {sample.images[0].mode for sample in train} == {"RGB"}


def test_core_questions_are_always_trained_on_and_repeats_left_out(tmp_path: Path) -> None:
    for seed in range(3):
        listener = Listener()
        config = parse_config({"run": {"seed": seed}, "data": {"task": "qa"}})
        summary = prepare_data(config, tmp_path / "out", listener, wants_images=False)
        ids = load_split(tmp_path / "out", "train").column("id")
        assert ids[:5] == ["core-python", "core-ml", "core-web", "core-docker", "core-git"]
        assert (summary.train.samples, summary.heldout.samples) == (24, 6)
        assert listener.notes == ["34 of 64 generated samples repeated others and were left out"]


def test_five_core_questions_alone_hold_nothing_out_and_say_so(tmp_path: Path) -> None:
    listener = Listener()
    config = parse_config({"data": {"task": "qa", "synthetic": {"n": 5}}})
    summary = prepare_data(config, tmp_path, listener)
    assert (summary.train.samples, summary.heldout.samples) == (5, 0)
    assert len(load_split(tmp_path, "heldout")) == 0
    assert listener.notes[0].startswith("nothing could be held out")


def test_the_same_configuration_gives_the_same_bytes(tmp_path: Path) -> None:
    source = good_file(tmp_path / "in")
    for data in ({"sources": [{"path": str(source)}]}, {"synthetic": {"n": 6}}):
        digests = []
        for attempt in range(2):
            folder = tmp_path / f"out{attempt}"
            prepare_data(parse_config({"data": data}), folder, SilentReporter())
            files = sorted(folder.iterdir())
            digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
        assert [path.name for path in files] == ["data.json", "heldout.parquet", "train.parquet"]
        assert digests[0] == digests[1]


def test_no_column_is_named_as_trl_names_its_images(tmp_path: Path) -> None:
    from pyarrow import parquet

    prepared(tmp_path / "out", good_file(tmp_path / "in"))
    names = parquet.read_schema(tmp_path / "out" / "train.parquet").names
    assert not {"image", "images"} & set(names)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the shared sample data is not here")
def test_real_sources_are_prepared_without_a_bad_sample(tmp_path: Path) -> None:
    sources = sorted(SHARED_DATA.glob("*/samples.jsonl"))
    summary = prepare_data(config_for(*sources), tmp_path, SilentReporter())
    assert summary.skipped == 0
    assert summary.train.samples + summary.heldout.samples == 180
    assert len(load_split(tmp_path, "heldout")) == summary.heldout.samples == 36
