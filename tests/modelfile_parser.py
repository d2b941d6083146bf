"""Ollama's Modelfile parser, as its parser/parser.go has it: what `ollama create -f` would read."""

from __future__ import annotations


def parse_modelfile(text: str) -> list[tuple[str, str]]:
    """Commands in order: name (a parameter's own), and its unquoted text."""
    commands: list[tuple[str, str]] = []
    state, name, held = "nil", "", ""
    for sign in text:
        following, kept = _next(state, sign)
        if following != state:
            if state == "name":
                name = {"from": "model"}.get(held.lower(), held.lower())
                following = "parameter" if name == "parameter" else following
            elif state == "parameter":
                name = held
            elif state == "value":
                value = _unquoted(held.strip())
                if value is None or kept in (" ", "\t"):
                    held += kept
                    continue
                commands.append((name, value))
            held, state = "", following
        if kept and _is_print(kept):
            held += kept
    if state == "value":
        value = _unquoted(held.strip())
        if value is None:
            raise ValueError("unexpected EOF")
        commands.append((name, value))
    return commands


def _next(state: str, sign: str) -> tuple[str, str]:
    space, newline = sign in " \t", sign in "\r\n"
    if state == "nil":
        return ("nil", "") if space or newline else ("name", sign)
    if state == "name":
        return ("value", "") if space else ("name", sign)
    if state == "parameter":
        return ("value", "") if space else ("parameter", sign)
    return ("nil", sign) if space or newline else ("value", sign)


def _unquoted(text: str) -> str | None:
    for quote in ('"""', '"'):
        if text.startswith(quote):
            whole = len(text) >= 2 * len(quote) and text.endswith(quote)
            return text[len(quote) : -len(quote)] if whole else None
    return text


def _is_print(sign: str) -> bool:
    """Go's strconv.IsPrint: what Python calls printable, and no space but the plain one."""
    return sign.isprintable()
