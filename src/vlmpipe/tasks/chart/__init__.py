"""Charts: their generator, their drawing, their Mermaid, what an answer got right."""

from vlmpipe.tasks.chart.task import ChartTask

__all__ = ["ChartTask"]
