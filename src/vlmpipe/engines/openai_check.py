"""A server held against the preprocess contract when it is first asked, as far as it tells.

vLLM gives the ids of a prompt, llama-server its text and the tokens that it takes, this project's
gateway the latter. Of other servers nothing is known that could be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from vlmpipe.encoding.chat import IMAGE_SLOT, render
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Message
from vlmpipe.encoding.rendered import probe_conversations
from vlmpipe.engines.contract_check import id_faults, refuse
from vlmpipe.engines.openai_messages import chat_messages
from vlmpipe.engines.openai_server import Kind, OpenAIServer, ServedModel
from vlmpipe.engines.replies import understood
from vlmpipe.errors import ToolError

CHAT = "/v1/chat/completions"
Held = Literal["token ids", "prompt text and token counts", "token counts", "nothing"]
"""By what a server was held against the contract."""

HELD_BY: Mapping[Kind, Held] = {
    "vllm": "token ids",
    "llama-server": "prompt text and token counts",
    "vlmpipe": "token counts",
}


def check_server(server: OpenAIServer, model: ServedModel, contract: PreprocessContract) -> Held:
    """Hold the server against the conversations whose ids the contract states.

    Those of several images are left out where the server takes but one in a request.

    Raises:
        ArtifactError: naming each conversation in which it departs.
        VlmpipeError: when it cannot be asked.
    """
    if model.kind not in HELD_BY or not contract.rendered:
        return "nothing"
    asked = _Asked(server, model, contract)
    stated = asked.within_limits()
    if model.kind == "vllm":
        faults = list(id_faults(stated, asked.ids))
    else:
        faults = list(_count_faults(stated, asked.count))
    if model.kind == "llama-server":
        faults += _text_faults(server, stated)
    refuse(faults, f"{model.name} at {server.root}")
    return HELD_BY[model.kind]


class _Asked:
    """The server's own account of prompts, each at the price of one token."""

    def __init__(
        self, server: OpenAIServer, model: ServedModel, contract: PreprocessContract
    ) -> None:
        self._server = server
        self._model = model
        self._contract = contract
        self._image_id: int | None = None

    def within_limits(self) -> PreprocessContract:
        """The contract with what the server can be asked of it."""
        conversations = probe_conversations(has_vision=self._contract.has_vision)
        several = {name for name, turns in conversations.items() if _images(turns) > 1}
        try:
            for name in sorted(several)[:1]:
                self._reply(conversations[name])
        except ToolError:
            rendered = self._contract.rendered
            kept = {name: rendered[name] for name in rendered if name not in several}
            return self._contract.model_copy(update={"rendered": kept})
        return self._contract

    def count(self, messages: Sequence[Message]) -> int:
        """Tokens of the prompt, image tokens included."""
        reply = self._reply(messages)
        with understood(CHAT):
            return int(reply["usage"]["prompt_tokens"])

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the prompt, -1 for each token of an image."""
        if self._image_id is None and self._contract.has_vision:
            self._image_id = self._find_image_id()
        return [-1 if token == self._image_id else token for token in self._raw_ids(messages)]

    def _find_image_id(self) -> int | None:
        """The id that stands where the contract has an image's first token."""
        expected = self._contract.rendered["one image"].as_list()
        found = self._raw_ids(probe_conversations(has_vision=True)["one image"])
        place = expected.index(-1)
        return found[place] if place < len(found) else None

    def _raw_ids(self, messages: Sequence[Message]) -> list[int]:
        reply = self._reply(messages, return_token_ids=True)
        with understood(CHAT):
            return [int(token) for token in reply["prompt_token_ids"]]

    def _reply(self, messages: Sequence[Message], **more: Any) -> dict[str, Any]:
        order = {
            "model": self._model.name,
            "messages": chat_messages(messages, self._contract),
            "max_tokens": 1,
            "temperature": 0,
            **more,
        }
        return self._server.post(CHAT, order)


def _count_faults(
    contract: PreprocessContract, count_of: Callable[[Sequence[Message]], int]
) -> Iterator[str]:
    conversations = probe_conversations(has_vision=contract.has_vision)
    for name, case in contract.rendered.items():
        if name not in conversations:
            yield f"the contract states ids of {name!r}, a conversation not known here"
            continue
        found, expected = count_of(conversations[name]), len(case.as_list())
        if found != expected:
            yield f"{name}: the prompt takes {found} tokens, the contract states {expected}"


def _text_faults(server: OpenAIServer, contract: PreprocessContract) -> Iterator[str]:
    """Each conversation that llama-server's template makes another text of than training's."""
    with understood("/props"):
        marker = str(server.get("/props").get("media_marker", "<__media__>"))
    conversations = probe_conversations(has_vision=contract.has_vision)
    for name in contract.rendered.keys() & conversations.keys():
        messages = contract.conversation(conversations[name])
        sent = {"messages": chat_messages(messages, contract)}
        with understood("/apply-template"):
            found = str(server.post("/apply-template", sent)["prompt"]).replace(marker, IMAGE_SLOT)
        expected = render(contract.chat_template, messages, add_generation_prompt=True)
        if found != expected:
            yield f"{name}: the prompt is {_around(found, expected)}"


def _around(found: str, expected: str) -> str:
    pairs = enumerate(zip(found, expected, strict=False))
    place = next((i for i, (a, b) in pairs if a != b), min(len(found), len(expected)))
    here = slice(max(place - 10, 0), place + 30)
    return f"{found[here]!r} from character {here.start} on, training's {expected[here]!r}"


def _images(messages: Sequence[Message]) -> int:
    return sum(len(message.images) for message in messages)
