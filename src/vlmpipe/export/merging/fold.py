"""How one tensor of a merged model comes about: rows of an original, and an adapter's update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vlmpipe.export.merging.safetensors_stream import StoredTensor

Rows = Callable[[int, int], Any]
"""Rows [begin, end) of a matrix, as [rows, values of a row]."""

Original = Callable[[StoredTensor], Rows]
"""From the base's tensor to the rows that are written or updated."""


@dataclass(frozen=True)
class Factors:
    """One module's update: `scale * up @ down`, and with DoRA the length of each row."""

    down: Any
    """A, [rank, in], float32."""

    up: Any
    """B, [out, rank], float32."""

    scale: float
    magnitude: Any | None = None
    """DoRA's m, [out], float32."""

    def apply(self, rows: Any, begin: int, end: int, out: Any) -> None:
        """Rows [begin, end) of W to those of W' in `out`, which is float32.

        W' = W + scale * B @ A; with DoRA (arXiv 2402.09353) its rows, which are the columns of the
        paper's transposed matrix, are brought to their trained length m.
        """
        import torch

        torch.mm(self.up[begin:end], self.down, out=out)
        out.mul_(self.scale).add_(rows)
        if self.magnitude is not None:
            length = torch.linalg.vector_norm(out, dim=1)
            out.mul_((self.magnitude[begin:end] / length).unsqueeze(1))


@dataclass(frozen=True)
class Change:
    """What becomes of one tensor that is not simply copied."""

    original: Original
    factors: Factors | None = None
    keys: tuple[str, ...] = ()
    """Keys of the adapter's file that go into it."""


def as_stored(stored: StoredTensor) -> Rows:
    """The base's own values."""
    return stored.rows


def whole(load: Callable[[], Any]) -> Original:
    """A tensor that takes the place of the base's."""

    def original(stored: StoredTensor) -> Rows:
        matrix = load().contiguous().reshape(stored.span.rows, stored.span.row_values)
        return lambda begin, end: matrix[begin:end]

    return original
