"""What libraries say for nothing is dropped; all else of theirs is still told."""

from __future__ import annotations

import logging
import warnings

import pytest

from vlmpipe.models.quiet import BITSANDBYTES_CPU, WITHOUT_KERNELS, quieten_known


@pytest.mark.parametrize(
    "name",
    [
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "is_gradient_checkpointing",
        "gradient_checkpointing_enable",
    ],
)
def test_transformers_renamed_attributes_are_not_told(name: str) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        quieten_known()
        text = f"`{name}` is deprecated and will be removed in v6. Use `activation` instead."
        warnings.warn(text, FutureWarning, stacklevel=1)
        assert told == []
        warnings.warn("`gradient_checkpointing` breaks this model", FutureWarning, stacklevel=1)
        warnings.warn(text, UserWarning, stacklevel=1)
    assert len(told) == 2


def test_only_the_missing_kernel_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    quieten_known()
    log = logging.getLogger(BITSANDBYTES_CPU)
    log.warning("%s%s. Please make sure", WITHOUT_KERNELS, "no module")
    log.warning("the library was built without this instruction set")
    assert [record.message for record in caplog.records] == [
        "the library was built without this instruction set"
    ]


def test_the_texts_are_those_of_the_installed_libraries(recwarn: pytest.WarningsRecorder) -> None:
    """Should one be said otherwise one day, this fails, and not a person's terminal."""
    from importlib.util import find_spec
    from pathlib import Path

    folder = find_spec("bitsandbytes")
    assert folder is not None
    assert folder.origin is not None
    source = Path(folder.origin).parent / "backends" / "cpu" / "ops.py"
    assert WITHOUT_KERNELS in source.read_text(encoding="utf-8")
    from transformers import TrainingArguments

    quieten_known()
    TrainingArguments(gradient_checkpointing=True)
    assert not [each for each in recwarn if "gradient_checkpointing" in str(each.message)]
