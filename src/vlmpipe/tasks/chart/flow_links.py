"""The arrows of Mermaid flowcharts, in all the ways to write them."""

from __future__ import annotations

import re

QUOTED = r'"[^"]*+"'
"""Over lines, too."""

LINK = re.compile(
    rf"""
    [ ]?(?:\w++@)?(?P<tail>[xo<])?
    (?:
      (?P<whole>--++[xo>]|---++|==++[xo>]|===++|-?\.++-[xo>]?|~~~++)
      (?:[ ]?\|[ ]?(?P<piped>{QUOTED}|[^|"\n]++)[ ]?\|)?
    | --(?P<solid>[ ]?{QUOTED}[ ]?|(?:[^-"\n]|-(?!-))++)(?P<solid_end>--++[xo>]|---++)
    | ==(?P<thick>[ ]?{QUOTED}[ ]?|(?:[^="\n]|=(?!=))++)(?P<thick_end>==++[xo>]|===++)
    | -\.(?P<dotted>[ ]?{QUOTED}[ ]?|(?:[^."\n]|\.(?!-))++)(?P<dotted_end>\.++-[xo>]?)
    )[ ]?
    """,
    re.VERBOSE,
)
"""With its text between bars or in its middle. Longer arrows mean the same, only longer."""

STYLES = {"-": ("--", "-"), "=": ("==", "="), ".": ("-.-", "")}
"""Shaft, and what takes the head's place where there is none."""

TAILS = {">": "<", "x": "x", "o": "o"}


def link_form(match: re.Match[str]) -> str | None:
    """The link at its shortest: `-->`, `---`, `<-->`, `-.->`, `==>`, `--x` and so on; None for
    an invisible one (`~~~`), which is not in the picture.
    """
    end = match["whole"] or match["solid_end"] or match["thick_end"] or match["dotted_end"]
    if end.startswith("~"):
        return None
    style = "." if "." in end else end[0]
    shaft, headless = STYLES[style]
    head = end[-1] if end[-1] in TAILS else ""
    tail = head and match["tail"] == TAILS[head]
    return f"{match['tail'] if tail else ''}{shaft}{head or headless}"


def link_text(match: re.Match[str]) -> str:
    """Its label, as it is written; empty without one."""
    return match["piped"] or match["solid"] or match["thick"] or match["dotted"] or ""
