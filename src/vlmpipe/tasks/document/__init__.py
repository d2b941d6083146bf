"""Medical insurance forms: the schema, the made-up claims, the drawing, the metrics."""

from vlmpipe.tasks.document.task import DocumentTask

__all__ = ["DocumentTask"]
