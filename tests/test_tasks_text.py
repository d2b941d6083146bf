"""Text metrics, the question task and the registry."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from vlmpipe.errors import ConfigError
from vlmpipe.tasks import TASKS, mean_metrics, task_named, task_of
from vlmpipe.tasks.metric_names import SMALLER_IS_BETTER, TITLES, smaller_is_better, title_of
from vlmpipe.tasks.qa import shipped_questions
from vlmpipe.tasks.text_metrics import character_error_rate, exact_match, text_metrics

METRICS_PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
QA = TASKS["qa"]
CORE = ["core-python", "core-ml", "core-web", "core-docker", "core-git"]


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("kitten", "sitting", 3 / 7),
        ("abc", "abc", 0.0),
        (" abc\n", "abc", 0.0),
        ("", "abc", 1.0),
        ("abcdef", "abc", 1.0),
        ("abcdefghi", "abc", 2.0),
        ("", "", 0.0),
        ("anything", "", 1.0),
        ("a", "  ", 1.0),
        ("a b", "ab", 0.5),
    ],
)
def test_character_error_rate(prediction: str, reference: str, expected: float) -> None:
    assert character_error_rate(prediction, reference) == pytest.approx(expected)


def test_decomposed_korean_is_the_same_text() -> None:
    word = "과적합"
    apart = unicodedata.normalize("NFD", word)
    assert apart != word
    assert exact_match(apart, word) == 1.0
    assert character_error_rate(apart, word) == 0.0


def test_agreement_is_clipped_and_error_rate_is_not() -> None:
    assert text_metrics("abcdefghi", "abc") == {"exact_match": 0.0, "agreement": 0.0, "cer": 2.0}


def test_case_and_inner_spaces_count() -> None:
    assert exact_match("Docker", "docker") == 0.0
    assert exact_match("a  b", "a b") == 0.0


def test_five_core_questions_come_first() -> None:
    assert [each.id for each in shipped_questions() if each.core] == CORE
    assert [QA.generate(index, 0, (0.0, 1.0)).id for index in range(5)] == CORE
    assert QA.always_trained == set(CORE)


def test_shipped_questions_are_distinct_short_and_composed() -> None:
    every = shipped_questions()
    assert len(every) == 30
    for name in ("id", "question", "answer"):
        assert len({getattr(each, name) for each in every}) == 30
    for each in every:
        assert 20 <= len(each.answer) <= 80
        assert unicodedata.is_normalized("NFC", each.question + each.answer)
        assert each.question.endswith("?")
        assert any("가" <= letter <= "힣" for letter in each.answer)


def test_questions_start_again_at_the_end_and_ignore_the_seed() -> None:
    first, again = QA.generate(2, 0, (0.0, 1.0)), QA.generate(32, 7, (0.0, 1.0))
    assert first == again
    assert first.images == ()
    assert first.origin == "qa_ko.jsonl:3"


def test_a_difficulty_range_chooses_among_the_questions() -> None:
    for index in range(40):
        assert QA.generate(index, 0, (0.0, 0.1)).difficulty <= 0.1
    assert QA.generate(0, 0, (0.9, 1.0)).id == "core-python"


def test_question_difficulty_is_the_length_of_the_answer() -> None:
    assert [QA.difficulty("가" * n) for n in (0, 200, 400, 4000)] == [0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("name", TASKS)
def test_every_task_measures_what_it_says(name: str) -> None:
    task = TASKS[name]
    sample = task.generate(0, 1, (0.0, 0.1), ["en"])
    right, wrong = task.measure(sample.reference, sample.reference), task.measure("", "x")
    assert task.name == name == sample.task
    assert right[task.primary_metric] == 1.0
    assert wrong[task.primary_metric] == 0.0
    # A metric may be missing where a reference has nothing that it measures; none appears anew.
    assert wrong.keys() <= right.keys() == task.measure("<table", sample.reference).keys()
    assert sample.messages[0].text.endswith(task.instructions["en"])


@pytest.mark.parametrize("name", TASKS)
def test_every_metric_of_a_task_has_a_title_and_the_direction_that_it_shows(name: str) -> None:
    task = TASKS[name]
    reference = task.generate(0, 1, (0.0, 0.1), ["en"]).reference
    right, wrong = task.measure(reference, reference), task.measure("{", reference)
    assert right.keys() <= TITLES.keys()
    for metric, value in right.items():
        assert value == float(metric not in SMALLER_IS_BETTER), metric
        if wrong[metric] != value:
            assert (wrong[metric] > value) == smaller_is_better(metric), metric


@pytest.mark.parametrize("name", TASKS)
def test_every_metric_of_a_task_is_explained_with_its_direction(name: str) -> None:
    task = TASKS[name]
    reference = task.generate(0, 1, (0.0, 0.1), ["en"]).reference
    page = METRICS_PAGE.read_text(encoding="utf-8")
    for metric in task.measure(reference, reference):
        assert f"`{metric}`" in page
        assert (f"| `{metric}` ↓ |" in page) == smaller_is_better(metric), metric


def test_names_without_a_title_are_shown_as_words() -> None:
    assert title_of("teds") == "TEDS"
    assert title_of("some_other_share") == "some other share"
    assert TITLES.keys() >= SMALLER_IS_BETTER
    assert smaller_is_better("loss_blank")
    assert not smaller_is_better("agreement")


def test_an_unknown_task_is_refused_with_a_near_miss() -> None:
    with pytest.raises(ConfigError, match="did you mean 'table'") as caught:
        task_named("tabel")
    assert "data.task=table|chart|molecule|caption|document|qa" in str(caught.value)
    assert task_named("qa") is QA


def test_foreign_tasks_are_measured_as_text() -> None:
    assert task_of("molecule").measure("CCO", "CCO")["agreement"] == 1.0
    assert task_of("table") is TASKS["table"]


def test_means_are_taken_metric_by_metric() -> None:
    assert mean_metrics([{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 0.5}]) == {"a": 0.5, "b": 0.25}
    assert mean_metrics([]) == {}


def test_answers_of_other_tasks_do_not_dilute_a_metric() -> None:
    rows = [{"cer": 0.2}, {"cer": 0.4, "teds": 0.5}]
    assert mean_metrics(rows) == {"cer": pytest.approx(0.3), "teds": 0.5}
