"""Messages and samples, as every room of the project passes them on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL import Image

Role = Literal["system", "user", "assistant"]
Part = str | Image.Image
"""A piece of text, or an image in its original size."""


@dataclass(frozen=True)
class Message:
    """One turn: texts and images in the order in which they were given."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The turn's texts, joined."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """The turn's images."""
        return tuple(part for part in self.parts if not isinstance(part, str))


@dataclass(frozen=True)
class Sample:
    """A conversation that ends with the answer to learn."""

    id: str
    messages: tuple[Message, ...]
    """At least one user turn; the last turn is the assistant's."""

    task: str
    difficulty: float = 0.0
    """0 (easy) to 1, by the task's own measure."""

    origin: str = ""
    """Where it came from, `file:line`, for messages."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The conversation up to the last answer."""
        return self.messages[:-1]

    @property
    def reference(self) -> str:
        """The last answer's text."""
        return self.messages[-1].text

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """All images, in order."""
        return tuple(image for message in self.messages for image in message.images)
