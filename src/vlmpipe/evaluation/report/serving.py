"""How to serve what a run made, and one request to try."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from vlmpipe.evaluation.report.stages import PublishedStage

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000


def serving_commands(deploy: PublishedStage) -> list[tuple[str, str]]:
    """(what it does, command line) pairs."""
    settings = deploy.manifest.settings
    host = settings.get("deploy.host", DEFAULT_HOST)
    port = settings.get("deploy.port", DEFAULT_PORT)
    address = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    return [
        ("start it", shlex.join(serve_argv(deploy.manifest.argv))),
        ("is it ready?", f"curl {address}/health"),
        ("ask about an image", _chat(address)),
    ]


def serve_argv(argv: Sequence[str]) -> list[str]:
    """`vlmpipe serve` with the configuration files and words that a command line gave."""
    words = list(argv[1:])
    kept: list[str] = []
    while words:
        word = words.pop(0)
        if word in ("-c", "--config") and words:
            kept += ["-c", words.pop(0)]
        elif "=" in word and not word.startswith("-"):
            kept.append(word)
    return ["vlmpipe", "serve", *kept]


def _chat(address: str) -> str:
    return (
        f"curl {address}/chat -H 'Content-Type: application/json' \\\n"
        '  -d "{\\"message\\": \\"What does this show?\\",'
        ' \\"images\\": [\\"data:image/png;base64,$(base64 -w0 page.png)\\"]}"'
    )
