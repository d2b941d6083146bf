"""How to serve what a run made, and one request to try."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from vlmpipe.evaluation.published import PublishedStage
from vlmpipe.serving.example import ANY_IMAGE, curl_example, example_of_run

HOST, PORT = "127.0.0.1", "8000"
"""Where `vlmpipe serve` listens unless told otherwise."""


def serving_commands(deploy: PublishedStage) -> list[tuple[str, str]]:
    """(what it does, command line) pairs."""
    argv = serve_argv(deploy.manifest.argv)
    address = f"http://{HOST}:{_word(argv, 'deploy.port') or PORT}"
    service = deploy.read_json("bundle/service.json")
    vision = not isinstance(service, dict) or service.get("has_vision", True)
    ask = example_of_run(deploy.folder.parents[1], address) or curl_example(
        address, "What does this show?", image=ANY_IMAGE if vision else None
    )
    return [
        ("start it", shlex.join(argv)),
        ("is it ready?", f"curl {address}/health"),
        ("ask about an image" if vision else "ask", ask),
    ]


def serve_argv(argv: Sequence[str]) -> list[str]:
    """`vlmpipe serve` with the configuration files and words that a command line gave."""
    words = list(argv[1:])
    kept: list[str] = []
    while words:
        word = words.pop(0)
        if word in ("-c", "--config") and words:
            kept += ["-c", words.pop(0)]
        elif word == "--use" and words:
            words.pop(0)
        elif "=" in word and not word.startswith("-"):
            kept.append(word)
    return ["vlmpipe", "serve", *kept]


def _word(argv: Sequence[str], key: str) -> str | None:
    values = [word.removeprefix(f"{key}=") for word in argv if word.startswith(f"{key}=")]
    return shlex.quote(values[-1]) if values else None
