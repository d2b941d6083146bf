"""The command that a failure is told with."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlmpipe.errors import StageError
from vlmpipe.pipeline.failures import explained

COMMAND = "vlmpipe run-all -c a.yaml run.name=x train.max_length=100 train.max_length_x=1"


def told(*remedies: str) -> str:
    with pytest.raises(StageError) as caught, explained("setup", Path(), lambda: COMMAND):
        raise StageError("too long", *remedies)
    return caught.value.remedies[-1]


def test_a_setting_that_a_remedy_changes_is_not_to_be_given_again_as_it_was() -> None:
    found = told("raise it: train.max_length=4740", "or data.on_bad_sample=skip")
    assert found == f"then go on with this, with another value of train.max_length: {COMMAND}"


def test_a_command_without_the_fault_is_told_as_it_is() -> None:
    assert told("free some space") == f"then go on with: {COMMAND}"
    assert told("leave them out: data.on_bad_sample=skip") == f"then go on with: {COMMAND}"
