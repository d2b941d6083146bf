"""A plan's micro-batches as torch's data loader takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch.utils.data import Dataset, Sampler

from vlmpipe.training.batching.rows import Batch, Row


class PlanSampler(Sampler[list[Row]]):
    """The micro-batches of one process, in the plan's order: `DataLoader(batch_sampler=...)`.

    Nothing is encoded to skip some (`accelerate.skip_first_batches`).
    """

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[Row]]:
        return (list(batch) for batch in self._batches)

    def __len__(self) -> int:
        return len(self._batches)


class PlannedRows(Dataset[Row]):
    """Hands rows on to the collator as they are: it is the collator that encodes."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __getitem__(self, row: Row) -> Row:
        return row

    def __len__(self) -> int:
        return self._rows
