"""A composed page becomes pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlmpipe.drawing.fonts import font
from vlmpipe.tasks.document.page import Page, Seal, fitting_size

if TYPE_CHECKING:
    from PIL import Image, ImageDraw


def paint(page: Page) -> Image.Image:
    """An RGB image of the size of the page."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", page.size, page.paper)
    pen = ImageDraw.Draw(image)
    for frame in page.frames:
        pen.rectangle(frame.box, fill=frame.fill, outline=frame.outline, width=frame.line)
    for stroke in page.strokes:
        pen.line(stroke.points, fill=stroke.ink, width=stroke.line, joint="curve")
    for text in page.texts:
        face = font(text.face, text.size)
        pen.text(text.origin, text.text, fill=text.ink, font=face, anchor="ls")
    for seal in page.seals:
        _stamp(image, seal)
    return image


def _stamp(image: Image.Image, seal: Seal) -> None:
    """Puts a seal over what is there, which shows through as it does through ink."""
    from PIL import Image, ImageChops

    stamp = _seal_image(seal).rotate(
        seal.angle, resample=Image.Resampling.BICUBIC, expand=True, fillcolor=(255, 255, 255)
    )
    left, top = (middle - side // 2 for middle, side in zip(seal.centre, stamp.size, strict=True))
    box = (left, top, left + stamp.width, top + stamp.height)
    image.paste(ImageChops.multiply(image.crop(box), stamp), box)


def _seal_image(seal: Seal) -> Image.Image:
    from PIL import Image, ImageDraw

    across, down = seal.radii
    stamp = Image.new("RGB", (2 * across + 1, 2 * down + 1), (255, 255, 255))
    pen = ImageDraw.Draw(stamp)
    ring = max(2, across // 14)
    pen.ellipse((1, 1, 2 * across - 1, 2 * down - 1), outline=seal.ink, width=ring)
    inner = 3 * ring
    if across == down:
        pen.ellipse((inner, inner, 2 * across - inner, 2 * down - inner), outline=seal.ink, width=1)
    _letter(pen, seal)
    return stamp


def _letter(pen: ImageDraw.ImageDraw, seal: Seal) -> None:
    """The words in the middle, as large as the ring allows."""
    across, down = seal.radii
    # The rectangle that stands in the ellipse, 0.7 of its axes, and a little less for the ring.
    width, height = across * 13 // 10, down * 13 // 10
    each = height // len(seal.lines)
    size = min(fitting_size(line, seal.face, each, width, each * 4 // 3) for line in seal.lines)
    top = down - each * len(seal.lines) // 2 + each // 2
    for number, line in enumerate(seal.lines):
        place = (across, top + number * each)
        pen.text(place, line, fill=seal.ink, font=font(seal.face, size), anchor="mm")
