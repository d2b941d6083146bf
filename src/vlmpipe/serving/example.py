"""One request that a person can paste into a shell."""

from __future__ import annotations

import json
import re
import shlex
from itertools import chain
from pathlib import Path

ANY_IMAGE = "page.png"
"""Stands for the reader's own image."""


def curl_example(url: str, message: str, *, image: str | None) -> str:
    """A question for `POST /chat`, with an image file where the model sees."""
    send = f"curl {url}/chat -H 'Content-Type: application/json' -d"
    if image is None:
        return f'{send} \'{{"message": "{_plain(message)}"}}\''
    return (
        f'printf \'{{"message": "{_plain(message)}", "images": ["%s"]}}\''
        f' "$(base64 -w0 {shlex.quote(image)})" \\\n'
        f"  | {send} @-"
    )


def example_of_run(run_folder: Path, url: str) -> str | None:
    """The same with a question and an image that validate asked; None where it asked nothing."""
    folder = run_folder / "3_validate" / "latest"
    message = _first_question(folder / "predictions.jsonl")
    if message is None:
        return None
    pictures = folder / "samples"
    shown = chain(sorted(pictures.glob("heldout_*.png")), sorted(pictures.glob("train_*.png")))
    image = next(shown, None)
    return curl_example(url, message, image=None if image is None else str(image))


def _first_question(predictions: Path) -> str | None:
    try:
        with predictions.open(encoding="utf-8") as lines:
            return str(json.loads(next(lines))["prompt"]).replace("<image>", "").strip()
    except (OSError, ValueError, KeyError, StopIteration):
        return None


def _plain(message: str) -> str:
    """Text that means nothing to a shell, to printf or to JSON."""
    line = " ".join(re.sub(r"[^\w .,?!:()-]", " ", message).split())
    return line if len(line) <= 80 else line[:80].rsplit(" ", 1)[0]
