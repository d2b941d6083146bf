"""The cache of a training: what it computes, finds again, refuses, and proves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from PIL import Image

from model_folders import VISION_MODELS, encoder_of, model_folder, picture, table_sample
from test_training_vision_cache_features import adapted
from training_runs import tiny_config
from vlmpipe.config.train import ResizeKernel
from vlmpipe.data.images import encode_png
from vlmpipe.data.rows import features as columns
from vlmpipe.data.rows import to_row, write_parquet
from vlmpipe.data.store import load_split
from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.errors import BadSamplesError, ConfigError, StageError
from vlmpipe.models.families import family_of
from vlmpipe.models.loading import load_model
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.training.adapter import make_trainable
from vlmpipe.training.augment import KernelLot
from vlmpipe.training.batching.rows import Row
from vlmpipe.training.vision_cache import space
from vlmpipe.training.vision_cache.cache import (
    FillCounts,
    Share,
    VisionCache,
    open_vision_cache,
)
from vlmpipe.training.vision_cache.entry import entry_bytes
from vlmpipe.training.vision_cache.features import ImageFeatures, compute_features
from vlmpipe.training.vision_cache.jobs import pixels_of
from vlmpipe.training.vision_cache.namespace import namespace_of
from vlmpipe.training.vision_cache.proof import largest_difference, prove_cached_equals_live, spread
from vlmpipe.training.vision_cache.shards import SUFFIX
from vlmpipe.training.vision_cache.tower import tower_of

MODEL = "random-qwen2_5_vl"
BICUBIC = KernelLot(["bicubic"], seed=0)
SIZES = ((150, 110), (300, 200), (90, 260), (420, 420))


class Notes(SilentReporter):
    """Keeps what was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def sample_of(*images: Image.Image, id: str = "s") -> Sample:
    messages = (Message("user", (*images, "Read it.")), Message("assistant", ("1",)))
    return Sample(id=id, messages=messages, task="table", origin=f"data.jsonl:{id}")


@cache
def samples() -> list[Sample]:
    """Images of four sizes; the last sample has two of them, one of which another has too."""
    images = [picture(*size, seed=place) for place, size in enumerate(SIZES)]
    singles = [sample_of(image, id=str(place)) for place, image in enumerate(images)]
    return [*singles, sample_of(images[0], picture(100, 100, seed=9), id="two")]


def rows_of(data: Sequence[Sample], passes: int = 1) -> list[Row]:
    return [Row(index, epoch) for epoch in range(passes) for index in range(len(data))]


def grid_of(name: str = MODEL) -> ImageGrid:
    return encoder_of(name).contract.grid


def cache_of(
    folder: Path,
    data: Sequence[Sample] | None = None,
    name: str = MODEL,
    model: Any = None,
    **options: Any,
) -> VisionCache:
    settings = {"kind": "disk", "autocast_dtype": None, "reporter": Notes(), **options}
    data = samples() if data is None else data
    used = adapted(name) if model is None else model
    return VisionCache(used, encoder_of(name), data, folder=folder, **settings)


def fill(used: VisionCache, data: Sequence[Sample] | None = None, **options: Any) -> FillCounts:
    rows = rows_of(samples() if data is None else data)
    return used.fill(rows, options.pop("grid", grid_of()), BICUBIC, 0, **options)


def live(name: str, image: Image.Image, grid: ImageGrid, kernel: ResizeKernel, dtype: Any) -> Any:
    """Features from pixels made the way of a training sample."""
    encoded = encoder_of(name).encode_sample(
        sample_of(image).messages, grid=grid, kernels=(kernel,)
    )
    pixels = torch.as_tensor(encoded.pixel_values)
    return compute_features(adapted(name), pixels, torch.as_tensor(encoded.image_grid_thw), dtype)


def same(one: ImageFeatures, other: ImageFeatures) -> bool:
    pairs = zip((one.tokens, *one.deepstack), (other.tokens, *other.deepstack), strict=True)
    return all(largest_difference(*pair) is None for pair in pairs)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("name", VISION_MODELS)
def test_features_handed_out_are_the_live_ones(
    tmp_path: Path, name: str, kind: str, dtype: Any
) -> None:
    used = cache_of(tmp_path, name=name, kind=kind, autocast_dtype=dtype)
    small = grid_of(name).within((224, 224))
    used.fill(rows_of(samples()), small, BICUBIC, 0)
    for index, sample in enumerate(samples()):
        found = used.features_for(index, small)
        expected = [live(name, image, small, "bicubic", dtype) for image in sample.images]
        assert all(same(*pair) for pair in zip(found, expected, strict=True))
    prove_cached_equals_live(used)


def test_the_same_image_is_computed_once_and_found_by_later_trainings(tmp_path: Path) -> None:
    first = fill(cache_of(tmp_path))
    assert (first.hits, first.computed) == (0, 5)
    again = cache_of(tmp_path)
    assert fill(again) == FillCounts(hits=5)
    # One is as large in a phase of smaller images.
    smaller = fill(cache_of(tmp_path), grid=grid_of().within((112, 112)))
    assert (smaller.hits, smaller.computed) == (1, 4)
    assert "images found" in again._reporter.notes[-1]


def test_what_a_proof_computed_before_the_fill_is_not_told_as_an_earlier_training_s(
    tmp_path: Path,
) -> None:
    told = fill(cache_of(tmp_path / "one"))
    used = cache_of(tmp_path / "other")
    fill(used, [samples()[0]])
    for index in range(3):  # of these only the first is kept yet
        used.features_for(index, grid_of())
    counts = fill(used)
    assert (counts.hits, counts.computed) == (1, 4)
    assert 0 < counts.bytes < told.bytes
    assert fill(used) == FillCounts(hits=5)


def test_images_are_decoded_in_the_fill_alone(tmp_path: Path) -> None:
    """After it, the samples could as well be gone."""
    data = list(samples())
    used = cache_of(tmp_path, data)
    fill(used)
    data.clear()
    assert [len(used.features_for(index, grid_of())) for index in range(5)] == [1, 1, 1, 1, 2]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("name", VISION_MODELS)
def test_the_size_is_known_before_anything_is_computed(
    tmp_path: Path, name: str, dtype: Any
) -> None:
    used = cache_of(tmp_path, name=name, autocast_dtype=dtype)
    counts = used.fill(rows_of(samples()), grid_of(name), BICUBIC, 0)
    tokens = [job.key.tokens for job in used.filled]
    assert counts.bytes == space.bytes_of_features(adapted(name), tokens, dtype)
    assert counts.bytes == sum(path.stat().st_size for path in tmp_path.glob(f"*/*{SUFFIX}")) - 64


@pytest.mark.parametrize(
    ("kind", "ways_out"),
    [
        ("disk", ["vision_cache_folder=DIR", "vision_cache=off"]),
        ("memory", ["vision_cache=disk", "vision_cache_folder=DIR", "vision_cache=off"]),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_computed(
    tmp_path: Path, kind: str, ways_out: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = space.bytes_of_features(adapted(MODEL), [grid_of().tokens(110, 150)], None)
    data = samples()[:1]
    for free, share in ((needed - 1, Share()), (2 * needed - 1, Share(0, 2, 2))):
        for name in ("free_disk_bytes", "free_memory_bytes"):
            monkeypatch.setattr(space, name, lambda *_, free=free: free)
        with pytest.raises(StageError, match="are free") as refusal:
            fill(cache_of(tmp_path, data, kind=kind), data, share=share)
        assert all(f"train.{way}" in str(refusal.value) for way in ways_out)
        assert not list(tmp_path.glob(f"*/*{SUFFIX}"))
    fill(cache_of(tmp_path, data, kind=kind), data)


def test_free_space_is_that_of_the_machine(tmp_path: Path) -> None:
    assert space.free_disk_bytes(tmp_path / "not" / "there") > 0
    assert 0 < space.free_memory_bytes() < 1 << 50


def frozen() -> Any:
    """A model of the test's own, to be changed."""
    return load_model(model_folder(MODEL)).requires_grad_(False)


def changed(model: Any, name: str, value: float) -> None:
    parameter = dict(tower_of(model).named_parameters())[name]
    with torch.no_grad():
        parameter.view(-1)[0] = value


def test_one_changed_weight_makes_everything_stale(tmp_path: Path) -> None:
    model = frozen()
    data = samples()[:2]
    used = cache_of(tmp_path, data, model=model)
    fill(used, data)
    weights = dict(tower_of(model).named_parameters())
    name, before = "merger.mlp.2.bias", float(weights["merger.mlp.2.bias"].view(-1)[0])
    changed(model, name, before + 0.5)
    for kind in ("disk", "memory"):
        again = cache_of(tmp_path, data, model=model, kind=kind)
        fill(again, data)
        changed(model, name, before)
        assert fill(again, data).hits == (2 if kind == "disk" else 0)
        changed(model, name, before + 0.5)
    assert len(list(tmp_path.iterdir())) == 2
    assert fill(used, data).hits == 2
    prove_cached_equals_live(used)


def test_a_phase_that_changes_the_tower_leaves_the_cache_of_the_next_one_right(
    tmp_path: Path,
) -> None:
    """The same cache object, as a session of several phases holds it."""
    model = frozen()
    used = cache_of(tmp_path, samples()[:1], model=model)
    fill(used, samples()[:1])
    before = used.features_for(0, grid_of())[0].tokens.clone()
    changed(model, "merger.mlp.2.bias", 3.0)
    assert fill(used, samples()[:1]).computed == 1
    assert not torch.equal(used.features_for(0, grid_of())[0].tokens, before)
    prove_cached_equals_live(used)


def test_what_decides_over_bits_decides_over_the_namespace() -> None:
    contract, model = encoder_of(MODEL).contract, adapted(MODEL)
    names = {namespace_of(model, contract, dtype).name for dtype in (None, torch.bfloat16)}
    other_mean = contract.model_copy(update={"image_mean": (0.5, 0.5, 0.5)})
    names.add(namespace_of(model, other_mean, None).name)
    names.add(namespace_of(load_model(model_folder(MODEL), dtype="bfloat16"), contract, None).name)
    eager = load_model(model_folder(MODEL), attn_implementation="eager")
    names.add(namespace_of(eager, contract, None).name)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        names.add(namespace_of(model, contract, None).name)
    finally:
        torch.set_num_threads(threads)
    assert len(names) == 6
    plain = namespace_of(load_model(model_folder(MODEL)), contract, None)
    assert plain == namespace_of(model, contract, None)


def test_kernels_drawn_by_lot_are_all_there(tmp_path: Path) -> None:
    kernels: list[ResizeKernel] = ["bicubic", "llama_cpp", "bilinear"]
    lot = KernelLot(kernels, seed=3)
    used, grid = cache_of(tmp_path), grid_of().within((112, 112))
    rows = rows_of(samples(), passes=6)
    used.fill(rows, grid, lot, 1)
    before = used.store
    drawn = set()
    for row in rows:
        sample = samples()[row.sample]
        places = range(len(sample.images))
        chosen = [lot.draw(sample.id, 1, row.epoch, place) for place in places]
        found = used.features_for(row.sample, grid, chosen)
        for image, kernel, features in zip(sample.images, chosen, found, strict=True):
            assert same(features, live(MODEL, image, grid, kernel, None))
            drawn.add(kernel)
    assert drawn == set(kernels)
    assert used.fill(rows, grid, lot, 1).computed == 0
    assert used.store is before


def test_an_image_on_its_grid_already_is_the_same_by_every_kernel(tmp_path: Path) -> None:
    data = [sample_of(picture(112, 84))]
    used = cache_of(tmp_path, data)
    fill(used, data)
    jobs = [used._book.jobs(0, grid_of(), [kernel])[0] for kernel in ("bicubic", "bilinear")]
    assert jobs[0].key == jobs[1].key


def test_a_bad_image_is_named_by_file_and_line(tmp_path: Path) -> None:
    data = encode_png(picture(300, 200))
    path = tmp_path / "cut.png"
    path.write_bytes(data[: len(data) // 2])
    with Image.open(path) as opened:
        bad = sample_of(opened, id="17")
        with pytest.raises(BadSamplesError, match=r"17 \(data.jsonl:17\) cannot be used"):
            fill(cache_of(tmp_path, [samples()[0], bad]), [samples()[0], bad])


def test_a_bad_image_in_a_prepared_split_is_named_too(tmp_path: Path) -> None:
    rows = [to_row(sample_of(picture(300, 200), id=str(number)), 1.0) for number in range(3)]
    rows[1]["pictures"] = [rows[1]["pictures"][0][:200]]
    write_parquet(Dataset.from_list(rows, features=columns()), tmp_path / "train.parquet")
    data = load_split(tmp_path, "train")
    with pytest.raises(BadSamplesError, match=r"1 \(data.jsonl:1\) cannot be used"):
        fill(cache_of(tmp_path, data), data)


class Stored(list[Sample]):
    """Samples that hand out their images encoded, and count who asks for pixels."""

    encoded: list[list[bytes]]

    def pictures(self, index: int) -> list[bytes]:
        return self.encoded[index]


def stored(tmp_path: Path, *files: bytes) -> Stored:
    """One sample an image, opened and not decoded."""
    opened = []
    for number, data in enumerate(files):
        path = tmp_path / f"{number}.png"
        path.write_bytes(data)
        opened.append(Image.open(path))
    found = Stored(sample_of(image, id=str(place)) for place, image in enumerate(opened))
    found.encoded = [[data] for data in files]
    return found


def is_decoded(image: Image.Image) -> bool:
    return getattr(image, "fp", None) is None


def test_stored_images_are_found_again_without_decoding_any(tmp_path: Path) -> None:
    files = [encode_png(sample.images[0]) for sample in samples()[:3]]
    fill(cache_of(tmp_path, stored(tmp_path, *files)), files)
    data = stored(tmp_path, *files)
    used = cache_of(tmp_path, data)
    assert fill(used, data).hits == 3
    assert used.features_for(2, grid_of())
    assert not any(is_decoded(sample.images[0]) for sample in data)


def test_an_image_is_the_same_whether_it_was_decoded_before_or_not(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encode_png(picture(300, 200)))
    fill(cache_of(tmp_path, [sample_of(picture(300, 200))]), [None])
    for decode in (False, True):
        with Image.open(path) as opened:
            if decode:
                opened.load()
            assert fill(cache_of(tmp_path, [sample_of(opened)]), [None]).hits == 1


def lying(tmp_path: Path, *, at_the_end: bool) -> Stored:
    """An image stored on its side, which its file says at its start, or only behind its pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "lying.png"
    picture(420, 90).save(path, exif=exif)
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    chunk = data[start : start + 12 + int.from_bytes(data[start : start + 4], "big")]
    rest = data.replace(chunk, b"")
    return stored(tmp_path, rest[:-12] + chunk + rest[-12:] if at_the_end else data)


def test_an_image_that_is_stored_on_its_side_is_turned(tmp_path: Path) -> None:
    data = lying(tmp_path, at_the_end=False)
    used, grid = cache_of(tmp_path, data), replace(grid_of(), max_size=(448, 112))
    fill(used, data, grid=grid)
    found = used.features_for(0, grid)[0]
    assert same(found, live(MODEL, data[0].images[0], grid, "bicubic", None))


def test_features_of_another_size_than_the_header_gives_are_refused(tmp_path: Path) -> None:
    data = lying(tmp_path, at_the_end=True)
    grid = replace(grid_of(), max_size=(448, 112))
    with pytest.raises(StageError, match="where its header gives"):
        fill(cache_of(tmp_path, data), data, grid=grid)


def shard_of(folder: Path) -> Path:
    return next(folder.glob(f"*/*{SUFFIX}"))


def damage(folder: Path, place: int) -> None:
    path = shard_of(folder)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_damaged_entry_is_computed_anew_and_told(tmp_path: Path) -> None:
    fill(cache_of(tmp_path))
    damage(tmp_path, 64 + 128 + 1000)
    used = cache_of(tmp_path)
    counts = fill(used)
    assert (counts.hits, counts.computed) == (4, 1)
    assert any("hash differs" in note for note in used._reporter.notes)
    assert same(used.features_for(0, grid_of())[0], fresh(0))
    assert fill(cache_of(tmp_path)).hits == 5


def test_an_entry_that_is_damaged_in_mid_training_is_computed_anew(tmp_path: Path) -> None:
    used = cache_of(tmp_path)
    fill(used)
    damage_mapped(tmp_path, 64 + 128 + 1000)
    assert same(used.features_for(0, grid_of())[0], fresh(0))
    assert "hash differs" in used._reporter.notes[-1]


def damage_mapped(folder: Path, place: int) -> None:
    with shard_of(folder).open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 1]))


def fresh(index: int) -> ImageFeatures:
    return live(MODEL, samples()[index].images[0], grid_of(), "bicubic", None)


def plant(used: VisionCache, place: int, features: ImageFeatures) -> str:
    """Features under the key of another image, with a sound hash; the sample's name."""
    job = used.filled[place]
    used.store.put(job.key.digest, features)
    return job.name


def test_the_proof_fails_on_an_entry_with_anothers_features(tmp_path: Path) -> None:
    data = samples()[:3]
    used = cache_of(tmp_path, data)
    fill(used, data)
    assert prove_cached_equals_live(used).images == 3
    true = used.stored(used.filled[1])
    assert true is not None
    name = plant(used, 1, ImageFeatures(true.tokens.flip(0).clone()))
    again = cache_of(tmp_path, data)
    assert fill(again, data).hits == 3
    with pytest.raises(StageError, match="is not what the tower gives") as refusal:
        prove_cached_equals_live(again)
    said = str(refusal.value)
    assert name in said
    assert "differ by up to" in said
    assert "train.vision_cache=off" in said
    assert f"rm -r {again.place}" in said


def test_the_proof_fails_on_a_single_bit(tmp_path: Path) -> None:
    used = cache_of(tmp_path, samples()[:1])
    fill(used, samples()[:1])
    true = used.stored(used.filled[0])
    assert true is not None
    tokens = true.tokens.clone()
    tokens.view(torch.int32).view(-1)[77] ^= 1
    plant(used, 0, ImageFeatures(tokens))
    with pytest.raises(StageError, match="features of sample 0"):
        prove_cached_equals_live(used)


def test_the_proof_fails_on_a_missing_deepstack_level(tmp_path: Path) -> None:
    name = "random-qwen3_vl"
    used = cache_of(tmp_path, samples()[:1], name=name)
    used.fill([Row(0)], grid_of(name), BICUBIC, 0)
    true = used.stored(used.filled[0])
    assert true is not None
    plant(used, 0, ImageFeatures(true.tokens, true.deepstack[:-1]))
    with pytest.raises(StageError, match="differ by up to inf"):
        prove_cached_equals_live(used)


def test_the_proof_fails_where_a_model_does_not_take_features_for_pixels(tmp_path: Path) -> None:
    model = frozen()
    used = cache_of(tmp_path, samples()[:1], model=model)
    fill(used, samples()[:1])
    forward = model.forward

    def deaf(*args: Any, mm_encoder_outputs: Any = None, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    model.forward = deaf
    with pytest.raises(StageError, match="logits of sample 0"):
        prove_cached_equals_live(used)


def test_the_proof_leaves_the_model_as_it_was_and_minds_no_dropout(tmp_path: Path) -> None:
    folder = model_folder(MODEL)
    config = tiny_config(method="lora", lora={"r": 4, "alpha": 8, "dropout": 0.5}).train
    model = make_trainable(load_model(folder), family_of(folder), config, 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    model.train()
    used = cache_of(tmp_path, samples()[:1], model=model)
    fill(used, samples()[:1])
    prove_cached_equals_live(used)
    assert model.training


def test_the_proof_takes_the_smallest_the_largest_and_some_between(tmp_path: Path) -> None:
    used = cache_of(tmp_path)
    fill(used)
    tokens = sorted(job.key.tokens for job in used.filled)
    chosen = [job.key.tokens for job in spread(used.filled, 3)]
    assert chosen == [tokens[0], tokens[2], tokens[-1]]
    assert spread((), 3) == []
    assert len(spread(used.filled[:1], 4)) == 1


def finds_live_features(used: VisionCache, rows: Sequence[Row]) -> bool:
    found = [
        pair
        for row in rows
        for pair in zip(
            used.features_for(row.sample, grid_of()),
            [
                live(MODEL, each, grid_of(), "bicubic", None)
                for each in samples()[row.sample].images
            ],
            strict=True,
        )
    ]
    return all(same(*pair) for pair in found)


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_two_processes_fill_together(tmp_path: Path, kind: str) -> None:
    """The second does its part while the first waits at the barrier; each needs what is in the
    other's share.
    """
    rows = rows_of(samples())
    one, two = (cache_of(tmp_path, kind=kind) for _ in range(2))
    counts: list[FillCounts] = []

    def other() -> None:
        share = Share(1, 2, 2)
        counts.append(two.fill(rows, grid_of(), BICUBIC, 0, own_rows=rows[::2], share=share))

    share = Share(0, 2, 2, barrier=other)
    counts.append(one.fill(rows, grid_of(), BICUBIC, 0, own_rows=rows[1::2], share=share))
    computed = {"disk": [2, 3], "memory": [3, 2]}[kind]
    assert [each.computed for each in counts] == computed
    assert [each.hits for each in counts] == {"disk": [3, 2], "memory": [0, 0]}[kind]
    assert [len(used.filled) for used in (two, one)] == [3, 2]
    assert finds_live_features(one, rows[1::2])
    assert finds_live_features(two, rows[::2])
    assert one._reporter.notes == one._reporter.notes[-1:]


def test_what_another_process_should_have_computed_and_did_not_is_computed(
    tmp_path: Path,
) -> None:
    """As where the other's device is another one, and its features are in another namespace."""
    rows = rows_of(samples())
    used = cache_of(tmp_path)
    counts = used.fill(rows, grid_of(), BICUBIC, 0, own_rows=rows[1::2], share=Share(0, 2, 2))
    assert counts.computed == 5
    assert fill(cache_of(tmp_path)).hits == 5


def test_a_tower_in_training_is_refused_with_the_setting(tmp_path: Path) -> None:
    folder = model_folder(MODEL)
    config = tiny_config(method="lora", unfreeze=["merger"]).train
    model = make_trainable(load_model(folder), family_of(folder), config, 0)
    with pytest.raises(ConfigError, match=r"train.vision_cache=disk .*trains a part"):
        fill(cache_of(tmp_path, model=model))


def test_off_and_text_only_models_have_no_cache(tmp_path: Path) -> None:
    def opened(name: str, mode: str) -> VisionCache | None:
        config = tiny_config(vision_cache=mode, vision_cache_folder=str(tmp_path))
        model = load_model(model_folder(name))
        return open_vision_cache(config, model, encoder_of(name), [], None, SilentReporter())

    assert opened(MODEL, "off") is None
    assert opened("random-qwen3", "disk") is None
    used = opened(MODEL, "disk")
    assert used is not None
    assert used.folder == tmp_path


def test_a_sample_without_images_has_no_features(tmp_path: Path) -> None:
    data = [table_sample(vision=False)]
    used = cache_of(tmp_path, data)
    assert fill(used, data) == FillCounts()
    assert used.features_for(0, grid_of()) == []
    assert prove_cached_equals_live(used).images == 0


def test_prepared_pixels_are_those_of_a_training_sample() -> None:
    """For sizes that the grid would change if it were asked again."""
    for size in (*SIZES, (30, 900), (448, 20), (30, 30)):
        grid = grid_of().within((448, 140))
        image = picture(*size)
        encoded = encoder_of(MODEL).encode_sample(sample_of(image).messages, grid=grid)
        pixels, grids = pixels_of(encoder_of(MODEL), grid.prepare(image))
        assert torch.equal(pixels, torch.as_tensor(encoded.pixel_values))
        assert torch.equal(grids, torch.as_tensor(encoded.image_grid_thw))


def test_an_entry_is_little_more_than_its_values() -> None:
    assert entry_bytes(1000, 2048, 1, 2) == 1000 * 2048 * 2 + 128
