"""How the embedded model is made: pages, labels, the tower without loops, stopping and going on."""

import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
SCRIPTS = str(Path(__file__).parent.parent / "scripts")


@pytest.fixture(autouse=True)
def scripts_on_path(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    yield
    for name in [each for each in sys.modules if each.startswith("pretrain")]:
        del sys.modules[name]


@pytest.fixture
def tokenizer(tmp_path):
    import pretrain_embedded

    return pretrain_embedded.embedded_tokenizer(tmp_path / "tokenizer")


def test_every_character_of_a_page_has_its_place_on_it():
    from pretraining.pages import full_page, random_page

    for seed in range(20):
        rng = random.Random(seed)
        for page in (random_page(rng, 6, 4, 60), full_page(rng, 6, 4)):
            assert len(page.text) == len(page.glyphs)
            assert page.image.size == (168, 112)
            placed = [(c, g) for c, g in zip(page.text, page.glyphs, strict=True) if g]
            assert placed
            for character, glyph in placed:
                assert glyph.character == character
                # A full page may be cut at its edges, as a crop of a larger one is.
                assert -20 < glyph.x < 188
                assert 0 < glyph.y < 112


def test_ink_stands_where_a_character_is_said_to_be():
    from pretraining.pages import full_page

    page = full_page(random.Random(3), 6, 4)
    grey = np.asarray(page.image.convert("L")).astype(int)
    wide = [g for g in page.glyphs if g and g.character.isalnum() and 8 < g.x < 160]
    marked = [
        np.ptp(grey[int(g.y) - 7 : int(g.y) + 7, int(g.x) - 6 : int(g.x) + 6]) > 60 for g in wide
    ]
    assert np.mean(marked) > 0.9


def test_ink_stands_where_a_stroke_is_said_to_be():
    from pretraining.batches import IGNORED, stroke_labels
    from pretraining.pages import sketch_page

    for seed in range(8):
        page = sketch_page(random.Random(seed), 8, 6)
        grey = np.asarray(page.image.convert("L")).astype(int)
        points = [point for stroke in page.strokes for point, _ in stroke.samples()]
        inked = [np.ptp(grey[int(y) - 5 : int(y) + 6, int(x) - 5 : int(x) + 6]) > 25
                 for x, y in points]  # fmt: skip
        assert np.mean(inked) > 0.97
        labels = stroke_labels(page.strokes, (8, 6))
        assert labels.shape == (48, 8)
        assert (labels > 0).any()
        assert (labels == 0).any()
        again = sketch_page(random.Random(seed), 8, 6)
        assert again.image.tobytes() == page.image.tobytes()
    assert (stroke_labels([], (8, 6)) == IGNORED).all()


def test_strokes_are_told_by_direction_number_and_arrow():
    from pretraining.sketches import STROKES, Stroke

    def kinds(*args, **kwargs):
        return {kind for _, kind in Stroke(*args, **kwargs).samples()}

    flat, back = kinds((0, 0), (30, 0)), kinds((30, 0), (0, 0))
    assert flat == back != kinds((0, 0), (0, 30))
    assert flat != kinds((0, 0), (30, 0), lines=2)
    right, left = kinds((0, 0), (30, 0), arrow=True), kinds((30, 0), (0, 0), arrow=True)
    assert right - flat
    assert left - flat
    assert right != left
    assert all(0 < kind < STROKES for kind in right | left | kinds((0, 0), (9, -30), lines=3))


def test_every_ascii_entry_of_the_vocabulary_is_among_the_strings_that_are_read(tokenizer):
    from pretraining.texts import _joined_entries, alphabet, entries

    known = {tokenizer.decode([number]).strip(" ") for number in tokenizer.get_vocab().values()}
    special = set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab())
    asked = {t for t in known - special if len(t) > 1 and t.isascii() and t.isprintable()}
    words, signs = entries()
    assert asked == set(words) | set(signs)
    assert {"</", '="', '{"'} <= set(signs)
    assert set("".join(words + signs)) <= set(alphabet())
    rng = random.Random(1)
    drawn = " ".join(_joined_entries(rng) for _ in range(400))
    assert all(each in drawn for each in signs)


def test_a_share_of_named_strokes_is_not_spoiled_by_pages_without_any(tokenizer):
    import pretrain_embedded
    from pretraining.batches import Level, tower_batch
    from pretraining.lessons import _mean

    reader = pretrain_embedded.new_reader()
    batch = tower_batch(Level(((4, 2),), 20, 64), "none drawn")
    losses = reader.tower_losses(batch)
    assert torch.isfinite(losses["loss"])
    assert _mean([float(losses["traced"]), 0.25, 0.75]) == 0.5


def test_a_batch_is_the_same_whenever_it_is_asked_for(tokenizer):
    from pretraining.batches import Level, reading_batch

    level = Level(((4, 2), (6, 3)), 40, 96)
    first, again = (reading_batch(level, "seed:7", tokenizer) for _ in range(2))
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.input_ids, again.input_ids)
    assert torch.equal(first.where, again.where)
    other = reading_batch(level, "seed:8", tokenizer)
    assert first.pixels.shape != other.pixels.shape or not torch.equal(first.pixels, other.pixels)


def test_patches_are_those_of_the_image_processor():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from pretraining.batches import FAMILY, patches
    from pretraining.pages import random_page

    page = random_page(random.Random(1), 5, 3, 40)
    processor = Qwen2VLImageProcessorPil(
        do_resize=False,
        patch_size=14,
        merge_size=2,
        temporal_patch_size=2,
        image_mean=list(FAMILY.image_mean),
        image_std=list(FAMILY.image_std),
    )
    theirs = processor(images=[page.image], return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(patches(np.asarray(page.image)), theirs, atol=1e-5)


def test_the_tower_without_loops_computes_what_transformers_does():
    from pretraining.batches import Level, tower_batch
    from pretraining.tower import without_loops
    from vlmpipe.models.embedded import untrained

    model = untrained("tiny")
    batch = tower_batch(Level(((7, 5),), 60, 100), "x")
    with torch.no_grad():
        theirs = model.model.visual(batch.pixels, grid_thw=batch.grid_thw)[1]
        without_loops(model.model.visual)
        ours = model.model.visual(batch.pixels, grid_thw=batch.grid_thw)[1]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_answers_point_at_the_image_token_where_they_begin(tokenizer):
    from pretraining.batches import IGNORED, Level, reading_batch

    batch = reading_batch(Level(((6, 3),), 40, 60), "x", tokenizer)
    page, columns = batch.pages[0], int(batch.grid_thw[0, 2]) // 2
    answered = batch.labels[0] != IGNORED
    ids = batch.input_ids[0][answered]
    assert tokenizer.decode(ids, skip_special_tokens=True) == page.text
    first = next(glyph for glyph in page.glyphs if glyph)
    places = batch.where[0][answered]
    token = int(places[places != IGNORED][0])
    assert (token % columns, token // columns) == (int(first.x // 28), int(first.y // 28))


@pytest.mark.slow
def test_a_course_that_is_stopped_goes_on_as_if_it_had_not_been(tmp_path, tokenizer, monkeypatch):
    import pretrain_embedded
    from pretraining import lessons
    from pretraining.batches import Level

    level = Level(((4, 2),), 20, 64)
    short = (
        lessons.Lesson("tower", 2, level, 1e-3, reads=False),
        lessons.Lesson("strips", 2, level, 1e-3),
    )
    monkeypatch.setattr(lessons, "LESSONS", short)

    def course(folder):
        return lessons.Course(pretrain_embedded.new_reader(), tokenizer, folder)

    whole = course(tmp_path / "whole")
    whole.run(lambda line: None)

    stopped = course(tmp_path / "stopped")
    stopped._give(replace(short[0], steps=1), lambda line: None)
    stopped.save()
    resumed = course(tmp_path / "stopped")
    assert (resumed.lesson, resumed.step) == (0, 1)
    resumed.run(lambda line: None)
    for name, tensor in whole.reader.state_dict().items():
        torch.testing.assert_close(resumed.reader.state_dict()[name], tensor, atol=1e-3, rtol=1e-2)
