"""Cut the shipped fonts out of Debian's and write them as package data.

    apt-get install fonts-liberation2 fonts-lato fonts-comic-neue fonts-dancingscript \
        fonts-nanum fonts-nanum-extra
    pip install fonttools
    python scripts/make_fonts.py [--root /usr/share/fonts]

Every source is under the SIL Open Font License 1.1. Its reserved names may not be used by modified
files, so each file is renamed "Pipeline ..."; copyright and licence fields stay inside. Latin faces
keep printable ASCII and common signs; Korean ones the 2,350 syllables of KS X 1001 as well.
Hinting is dropped: pictures then depend on the outlines alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fontTools import subset
from fontTools.ttLib import TTFont

TARGET = Path(__file__).parent.parent / "src/vlmpipe/drawing/fonts"
LATIN = "".join(map(chr, range(0x20, 0x7F)))
SIGNS = "°±·×÷µ£€¥©®²³½¼–—‘’“”…•≤≥≠→←↑↓αβγΔδλμπσΩ₩✓□■○●△"
JAMO = "".join(map(chr, range(0x3131, 0x3164)))

SOURCES: dict[str, tuple[str, str, str]] = {
    "sans": ("truetype/liberation2/LiberationSans-Regular.ttf", "print", "latin"),
    "sans-bold": ("truetype/liberation2/LiberationSans-Bold.ttf", "print", "latin"),
    "serif": ("truetype/liberation2/LiberationSerif-Regular.ttf", "print", "latin"),
    "serif-bold": ("truetype/liberation2/LiberationSerif-Bold.ttf", "print", "latin"),
    "mono": ("truetype/liberation2/LiberationMono-Regular.ttf", "print", "latin"),
    "lato": ("truetype/lato/Lato-Regular.ttf", "print", "latin"),
    "casual": ("opentype/comic-neue/ComicNeue-Regular.otf", "hand", "latin"),
    "script": ("opentype/dancingscript/DancingScript-Regular.otf", "hand", "latin"),
    "gothic": ("truetype/nanum/NanumGothic.ttf", "print", "korean"),
    "gothic-bold": ("truetype/nanum/NanumGothicBold.ttf", "print", "korean"),
    "myeongjo": ("truetype/nanum/NanumMyeongjo.ttf", "print", "korean"),
    "pen": ("truetype/nanum/NanumPen.ttf", "hand", "korean"),
}
"""Our name: the file in Debian's packages, `print` or `hand`, the script it is kept for."""


def common_hangul() -> str:
    """The syllables of KS X 1001, which the codec of that name can encode in two bytes."""
    syllables = map(chr, range(0xAC00, 0xD7A4))
    return "".join(each for each in syllables if len(each.encode("euc_kr", "ignore")) == 2)


def cut(source: Path, target: Path, name: str, text: str) -> list[list[int]]:
    """Write the face with what it has of `text`; return its code points as ranges."""
    options = subset.Options(
        hinting=False, desubroutinize=True, layout_features=["kern"], notdef_outline=True
    )
    options.name_IDs = [0, 1, 2, 3, 4, 5, 6, 13, 14]
    font = subset.load_font(str(source), options)
    cutter = subset.Subsetter(options)
    cutter.populate(text=text)
    cutter.subset(font)
    _rename(font, f"Pipeline {name.replace('-', ' ').title()}")
    # Dates are the only thing in the file that would change from one making to the next.
    font["head"].modified = font["head"].created
    font.recalcTimestamp = False
    font.save(str(target))
    return _ranges(sorted(font.getBestCmap()))


def _rename(font: TTFont, family: str) -> None:
    names: Any = font["name"]
    for record in names.names:
        new = {1: family, 3: family, 4: family, 6: family.replace(" ", "")}.get(record.nameID)
        if new:
            names.setName(new, record.nameID, record.platformID, record.platEncID, record.langID)
    if "CFF " in font:
        cff = font["CFF "].cff
        cff.fontNames = [family.replace(" ", "")]
        cff[0].rawDict.update(FamilyName=family, FullName=family)


def _ranges(points: list[int]) -> list[list[int]]:
    ranges: list[list[int]] = []
    for point in points:
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return ranges


def main() -> None:
    """Write every face and `faces.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("/usr/share/fonts"))
    root = parser.parse_args().root
    faces = {}
    for name, (path, style, script) in SOURCES.items():
        text = LATIN + SIGNS + (JAMO + common_hangul() if script == "korean" else "")
        file = f"{name}{Path(path).suffix}"
        ranges = cut(root / path, TARGET / file, name, text)
        faces[name] = {"file": file, "style": style, "script": script, "ranges": ranges}
        print(f"{file}: {(TARGET / file).stat().st_size:,} bytes")
    (TARGET / "faces.json").write_text(json.dumps(faces) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
