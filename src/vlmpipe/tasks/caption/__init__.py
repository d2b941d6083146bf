"""Captions: scenes and their descriptions, their drawing, the facts that an answer got right."""

from vlmpipe.tasks.caption.task import CaptionTask

__all__ = ["CaptionTask"]
