"""Which way a model goes into which Ollama, and what is known of the answers there.

Read in Ollama's own sources and issues; nothing here was seen on a running server, which is why
every route ends with a question that must be answered as the same file answers it in process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.engines.ollama_api import Version, version_of

RouteName = Literal["gguf", "split", "safetensors"]
"""`gguf`: one file. `split`: text and mmproj. `safetensors`: the merged 16-bit folder, which the
server itself makes one GGUF file of."""

OLDEST: Version = (0, 5, 5)
"""First release whose /api/create takes `files`; before it, a Modelfile on the server's disk."""

LLAMA_SERVER: Version = (0, 30, 0)
"""From here on Ollama runs llama.cpp's llama-server, which takes an mmproj as a file of its own
(release notes of 0.30.0; llm/llama_server.go, appendMMProjArgs). GGUF from safetensors is gone."""

SERVER_IMAGE_TOKENS = 1024
"""`--image-min-tokens` that it gives to every Qwen-VL model, not to be changed from outside
(llm/llama_server.go, qwenVLServerArgs; seen in 0.32.5, 0.32.6 and 0.35.1)."""

OWN_ENGINE: dict[str, Version] = {"qwen2_5_vl": (0, 7, 0), "qwen3_vl": (0, 12, 7)}
"""First release whose own engine runs a family, from one file made of safetensors
(convert/convert.go). It never had a converter for Qwen2-VL."""

NO_SILENT_PROJECTOR: Version = (0, 11, 11)
"""About the first release that does not ignore a projector beside such a model and invent an answer
(ollama #12241, merged in September 2025)."""


@dataclass(frozen=True)
class Route:
    """One way to try, and why."""

    name: RouteName
    reason: str


@dataclass(frozen=True)
class RoutePlan:
    """Ways in the order in which they are tried; none when the server is too old."""

    routes: tuple[Route, ...]
    notes: tuple[str, ...] = ()
    """What is known to be otherwise than in training there."""


def plan_routes(version: str, contract: PreprocessContract, *, has_merged: bool) -> RoutePlan:
    """The ways for a model into a server of this version.

    `has_merged`: the merged 16-bit folder is at hand.
    """
    number = version_of(version)
    if number != (0, 0, 0) and number < OLDEST:
        return RoutePlan((), (f"Ollama {version} cannot create a model from files sent to it",))
    if not contract.has_vision:
        return RoutePlan((Route("gguf", "a text model is one file"),))
    if number >= LLAMA_SERVER:
        reason = f"Ollama {version} runs llama-server, which takes text and mmproj as two files"
        return RoutePlan((Route("split", reason),), _image_size_notes(contract))
    if number == (0, 0, 0):
        reason = f"nothing is known of version {version!r}: tried, and asked"
        return RoutePlan((Route("split", reason), *_converted(contract, has_merged)))
    return _before_llama_server(version, number, contract, has_merged)


def _before_llama_server(
    version: str, number: Version, contract: PreprocessContract, has_merged: bool
) -> RoutePlan:
    notes = []
    split = Route(
        "split",
        f"Ollama {version} takes split vision models for old families only (ollama #12896, #13306):"
        " tried, and asked",
    )
    since = OWN_ENGINE.get(contract.family)
    if since is None or number < since:
        return RoutePlan((split,))
    if number < NO_SILENT_PROJECTOR:
        notes.append(f"Ollama {version} may ignore an mmproj and invent an answer (ollama #12241)")
    if not has_merged:
        notes.append("the merged 16-bit folder is not at hand, from which it makes one file itself")
    return RoutePlan((*_converted(contract, has_merged), split), tuple(notes))


def _converted(contract: PreprocessContract, has_merged: bool) -> tuple[Route, ...]:
    if not has_merged or contract.family not in OWN_ENGINE:
        return ()
    reason = "its own engine wants text and tower in one file, which it makes of the 16-bit weights"
    return (Route("safetensors", reason),)


def _image_size_notes(contract: PreprocessContract) -> tuple[str, ...]:
    smallest = contract.min_pixels // contract.grid.factor**2
    if smallest >= SERVER_IMAGE_TOKENS:
        return ()
    pixels = SERVER_IMAGE_TOKENS * contract.grid.factor**2
    return (
        f"Ollama enlarges images of fewer than {SERVER_IMAGE_TOKENS} tokens with its own resize;"
        f" this model was trained on images of {smallest} to {contract.max_image_tokens} tokens."
        f" Train with model.min_pixels={pixels}, or serve with llama-server or `vlmpipe serve`",
    )
