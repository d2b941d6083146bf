"""The same samples through engines that die, hang and babble: records, resuming, summaries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import jsonschema
import psutil
import pytest

from scripted_engines import asked, open_nothing, order_of, with_pictures
from vlmpipe.errors import StageError
from vlmpipe.evaluation.measuring import MetricPool
from vlmpipe.evaluation.records import read_records, record_schema
from vlmpipe.evaluation.side_by_side.child import Plan
from vlmpipe.evaluation.side_by_side.every import evaluate
from vlmpipe.evaluation.side_by_side.ledger import SUPERSEDED
from vlmpipe.evaluation.side_by_side.run import Setting, ask_engine
from vlmpipe.pipeline.events import SilentReporter

pytestmark = pytest.mark.slow  # each engine is a process of its own


@pytest.fixture(scope="module")
def pool():
    with MetricPool(1) as found:
        yield found


@pytest.fixture
def diary(tmp_path):
    return tmp_path / "diary"


@pytest.fixture
def ask(tmp_path, pool, diary):
    """Ask a scripted engine; the pass and its records in the order of the file."""

    def run(source, order=None, *, timeout_s=60.0, plan=None, whole=True, limit=8):
        setting = Setting(
            source=source,
            plan=plan or Plan(max_new_tokens=limit),
            folder=tmp_path / "predictions",
            log=tmp_path / "evaluate.log",
            seed=3,
            timeout_s=timeout_s,
            whole=whole,
        )
        found = ask_engine(order or order_of(diary), setting, pool, lambda *_: None)
        return found, list(read_records(found.path))

    return run


def prompts(diary):
    return diary.read_text(encoding="utf-8").splitlines()


def summary_of(found):
    return json.loads(found.path.with_name(found.path.stem + ".summary.json").read_text())


def test_a_record_says_what_produced_it(ask):
    found, (record,) = ask(asked("say:two words"))
    assert (found.written, found.failed, found.known) == (1, 0, 0)
    assert record.engine == "hf:scripted"
    assert record.engine_version == "scripted 1"
    assert record.model_name == "scripted"
    assert (record.lora_enabled, record.merge_state, record.quantization) == (False, "base", None)
    assert record.digests == {"weights": "1" * 64}
    assert record.preprocess_contract == "2" * 64
    assert (record.seed, record.sampling.temperature, record.sampling.max_new_tokens) == (3, 0, 8)
    assert record.metrics["exact_match"] == 1.0
    assert (record.loss, record.token_accuracy, record.reference_tokens) == (1.0, 0.75, 4)
    jsonschema.validate(json.loads(record.as_line()), record_schema())


def test_records_stand_in_the_order_of_the_samples(ask):
    _, records = ask(asked(*(f"say:{number}" for number in range(20))))
    assert [record.sample for record in records] == [f"s{number}" for number in range(20)]
    assert [record.prediction for record in records] == [str(number) for number in range(20)]


def test_an_engine_that_dies_loses_one_sample_and_the_rest_go_on(ask):
    found, records = ask(asked("say:a", "die:b", "say:c"))
    assert [record.status for record in records] == ["answered", "failed", "answered"]
    assert "SIGSEGV" in records[1].error
    assert (found.written, found.failed, found.given_up) == (3, 1, None)


def test_the_next_run_asks_only_what_failed(ask, diary):
    source = asked("say:a", "die once:b", "say:c")
    ask(source)
    diary.unlink()
    found, records = ask(source)
    assert prompts(diary) == ["die once:b"]
    assert (found.known, found.written, found.failed) == (2, 1, 0)
    assert sorted(record.sample for record in records) == ["s0", "s1", "s2"]
    assert all(record.status == "answered" for record in records)


def test_an_engine_that_always_dies_is_given_up(ask):
    found, records = ask(asked("die:a", "die:b", "die:c", "say:d"))
    assert "3 times in a row" in found.given_up
    assert [record.status for record in records] == ["failed"] * 3


def test_an_engine_that_hangs_is_ended(ask):
    found, records = ask(asked("say:a", "hang:b", "say:c"), timeout_s=3.0)
    assert [record.status for record in records] == ["answered", "failed", "answered"]
    assert "no answer for 3 s" in records[1].error
    assert found.failed == 1


def test_an_unexpected_exception_is_told_in_the_record(ask):
    _, records = ask(asked("bug:a", "say:b"))
    assert "RuntimeError: out of memory, say" in records[0].error
    assert records[1].status == "answered"


def test_a_refused_conversation_fails_alone_without_a_restart(ask):
    _, records = ask(asked("refuse:a", "say:b"))
    assert records[0].error == "the conversation does not fit"
    assert records[1].status == "answered"


def test_a_reference_that_cannot_be_scored_leaves_the_answer(ask):
    _, (record,) = ask(asked("unscorable:a"))
    assert (record.status, record.loss, record.prediction) == ("answered", None, "a")


def test_endless_generation_is_cut_and_counted(ask):
    found, (record,) = ask(asked("endless:a"))
    assert record.cut
    assert record.completion_tokens == 8
    assert summary_of(found)["splits"]["heldout"]["cut"] == 1


def test_half_a_character_does_not_spoil_the_file(ask):
    found, (record,) = ask(asked("half:moon"))
    assert record.prediction == "?moon"
    found.path.read_bytes().decode("utf-8")


def test_a_megabyte_is_measured_like_any_answer(ask):
    _, (record,) = ask(asked("huge:x"))
    assert len(record.prediction) == 1_000_000
    assert record.metrics["exact_match"] == 0.0
    assert record.unmeasured is None


def test_a_sample_changed_under_its_id_is_asked_again(ask, diary):
    ask(asked("say:a", "say:b"))
    diary.unlink()
    _, records = ask(asked("say:a", "say:other"))
    assert prompts(diary) == ["say:other"]
    assert [(r.sample, r.prediction) for r in records] == [("s0", "a"), ("s1", "other")]


def test_samples_that_left_the_data_leave_the_records(ask):
    ask(asked("say:a", "say:b"))
    _, records = ask(asked("say:a"))
    assert [record.sample for record in records] == ["s0"]


def test_a_first_look_keeps_what_is_known_of_the_others(ask):
    ask(asked("say:a", "say:b"))
    _, records = ask(asked("say:a"), whole=False)
    assert [record.sample for record in records] == ["s0", "s1"]


def test_a_first_look_leaves_failures_of_the_others_in_the_file(ask):
    ask(asked("say:a", "refuse:b"))
    found, records = ask(asked("say:a"), whole=False)
    assert found.known == 1
    assert [(r.sample, r.status) for r in records] == [("s0", "answered"), ("s1", "failed")]


def test_losses_that_were_not_asked_for_are_asked_for_later(ask, diary):
    _, (record,) = ask(asked("say:a"), plan=Plan(max_new_tokens=8, scored=False))
    assert (record.loss, record.unscored) == (None, "not asked for")
    _, (record,) = ask(asked("say:a"), plan=Plan(max_new_tokens=8))
    assert (record.loss, record.unscored) == (1.0, None)
    diary.unlink()
    ask(asked("say:a"), plan=Plan(max_new_tokens=8, scored=False))
    assert not diary.exists()


def test_an_engine_that_cannot_score_is_not_asked_twice(ask, diary):
    _, (record,) = ask(asked("say:a"), order_of(diary, can_score=False))
    assert "cannot say how likely" in record.unscored
    diary.unlink()
    ask(asked("say:a"), order_of(diary, can_score=False))
    assert not diary.exists()


def test_one_of_several_in_flight_kills_the_engine_and_the_others_are_asked_again(ask, diary):
    prompts_ = ["say:a", "say:b", "die:c", "say:d", "say:e"]
    found, records = ask(asked(*prompts_), order_of(diary, window=4))
    assert (found.failed, found.given_up) == (1, None)
    assert {r.sample: r.status for r in records} == {
        "s0": "answered",
        "s1": "answered",
        "s2": "failed",
        "s3": "answered",
        "s4": "answered",
    }


def test_other_arithmetic_or_another_resize_is_another_system(ask, diary):
    ask(asked("say:a"))
    for changed in ({"compute": {"dtype": "bfloat16"}}, {"image_resize": "runtime"}):
        diary.unlink()
        found, _ = ask(asked("say:a"), replace(order_of(diary), **changed))
        assert prompts(diary) == ["say:a"]
        assert found.set_aside is not None


def test_another_model_behind_the_same_address_is_another_system(ask, diary):
    ask(asked("say:a"), order_of(diary, serves="alpha"))
    diary.unlink()
    found, (record,) = ask(asked("say:a"), order_of(diary, serves="beta"))
    assert prompts(diary) == ["say:a"]
    assert record.model_name == "beta"
    assert found.set_aside is not None


def test_a_place_that_cannot_be_written_is_told(tmp_path, ask):
    (tmp_path / "predictions").write_text("a file")
    with pytest.raises(StageError, match="records cannot be written to"):
        ask(asked("say:a"))


def test_children_end_with_a_parent_that_is_killed(tmp_path, diary):
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from scripted_engines import asked, order_of\n"
        "from vlmpipe.evaluation.side_by_side.child import Plan\n"
        "from vlmpipe.evaluation.side_by_side.process import EngineProcess\n"
        "if __name__ == '__main__':\n"
        "    order, log = order_of(Path(sys.argv[1])), Path(sys.argv[1] + '.log')\n"
        "    with EngineProcess(order, asked('hang:a'), Plan(8), log, timeout_s=600) as process:\n"
        "        process.ready()\n"
        "        print(process._process.pid, flush=True)\n"
        "        sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, script, diary],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running()


def test_records_of_other_weights_are_set_aside(ask, diary, tmp_path):
    ask(asked("say:a"))
    diary.unlink()
    changed = replace(order_of(diary), digests={"weights": "3" * 64})
    found, records = ask(asked("say:a"), changed)
    assert prompts(diary) == ["say:a"]
    assert [record.digests["weights"] for record in records] == ["3" * 64]
    (old,) = read_records(found.set_aside)
    assert old.digests["weights"] == "1" * 64
    assert found.set_aside.parent == tmp_path / "predictions" / SUPERSEDED


def test_another_limit_is_another_system(ask, diary):
    ask(asked("say:a"))
    diary.unlink()
    found, _ = ask(asked("say:a"), limit=9)
    assert prompts(diary) == ["say:a"]
    assert found.set_aside is not None


def test_two_splits_share_a_file_and_not_their_samples(ask):
    ask(asked("say:a"))
    other = replace(asked("say:b"), name="more.jsonl")
    found, records = ask(other)
    assert [(r.split, r.prediction) for r in records] == [("heldout", "a"), ("more.jsonl", "b")]
    assert set(summary_of(found)["splits"]) == {"heldout", "more.jsonl"}


def test_a_line_cut_off_in_writing_is_asked_again(ask, diary):
    found, _ = ask(asked("say:a", "say:b"))
    text = found.path.read_bytes()
    found.path.write_bytes(text[:-40])
    diary.unlink()
    _, records = ask(asked("say:a", "say:b"))
    assert prompts(diary) == ["say:b"]
    assert [record.sample for record in records] == ["s0", "s1"]


def test_image_reliance_is_measured_and_remembered(ask, diary):
    source, plan = with_pictures(3), Plan(max_new_tokens=8, reliance_samples=2)
    found, _ = ask(source, plan=plan)
    facts = summary_of(found)["passes"]["heldout"]
    assert facts["reliance"]["loss_true"] == 0.5
    assert facts["reliance"]["image_gain"] == 0.0
    assert facts["reliance_samples"] == 2
    diary.unlink()
    again, _ = ask(source, plan=plan)
    assert not diary.exists()
    assert summary_of(again)["passes"]["heldout"] == facts


def test_asking_with_more_other_images_measures_again(ask, diary):
    source = with_pictures(3)
    ask(source, plan=Plan(max_new_tokens=8, reliance_samples=2))
    diary.unlink()
    found, _ = ask(source, plan=Plan(max_new_tokens=8, reliance_samples=3))
    assert summary_of(found)["passes"]["heldout"]["reliance_samples"] == 3
    assert diary.exists()


def test_an_engine_that_dies_of_a_blank_image_keeps_its_answers(ask, diary):
    source, plan = with_pictures(3), Plan(max_new_tokens=8, reliance_samples=2)
    found, records = ask(source, order_of(diary, dies_of_blank=True), plan=plan)
    assert (found.failed, found.given_up) == (0, None)
    assert [record.status for record in records] == ["answered"] * 3
    assert "SIGSEGV" in summary_of(found)["passes"]["heldout"]["reliance_unmeasured"]


def test_the_engine_is_busy_and_its_memory_known(ask, diary):
    found, _ = ask(asked(*["say:a"] * 5), order_of(diary, answer_seconds=0.05))
    facts = summary_of(found)["passes"]["heldout"]
    assert 0.5 < facts["busy"] <= 1.0
    assert facts["peak_memory_mib"] > 10


def test_an_engine_that_cannot_be_opened_says_why(ask, diary):
    with pytest.raises(Exception, match="there is no such server"):
        ask(asked("say:a"), replace(order_of(diary), open=open_nothing))


def test_engines_are_set_side_by_side_past_one_that_is_absent(tmp_path, diary):
    setting = Setting(
        source=asked("say:a", "say:b"),
        plan=Plan(max_new_tokens=8),
        folder=tmp_path / "predictions",
        log=tmp_path / "log",
        seed=0,
        timeout_s=60.0,
        whole=True,
    )
    orders = [
        order_of(diary, "hf:one"),
        replace(order_of(diary, "hf:gone"), open=open_nothing),
        order_of(diary, "hf:two"),
    ]
    found = evaluate(orders, setting, SilentReporter())
    assert [each.engine for each in found.standings] == ["hf:one", "hf:two"]
    assert isinstance(found.refused["hf:gone"], Exception)
    assert not found.complete
    first, second = found.standings
    assert (found.against, first.difference) == ("hf:one", None)
    assert (second.difference.difference, second.same_answers) == (0.0, 1.0)


def test_engines_are_held_against_the_model_as_it_was_trained(tmp_path, diary):
    setting = Setting(
        source=asked("say:a"),
        plan=Plan(max_new_tokens=8),
        folder=tmp_path / "predictions",
        log=tmp_path / "log",
        seed=0,
        timeout_s=60.0,
        whole=True,
    )
    orders = [order_of(diary, "hf:base"), order_of(diary, "hf:adapter")]
    assert evaluate(orders, setting, SilentReporter()).against == "hf:adapter"
    assert evaluate(orders, setting, SilentReporter(), against="hf:base").against == "hf:base"
