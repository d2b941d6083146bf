"""Trying a model out without leaving a trace: no weight, gradient, mode or generator differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Training mode and no gradients in here; afterwards modes, gradients and random generators of
    torch, NumPy and Python are what they were. Weights are the block's own affair.
    """
    import torch

    with _random_state_kept(), _modes_kept(model), _gradients_kept(model):
        torch.manual_seed(0)
        model.train()
        yield


@contextmanager
def _random_state_kept() -> Iterator[None]:
    import random

    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def _gradients_kept(model: Any) -> Iterator[None]:
    before = {name: parameter.grad for name, parameter in model.named_parameters()}
    set_gradients(model, {})
    try:
        yield
    finally:
        set_gradients(model, before)


def set_gradients(model: Any, gradients: Mapping[str, Any]) -> None:
    """Give each parameter its gradient, none to those without one."""
    for name, parameter in model.named_parameters():
        parameter.grad = gradients.get(name)


@contextmanager
def _modes_kept(model: Any) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
