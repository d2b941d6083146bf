"""The page at `/`: what is served, and a form to try it."""

from __future__ import annotations

import html
import json
from functools import cache
from importlib.resources import files

from vlmpipe.serving.settings import ServiceSettings


def render_page(settings: ServiceSettings, nonce: str) -> str:
    """Self-contained HTML; `nonce` is the one that its content security policy names."""
    facts = {
        "Model": settings.model_id,
        "Takes": "text and images" if settings.has_vision else "text",
        "Context": f"{settings.n_ctx} tokens",
        "Longest answer": f"{settings.max_new_tokens} tokens",
    }
    rows = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>"
        for name, value in facts.items()
    )
    limits = {"vision": settings.has_vision, "bytes": settings.max_image_bytes}
    return (
        _template()
        .replace("@NONCE@", nonce)
        .replace("@TITLE@", html.escape(settings.model_id))
        .replace("@FACTS@", rows)
        .replace("@LIMITS@", json.dumps(limits))
    )


@cache
def _template() -> str:
    return files("vlmpipe.serving").joinpath("page.html").read_text(encoding="utf-8")
