"""The served rung over real services: equal where all is well, failed by name where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from serving_models import Conversions, Converted, make_bundle, quantised
from vlmpipe.encoding.contract import PreprocessContract, build_contract
from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.encoding.images import ImageGrid, to_rgb
from vlmpipe.engines.llama_cpp import LlamaCppEngine
from vlmpipe.models.families import FAMILIES
from vlmpipe.serving.departures import departures
from vlmpipe.serving.quants import ServedFiles
from vlmpipe.serving.rung import Limits, ServedRung
from vlmpipe.serving.running import RunningService
from vlmpipe.serving.served_answers import NoAnswer, ServedAnswer, ask_served
from vlmpipe.serving.served_parity import not_measured, served_rung
from vlmpipe.serving.settings import read_settings

pytestmark = pytest.mark.slow
NAME = "random-qwen2_5_vl"
TOKENS = 12
LIMITS = Limits(kld=1e-4, exact_match=1.0)


def noise(width: int, height: int) -> Image.Image:
    """Coarse random blocks in colour."""
    blocks = np.random.default_rng(width * height).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


def samples() -> list[Sample]:
    """Odd sizes, a picture to be shrunk, two pictures with text between, several turns."""
    prompts = [
        (Message("user", (noise(151, 97), "Read it.")),),
        (Message("user", (noise(701, 523), "Read it.")),),
        (Message("user", ("first", noise(100, 201), "then", noise(57, 225), "which?")),),
        (
            Message("system", ("Be brief.",)),
            Message("user", (noise(200, 103), "한글?")),
            Message("assistant", ("\n42 <b>",)),
            Message("user", ("again",)),
        ),
    ]
    return [
        Sample(
            id=f"s{n}", messages=(*prompt, Message("assistant", ("<table></table>",))), task="qa"
        )
        for n, prompt in enumerate(prompts)
    ]


def answers_of(bundle: Path, log: Path, asked: Sequence[Sample]) -> list[ServedAnswer | NoAnswer]:
    with RunningService(bundle, log, timeout_s=60) as service:
        service.wait_until_ready()
        model_id = read_settings(bundle).model_id
        return ask_served(service.url, model_id, asked, timeout_s=60, progress=lambda done: None)


def rung_of(
    made: Converted, answers: Sequence[ServedAnswer | NoAnswer], **options: Any
) -> ServedRung:
    engine = LlamaCppEngine(
        made.gguf, made.mmproj, made.contract, name="f16", n_ctx=1024, n_threads=1
    )
    with closing(engine):
        return served_rung(
            engine,
            samples(),
            answers,
            against="gguf f16 in process",
            limits=LIMITS,
            max_new_tokens=TOKENS,
            **options,
        )


@pytest.fixture(scope="module")
def healthy(
    conversions: Conversions, tmp_path_factory: pytest.TempPathFactory
) -> list[ServedAnswer | NoAnswer]:
    """What a service that is as it should be answers."""
    folder = tmp_path_factory.mktemp("healthy")
    make_bundle(folder / "bundle", conversions.of(NAME), max_new_tokens=TOKENS)
    return answers_of(folder / "bundle", folder / "log", samples())


def test_a_service_over_the_same_files_answers_as_they_do(
    conversions: Conversions, healthy: list[ServedAnswer | NoAnswer]
) -> None:
    rung = rung_of(conversions.of(NAME), healthy)
    assert rung.passed, rung.why
    assert rung.exact_match == rung.top1_agreement == 1.0
    assert rung.kld_mean is not None
    assert 0 <= rung.kld_mean < 1e-9
    assert rung.logprob_max_abs_diff is not None
    assert rung.logprob_max_abs_diff < 1e-6
    assert (rung.answers, rung.left_out) == (4, 0)
    assert rung.tokens > 20
    assert rung.as_record()["rung"] == "served"


def small(contract: PreprocessContract) -> PreprocessContract:
    """Another contract that agrees with itself: smaller pictures."""
    return build_contract(
        FAMILIES[contract.family],
        min_pixels=None,
        max_pixels=contract.max_pixels,
        max_size=(140, 140),
        system_prompt=None,
        context_length=contract.context_length,
    )


def test_a_gateway_that_resizes_otherwise_fails_and_says_so(
    conversions: Conversions, tmp_path: Path
) -> None:
    made = conversions.of(NAME)
    bundle = tmp_path / "bundle"
    settings = make_bundle(
        bundle, replace(made, contract=small(made.contract)), max_new_tokens=TOKENS
    )
    answers = answers_of(bundle, tmp_path / "log", samples())
    rung = rung_of(made, answers)
    assert not rung.passed
    assert rung.why is not None
    assert "prompts are prepared otherwise" in rung.why
    served = ServedFiles("f16", made.gguf, made.mmproj, None)
    (found,) = [
        line
        for line in departures(bundle, settings, served, made.contract)
        if "image_tokens" not in line
    ]
    assert "max_size: (140, 140), convert's has None" in found


def bilinear(self: ImageGrid, image: Image.Image) -> Image.Image:
    """The resize with another kernel."""
    upright = to_rgb(ImageOps.exif_transpose(image))
    rows, columns = self.target_size(upright.height, upright.width)
    return upright.resize((columns, rows), Image.Resampling.BILINEAR)


def test_another_kernel_alone_is_enough_to_fail(
    conversions: Conversions,
    healthy: list[ServedAnswer | NoAnswer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageGrid, "prepare", bilinear)
    rung = rung_of(conversions.of(NAME), healthy)
    assert not rung.passed
    assert rung.why is not None
    assert rung.why.startswith("KL divergence")


def test_a_file_of_another_type_in_the_bundle_fails_by_name(
    conversions: Conversions, tmp_path: Path
) -> None:
    made = conversions.of(NAME)
    swapped = replace(made, gguf=quantised(made.gguf, tmp_path / made.gguf.name))
    settings = make_bundle(tmp_path / "bundle", swapped, max_new_tokens=TOKENS)
    served = ServedFiles("f16", made.gguf, made.mmproj, None)
    found = departures(tmp_path / "bundle", settings, served, made.contract)
    assert found == [
        f"model/{made.gguf.name} in the bundle is not the f16 file that convert published,"
        f" {made.gguf.name}"
    ]
    answers = answers_of(tmp_path / "bundle", tmp_path / "log", samples())
    rung = rung_of(made, answers, departures=found)
    assert not rung.passed
    assert rung.why is not None
    assert rung.why.startswith(f"model/{made.gguf.name} in the bundle is not")
    assert rung.kld_mean is not None
    assert rung.kld_mean > LIMITS.kld


def test_links_and_copies_of_converts_own_files_do_not_depart(
    conversions: Conversions, tmp_path: Path
) -> None:
    made = conversions.of(NAME)
    settings = make_bundle(tmp_path / "bundle", made)
    served = ServedFiles("f16", made.gguf, made.mmproj, None)
    assert departures(tmp_path / "bundle", settings, served, made.contract) == []
    copy = tmp_path / "bundle" / settings.gguf
    copy.unlink()
    copy.write_bytes(made.gguf.read_bytes())
    assert departures(tmp_path / "bundle", settings, served, made.contract) == []


def test_a_question_without_an_answer_fails_and_one_beyond_the_limits_is_left_out(
    conversions: Conversions, healthy: list[ServedAnswer | NoAnswer]
) -> None:
    made = conversions.of(NAME)
    too_large = [NoAnswer("HTTP 413: …", too_large=True), *healthy[1:]]
    rung = rung_of(made, too_large)
    assert (rung.passed, rung.answers, rung.left_out) == (True, 3, 1)
    rung = rung_of(made, [NoAnswer("HTTP 500: engine_error"), *healthy[1:]])
    assert not rung.passed
    assert rung.why == "1 of 4 probes were not answered, s0: HTTP 500: engine_error"


def test_a_rung_over_nothing_does_not_pass(conversions: Conversions) -> None:
    nothing = [NoAnswer("HTTP 413: …", too_large=True)] * 4
    rung = rung_of(conversions.of(NAME), nothing)
    assert not rung.passed
    assert rung.why == "no token of an answer could be compared"
    assert not not_measured("gguf f16 in process", LIMITS, "a smoke test failed").passed


def test_a_picture_beyond_the_limits_of_a_service_is_told_apart(
    conversions: Conversions, tmp_path: Path
) -> None:
    make_bundle(tmp_path / "bundle", conversions.of(NAME), max_image_pixels=100_000)
    answers = answers_of(tmp_path / "bundle", tmp_path / "log", samples()[:2])
    assert isinstance(answers[0], ServedAnswer)
    assert isinstance(answers[1], NoAnswer)
    assert answers[1].too_large
    assert "image_too_large" in answers[1].why
