"""A real sample as a request: to the worker, to `/chat`, to `/v1/chat/completions`."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Sample
from vlmpipe.serving.settings import ServiceSettings
from vlmpipe.serving.wire import WireMessage, WirePart, WireRequest


@dataclass(frozen=True)
class Probe:
    """The last question of a sample: its images, then its text."""

    text: str
    images: tuple[str, ...]
    """base64 of PNG files."""

    @property
    def chat_body(self) -> dict[str, Any]:
        """For `POST /chat`."""
        return {"message": self.text, "images": list(self.images)}

    def completion_body(self, model_id: str, **extra: Any) -> dict[str, Any]:
        """The same question for `POST /v1/chat/completions`."""
        parts: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
            for image in self.images
        ]
        content = [*parts, {"type": "text", "text": self.text}]
        return {"model": model_id, "messages": [{"role": "user", "content": content}], **extra}

    def wire(self, max_new_tokens: int) -> WireRequest:
        """The same question for a worker."""
        parts = (*(WirePart(image=image) for image in self.images), WirePart(text=self.text))
        message = WireMessage(role="user", parts=parts)
        return WireRequest(messages=(message,), max_new_tokens=max_new_tokens)


def probe_of(sample: Sample, contract: PreprocessContract, settings: ServiceSettings) -> Probe:
    """The question of a sample; an image beyond the service's limits is sent on its grid."""
    question = next(turn for turn in reversed(sample.prompt) if turn.role == "user")
    images = [_encoded(image, contract, settings) for image in question.images]
    return Probe(question.text, tuple(images))


def _encoded(image: Image.Image, contract: PreprocessContract, settings: ServiceSettings) -> str:
    data = _png(image)
    too_many = image.width * image.height > settings.max_image_pixels
    if too_many or len(data) > settings.max_image_bytes:
        data = _png(contract.grid.prepare(image))
    return base64.b64encode(data).decode()


def _png(image: Image.Image) -> bytes:
    stream = BytesIO()
    image.save(stream, format="PNG", compress_level=1)
    return stream.getvalue()
