"""The shipped model: it reads text, it knows no task's format, and it is small."""

import random
from importlib.resources import files

import pytest
from rapidfuzz.distance import Levenshtein

from model_folders import encoder_of, model_folder
from vlmpipe.encoding.conversation import Message
from vlmpipe.engines.hf import HfEngine
from vlmpipe.errors import ArtifactError
from vlmpipe.models import embedded
from vlmpipe.models.base import count_parameters
from vlmpipe.models.loading import load_model
from vlmpipe.tasks import TASKS

DATA = files("vlmpipe.models") / "data"
MOST_PARAMETERS, MOST_BYTES, MOST_ENTRIES = 10_000_000, 12_000_000, 4_096


@pytest.fixture(scope="module")
def engine():
    engine = HfEngine(load_model(model_folder("tiny")).eval(), encoder_of("tiny"), "hf:tiny")
    yield engine
    engine.close()


def test_it_is_small():
    assert (DATA / "tiny.safetensors").stat().st_size <= MOST_BYTES
    assert count_parameters(model_folder("tiny")) <= MOST_PARAMETERS
    assert len(encoder_of("tiny").tokenizer) <= MOST_ENTRIES


def test_its_card_says_what_it_is():
    card = (DATA / "tiny.md").read_text(encoding="utf-8")
    for heading in ("What it can do", "What it cannot do", "How it was made"):
        assert f"## {heading}" in card


def test_the_answers_of_tasks_are_short_in_its_vocabulary():
    tokenizer = encoder_of("tiny").tokenizer
    for name in ("table", "chart", "molecule", "document"):
        references = [TASKS[name].generate(i, 5, (0.0, 0.5)).reference for i in range(10)]
        tokens = sum(len(tokenizer(text)["input_ids"]) for text in references)
        assert tokens < 0.8 * sum(map(len, references)), name


def test_a_word_is_the_same_token_behind_every_sign():
    tokenizer = encoder_of("tiny").tokenizer
    (word,) = tokenizer("name")["input_ids"]
    for text in (">name", '"name', " name", "\tname", "(name"):
        assert tokenizer(text)["input_ids"][-1] == word


@pytest.mark.slow
def test_it_reads_lines_that_it_has_not_seen(engine, monkeypatch):
    monkeypatch.syspath_prepend("scripts")
    from pretraining.pages import random_page

    errors = length = 0
    for seed in range(24):
        page = random_page(random.Random(f"unseen:{seed}"), 6, 3, 24)
        message = Message("user", (page.image, "Read."))
        answer = engine.complete([message], max_new_tokens=64).text
        errors += Levenshtein.distance(answer, page.text)
        length += len(page.text)
    assert errors / length < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table", "chart", "molecule", "document"])
def test_it_knows_no_format_of_a_task(engine, name):
    task = TASKS[name]
    for index in range(4):
        sample = task.generate(index, 99, (0.0, 0.15), ("en",))
        answer = engine.complete(sample.prompt, max_new_tokens=64).text
        assert task.measure(answer, sample.reference)[task.primary_metric] <= 0.3


def test_damaged_weights_are_named(tmp_path, monkeypatch):
    broken = tmp_path / "data"
    broken.mkdir()
    (broken / "tiny.safetensors").write_bytes(b"not weights")
    monkeypatch.setattr(embedded, "files", lambda package: tmp_path)
    with pytest.raises(ArtifactError, match=r"tiny\.safetensors"):
        embedded.build_embedded("tiny", tmp_path / "model")
