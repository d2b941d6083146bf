"""Casts of a LoRA layer's input that autocast undoes at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FLAG = "cast_input_dtype_enabled"
"""PEFT's own switch on a layer."""


@contextmanager
def without_input_casts(model: Any, *, autocast: bool) -> Iterator[None]:
    """Leave out what PEFT casts within, backward pass included; nothing where `autocast` is off.

    PEFT casts the input of each adapted layer to the adapter's fp32, and autocast takes it back to
    16 bit for the product: a copy of the activations each way, forward and backward, whose result
    is the input bit for bit.
    """
    layers = [each for each in model.modules() if hasattr(each, FLAG)] if autocast else []
    for layer in layers:
        setattr(layer, FLAG, False)
    try:
        yield
    finally:
        for layer in layers:
            setattr(layer, FLAG, True)
