"""The part of Go's text/template that a generated Ollama template may use; anything else raises.

Grammar and meaning after Go's text/template/parse: text, `range`, `if`, `else if`, `else`, `end`,
fields of the dot, string literals, and `eq`. Held against Go itself where Go is installed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_ACTION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_WORD = re.compile(r'\s*(?:(?P<string>"(?:[^"\\\n]|\\.)*")|(?P<name>\.?[A-Za-z_]\w*))')

Node = Callable[[Mapping[str, Any]], str]


def render_go(template: str, values: Mapping[str, Any]) -> str:
    """The template executed with `values` as its dot."""
    parser = _Parser(_tokens(template))
    nodes, ended_by = parser.block()
    if ended_by:
        raise ValueError(f"unexpected {{{{ {ended_by} }}}}")
    return "".join(node(values) for node in nodes)


def _tokens(template: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    position = 0
    for found in _ACTION.finditer(template):
        tokens.append(("text", template[position : found.start()]))
        inner = found[1]
        if inner.startswith(("-", "/*")) or inner.endswith("-"):
            raise ValueError(f"not of the part that is known: {found[0]}")
        tokens.append(("action", inner.strip()))
        position = found.end()
    rest = template[position:]
    if "{{" in rest:
        raise ValueError("unclosed action")
    return [*tokens, ("text", rest)]


@dataclass
class _Parser:
    tokens: list[tuple[str, str]]
    at: int = field(default=0)

    def block(self) -> tuple[list[Node], str]:
        """Nodes up to `end`, an `else` or the end of the template, and which of them it was."""
        nodes: list[Node] = []
        while self.at < len(self.tokens):
            kind, text = self.tokens[self.at]
            self.at += 1
            if kind == "text":
                nodes.append(lambda _, text=text: text)
            elif text == "end" or text.split()[:1] == ["else"]:
                return nodes, text
            elif text.startswith("range "):
                nodes.append(self._range(_value(text.removeprefix("range "))))
            elif text.startswith("if "):
                nodes.append(self._if(text.removeprefix("if ")))
            else:
                nodes.append(_action(text))
        return nodes, ""

    def _range(self, value: Callable[[Mapping[str, Any]], Any]) -> Node:
        body, ended_by = self.block()
        if ended_by != "end":
            raise ValueError("a range must end with {{ end }}")
        return lambda dot: "".join(node(item) for item in value(dot) for node in body)

    def _if(self, condition: str) -> Node:
        holds = _value(condition)
        body, ended_by = self.block()
        other: list[Node] = []
        if ended_by.startswith("else if "):
            other = [self._if(ended_by.removeprefix("else if "))]
        elif ended_by == "else":
            other, ended_by = self.block()
            if ended_by != "end":
                raise ValueError("an else must end with {{ end }}")
        elif ended_by != "end":
            raise ValueError("an if must end with {{ end }}")
        return lambda dot: "".join(node(dot) for node in (body if holds(dot) else other))


def _action(expression: str) -> Node:
    value = _value(expression)
    return lambda dot: str(value(dot))


def _value(expression: str) -> Callable[[Mapping[str, Any]], Any]:
    words = _words(expression)
    if words[:1] == ["eq"] and len(words) == 3:
        left, right = (_operand(word) for word in words[1:])
        return lambda dot: left(dot) == right(dot)
    if len(words) != 1:
        raise ValueError(f"not of the part that is known: {expression}")
    return _operand(words[0])


def _words(expression: str) -> list[str]:
    words, position = [], 0
    while position < len(expression.rstrip()):
        found = _WORD.match(expression, position)
        if not found:
            raise ValueError(f"not of the part that is known: {expression}")
        words.append(found["string"] or found["name"])
        position = found.end()
    return words


def _operand(word: str) -> Callable[[Mapping[str, Any]], Any]:
    if word.startswith('"'):
        text = json.loads(word)
        return lambda _: text
    if word.startswith("."):
        return lambda dot: dot[word[1:]]
    raise ValueError(f"not of the part that is known: {word}")


def render_ollama(template: str, messages: Sequence[Mapping[str, Any]], system: str | None) -> str:
    """A prompt as Ollama makes it: images marked, the model's system prompt put first, neighbours
    of one role merged (ChatHandler, chatPrompt and collate in its source).
    """
    turns = [dict(message) for message in messages]
    if system and turns and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": system})
    count = 0
    for turn in turns:
        prefix = ""
        for _ in turn.get("images") or ():
            mark, count = f"[img-{count}]", count + 1
            if "[img]" in turn["content"]:
                turn["content"] = turn["content"].replace("[img]", mark, 1)
            else:
                prefix += mark
        turn["content"] = prefix + turn["content"]
    collated: list[dict[str, Any]] = []
    for turn in turns:
        if collated and collated[-1]["role"] == turn["role"]:
            collated[-1]["content"] += "\n\n" + turn["content"]
        else:
            collated.append(turn)
    dots = [{"Role": turn["role"], "Content": turn["content"]} for turn in collated]
    return render_go(template, {"Messages": dots})
