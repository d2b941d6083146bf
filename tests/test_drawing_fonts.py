"""Shipped typefaces: all there, found by what they can draw, and named when they are not."""

import pytest

from vlmpipe.drawing import fonts
from vlmpipe.errors import ArtifactError, StageError


def test_every_face_loads_and_draws_what_it_says_it_can():
    for name, face in fonts.faces().items():
        assert face.path.is_file()
        missing = fonts.font(name, 24).getmask("\U000e0000").getbbox()
        drawn = fonts.font(name, 24).getmask("Ag0").getbbox()
        assert drawn
        assert drawn != missing


def test_korean_text_is_given_korean_faces():
    assert all(fonts.faces()[name].korean for name in fonts.faces_for("환자 이름 7"))
    assert fonts.faces_for("환자", "hand") == ["pen"]


def test_a_character_that_no_face_has_is_named_with_its_number():
    with pytest.raises(StageError, match=r"'龍' \(U\+9F8D\)"):
        fonts.faces_for("a龍b")


@pytest.mark.parametrize("content", [None, b"not a font"])
def test_a_missing_or_damaged_font_file_is_named(tmp_path, monkeypatch, content):
    sans = fonts.faces()["sans"]
    path = tmp_path / "sans.ttf"
    if content is not None:
        path.write_bytes(content)
    other = fonts.Face("sans", path, sans.style, sans.korean, sans.characters)
    monkeypatch.setattr(fonts, "faces", lambda: {"sans": other})
    with pytest.raises(ArtifactError, match=r"sans\.ttf is missing or damaged"):
        fonts.font("sans", 20)


def test_the_licence_goes_with_the_fonts():
    text = (fonts.FOLDER / "LICENSE.txt").read_text(encoding="utf-8")
    assert "SIL Open Font" in text
    for name in fonts.faces():
        assert name in text
