"""What every task that draws pictures promises, whatever it draws."""

from __future__ import annotations

import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import html as lxml_html
from PIL import Image

from vlmpipe.cli import app
from vlmpipe.encoding.conversation import Sample
from vlmpipe.tasks import LANGUAGES, TASKS, Task

FULL = (0.0, 1.0)
PAGE = Path(__file__).parents[1] / "docs" / "tasks.md"


def documented() -> dict[str, Task]:
    """The task that docs/tasks.md adds as an example; its code is what stands there."""
    (code,) = re.findall("```python\n(.*?class SerialTask.*?)```", PAGE.read_text("utf-8"), re.S)
    names: dict[str, Any] = {"__name__": "serial"}
    exec(compile(code, str(PAGE), "exec"), names)
    return {"serial": names["SerialTask"]()}


PICTURED = {
    name: task
    for name, task in (TASKS | documented()).items()
    if task.generate(0, 0, (0.0, 0.1)).images
}
every_task = pytest.mark.parametrize("task", PICTURED.values(), ids=PICTURED)
few = settings(deadline=None, max_examples=4)
indexes = st.integers(0, 100_000)

SMALLEST, LARGEST = 112, 2600
"""Pixels a side."""

EASY = (460, 350)
"""Width and height that an easy picture fits into, either way round."""

HARMLESS = {"xmlns", "xmlns:xlink", "xmlns:rdkit"}
ACTIVE = {"script", "style", "link", "iframe", "object", "embed", "foreignobject", "base", "form"}
ACTIVE |= {"meta", "audio", "video", "animate", "set", "use"}
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "<a href='javascript:alert(1)'>x</a>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<style>*{background:url(http://evil.example)}</style>",
    "]]><script>alert(1)</script>",
    "\x00<\x00script>alert(1)</script>",
]


def digest(sample: Sample) -> str:
    """Of pixels, question and answer."""
    parts = [repr((image.mode, image.size)).encode() + image.tobytes() for image in sample.images]
    texts = [message.text.encode() for message in sample.messages]
    return hashlib.sha256(b"\0".join([sample.id.encode(), *parts, *texts])).hexdigest()


def drawn(task: Task, number: int, low: float, high: float) -> list[Sample]:
    return [task.generate(index, 11, (low, high)) for index in range(number)]


def test_there_is_a_task_with_pictures() -> None:
    assert {"table", "serial"} <= PICTURED.keys()


ELSEWHERE = """
import json
from test_tasks_generators import digests
print(json.dumps(digests((0, 9))))
"""


def digests(numbers: Sequence[int]) -> dict[str, str]:
    """Of samples of every task, drawn in the order of their numbers."""
    return {
        f"{name} {number}": digest(task.generate(number, 5, FULL))
        for name, task in PICTURED.items()
        for number in numbers
    }


def test_another_process_draws_the_same_pixels() -> None:
    """Nothing hangs on the order of sets, or on what was drawn before."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(paths)}
    argv = [sys.executable, "-c", ELSEWHERE]
    told = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout
    assert json.loads(told) == digests((9, 0))


def test_the_page_on_tasks_shows_what_its_commands_write(tmp_path: Path) -> None:
    """Otherwise draw it anew: python scripts/make_task_pictures.py."""
    example = re.compile(
        r"`vlmpipe (data synth --task (\w+) --n 1 [^`]*)`.*?```\w*\n(.*?)\n```", re.S
    )
    shown = {name: (words, answer) for words, name, answer in example.findall(PAGE.read_text())}
    assert shown.keys() == PICTURED.keys() & TASKS.keys()
    for name, (words, answer) in shown.items():
        out = tmp_path / name
        assert app.run([*words.replace("DIR", str(out)).split(), "--json", "--no-sheet"]) == 0
        written = json.loads((out / "samples.jsonl").read_text(encoding="utf-8"))
        assert written["messages"][-1]["content"] == answer
        asked = written["messages"][0]["content"][-1]["text"]
        assert f"> {asked}\n" in PAGE.read_text(encoding="utf-8")
        with (
            Image.open(out / "images" / "000000.png") as drawn_now,
            Image.open(PAGE.parent / "images" / f"task-{name}.png") as kept,
        ):
            assert kept.size == drawn_now.size


@every_task
def test_a_sample_hangs_on_nothing_but_its_number_and_seed(task: Task) -> None:
    first, others, again = (
        digest(task.generate(3, 5, FULL)),
        [digest(task.generate(index, seed, FULL)) for index, seed in ((4, 5), (3, 6))],
        digest(task.generate(3, 5, FULL)),
    )
    assert first == again
    assert first not in others
    assert task.generate(3, 5, FULL).id != task.generate(4, 5, FULL).id


@every_task
@few
@given(index=indexes)
def test_a_target_is_in_the_tasks_own_form(task: Task, index: int) -> None:
    target = task.generate(index, 1, FULL).reference
    canonical = task.canonical(target)
    assert canonical is not None
    assert task.canonical(canonical) == canonical


@every_task
@few
@given(index=indexes)
def test_the_right_answer_gets_full_marks_and_a_wrong_one_fewer(task: Task, index: int) -> None:
    target = task.generate(index, 1, FULL).reference
    marks = task.measure(target, target)
    assert marks[task.primary_metric] == 1.0
    assert marks["cer"] == 0.0
    for answer in ("", "no idea", target[: len(target) // 2]):
        wrong = task.measure(answer, target)
        assert wrong.keys() == marks.keys()
        assert wrong[task.primary_metric] < 1.0
        assert all(0 <= value <= 1 for name, value in wrong.items() if name != "cer")


@every_task
@few
@given(index=indexes, middle=st.floats(0.1, 0.9))
def test_difficulty_is_measured_and_near_what_was_asked_for(
    task: Task, index: int, middle: float
) -> None:
    sample = task.generate(index, 2, (middle - 0.1, middle + 0.1))
    assert sample.difficulty == task.difficulty(sample.reference)
    assert sample.difficulty == pytest.approx(middle, abs=0.2)


@every_task
def test_harder_is_harder(task: Task) -> None:
    """Longer answers, and rising means, over the whole range."""
    rooms = [drawn(task, 5, low, low + 0.2) for low in (0.0, 0.4, 0.8)]
    hardness = [statistics.mean(sample.difficulty for sample in room) for room in rooms]
    length = [statistics.mean(len(sample.reference) for sample in room) for room in rooms]
    assert hardness == sorted(hardness)
    assert hardness[2] - hardness[0] > 0.4
    assert length == sorted(length)


@every_task
def test_pictures_are_of_a_size_that_models_see(task: Task) -> None:
    for sample in [*drawn(task, 4, 0.0, 0.15), *drawn(task, 3, 0.5, 1.0)]:
        (image,) = sample.images
        assert image.mode == "RGB"
        assert min(image.size) >= SMALLEST
        assert max(image.size) <= LARGEST
        assert any(low < high for low, high in image.getextrema())


@every_task
def test_easy_pictures_are_small(task: Task) -> None:
    for sample in drawn(task, 12, 0.0, 0.15):
        width, height = sample.images[0].size
        assert max(width, height) <= EASY[0]
        assert min(width, height) <= EASY[1]


@every_task
def test_a_sample_is_a_picture_its_question_and_its_answer(task: Task) -> None:
    sample = task.generate(0, 0, FULL)
    question, answer = sample.messages
    assert (question.role, answer.role) == ("user", "assistant")
    assert not isinstance(question.parts[0], str)
    assert sample.task == task.name
    assert sample.reference.strip() == sample.reference != ""


@every_task
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_document_is_asked_for_in_its_language(task: Task, language: str) -> None:
    for index in range(6):
        chosen = [each for each in LANGUAGES if each == language]
        sample = task.generate(index, 4, FULL, chosen)
        assert sample.messages[0].text == task.instructions[chosen[0]]
        if language == "en":
            assert not re.search("[가-힣]", sample.reference)


@every_task
def test_both_languages_come_up(task: Task) -> None:
    asked = {sample.messages[0].text for sample in drawn(task, 24, 0.0, 0.3)}
    assert asked == set(task.instructions.values())


@every_task
@few
@given(index=indexes)
def test_a_target_is_rendered_for_people(task: Task, index: int) -> None:
    shown = task.render(task.generate(index, 1, FULL).reference)
    assert shown
    refuse_active(shown)


@every_task
@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_answer_is_rendered_as_text_or_not_at_all(task: Task, attack: str) -> None:
    target = task.generate(2, 1, (0.2, 0.4), ("en",)).reference
    for answer in [attack, *_poisoned(target, attack)]:
        shown = task.render(answer)
        if shown is not None:
            refuse_active(shown)


@pytest.mark.parametrize("attack", HOSTILE[:6])
def test_what_would_run_is_noticed(attack: str) -> None:
    with pytest.raises(AssertionError):
        refuse_active(f"<div>{attack}</div>")


def _poisoned(target: str, attack: str) -> Iterator[str]:
    """The target with the attack in place of a word, a number, everything inside."""
    yield re.sub(r"[A-Za-z]{3,}", lambda _: attack, target, count=4)
    yield re.sub(r"\d+", lambda _: attack, target, count=3)
    yield re.sub(r"(?<=>)[^<]+(?=<)", lambda _: attack, target)
    yield re.sub(r'(?<=")[^"]+(?=")', lambda _: json.dumps(attack)[1:-1], target)
    yield f"{target}{attack}"
    yield f"{attack}{target}"


def refuse_active(shown: str) -> None:
    """What a browser makes of the fragment holds nothing that runs, loads or leads away."""
    for element in lxml_html.fragment_fromstring(shown, create_parent="div").iter():
        if not isinstance(element.tag, str):
            continue
        assert element.tag.lower() not in ACTIVE
        for name, value in element.attrib.items():
            assert not str(name).lower().startswith("on")
            if str(name).lower() in HARMLESS:
                continue
            plain = re.sub(r"\s", "", str(value)).lower()
            for bad in ("javascript:", "//", "data:", "@import", "expression("):
                assert bad not in plain, (name, value)
