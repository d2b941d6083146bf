"""Tables: the synthetic generator, the drawing, the metrics."""

from vlmpipe.tasks.table.task import TableTask

__all__ = ["TableTask"]
