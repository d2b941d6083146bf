"""Samples to evaluate on: a run's splits, a file, and what is wrong with one."""

from __future__ import annotations

import json
import pickle

import pytest
from PIL import Image

from vlmpipe.config import load_config
from vlmpipe.data.prepare import prepare_data
from vlmpipe.errors import BadSamplesError, ConfigError
from vlmpipe.evaluation.sources import inputs_digest, open_source, pick
from vlmpipe.pipeline.events import SilentReporter


@pytest.fixture
def config():
    return load_config((), ("data.task=qa", "data.synthetic.n=10"))


@pytest.fixture
def setup(tmp_path, config):
    prepare_data(config, tmp_path / "data", SilentReporter())
    return tmp_path


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def row(name, question="q", answer="a", **more):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": name, "messages": turns, **more}


def test_the_held_out_split_is_what_setup_held_out(config, setup):
    source = open_source(config, "heldout", setup, None)
    assert (source.name, source.count) == ("heldout", len(list(source)))
    assert [s.id for s in source] == [s.id for s in source]


def test_a_limit_takes_the_first(config, setup):
    whole = [s.id for s in open_source(config, "train", setup, None)]
    assert [s.id for s in open_source(config, "train", setup, 3)] == whole[:3]


def test_a_file_is_read_in_its_order(config, tmp_path):
    path = lines(tmp_path / "d.jsonl", row("b"), row("a", task="table"))
    source = open_source(config, path, None, None)
    assert (source.name.partition("#")[0], source.count) == (f"{tmp_path.name}/d.jsonl", 2)
    assert [(s.id, s.task) for s in source] == [("b", "qa"), ("a", "table")]
    assert [s.id for s in pickle.loads(pickle.dumps(source))] == ["b", "a"]


def test_files_called_alike_are_told_apart(config, tmp_path):
    names = set()
    for place in ("one/data", "two/data"):
        (tmp_path / place).mkdir(parents=True)
        path = lines(tmp_path / place / "samples.jsonl", row("a"))
        names.add(open_source(config, path, None, None).name)
    assert len(names) == 2
    assert {name.partition("#")[0] for name in names} == {"data/samples.jsonl"}


def test_samples_are_found_by_id(config, tmp_path):
    source = open_source(config, lines(tmp_path / "d.jsonl", row("b"), row("a")), None, None)
    assert list(pick(source, {"a", "gone"})) == ["a"]


def test_duplicate_ids_are_named_by_line(config, tmp_path):
    path = lines(tmp_path / "d.jsonl", row("x"), row("y"), row("x", "other"))
    with pytest.raises(BadSamplesError) as caught:
        open_source(config, path, None, None)
    assert "d.jsonl:3: the id 'x' stands in" in caught.value.problems[0]
    assert "d.jsonl:1" in caught.value.problems[0]


def test_bad_lines_are_named_before_anything_is_asked(config, tmp_path):
    missing = [{"type": "image", "image": "gone.png"}, {"type": "text", "text": "q"}]
    path = lines(tmp_path / "d.jsonl", row("a"), {"messages": []}, row("c", missing))
    with pytest.raises(BadSamplesError) as caught:
        open_source(config, path, None, None)
    assert len(caught.value.problems) == 2
    assert "gone.png" in caught.value.problems[1]


def test_an_empty_file_is_no_data(config, tmp_path):
    with pytest.raises(ConfigError, match="holds no sample"):
        open_source(config, lines(tmp_path / "d.jsonl"), None, None)


def test_a_misspelt_split_is_told(config, setup):
    with pytest.raises(ConfigError, match="did you mean --data heldout"):
        open_source(config, "held_out", setup, None)


def test_a_run_without_data_says_how_to_get_some(config):
    with pytest.raises(ConfigError) as caught:
        open_source(config, "heldout", None, None)
    assert any("vlmpipe setup" in each for each in caught.value.remedies)


def test_nothing_held_out_is_told(config, tmp_path):
    nothing = load_config((), ("data.task=qa", "data.synthetic.n=4", "data.heldout_fraction=0"))
    prepare_data(nothing, tmp_path / "data", SilentReporter())
    with pytest.raises(ConfigError, match="'heldout' has no samples"):
        open_source(nothing, "heldout", tmp_path, None)


def test_the_digest_of_inputs_sees_text_picture_and_answer(config, tmp_path):
    picture = tmp_path / "p.png"
    shown = [{"type": "image", "image": "p.png"}, {"type": "text", "text": "q"}]

    def digest(colour, answer="a"):
        Image.new("RGB", (64, 64), colour).save(picture)
        path = lines(tmp_path / "d.jsonl", row("x", shown, answer))
        return inputs_digest(next(iter(open_source(config, path, None, None))))

    assert digest("red") == digest("red")
    assert len({digest("red"), digest("blue"), digest("red", "b")}) == 3
