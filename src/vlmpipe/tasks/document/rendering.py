"""A claim as people look at it: a table of its fields."""

from __future__ import annotations

import html

from vlmpipe.tasks.document.claim import Claim


def claim_html(claim: Claim) -> str:
    """A table with one row a field, items as a table within; all text escaped, no attributes."""
    rows = (_row(name, value) for name, value in claim.model_dump(exclude_none=True).items())
    return f"<table>{''.join(rows)}</table>"


def _row(name: str, value: object) -> str:
    content = _items(value) if isinstance(value, list) else _shown(value)
    return f"<tr><th>{html.escape(name)}</th><td>{content}</td></tr>"


def _items(items: list[dict[str, object]]) -> str:
    rows = ("".join(f"<td>{_shown(value)}</td>" for value in item.values()) for item in items)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return html.escape(f"{value:,}" if isinstance(value, int) else str(value))
