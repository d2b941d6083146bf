"""Ways to resize an image: ours, and those of runtimes that a client may leave it to.

`bicubic` is the contract's. The others exist to train a model that bears them
(`train.augment.resize_kernels`) and to measure what they cost.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from vlmpipe.config.train import ResizeKernel


def resize(image: Image.Image, rows: int, columns: int, kernel: ResizeKernel) -> Image.Image:
    """An RGB image in `rows` x `columns` pixels; one that has them already is left alone."""
    if image.size == (columns, rows):
        return image
    if kernel == "llama_cpp":
        return fit_on_black(image, rows, columns)
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    return width_first(image, rows, columns, filters[kernel])


def width_first(
    image: Image.Image, rows: int, columns: int, kernel: Image.Resampling
) -> Image.Image:
    """Pillow's resize, its two passes in a fixed order.

    Pillow up to 12 and llama.cpp resize the width first, Pillow 13 whatever is cheaper. Between the
    passes values are cut to 0 to 255, so on black and white the orders differ by up to 28 levels.
    """
    return image.resize((columns, image.height), kernel).resize((columns, rows), kernel)


def fit_on_black(image: Image.Image, rows: int, columns: int) -> Image.Image:
    """What llama.cpp's libmtmd does with Qwen-VL's images: aspect kept, the rest black.

    Its filter is a port of Pillow's bicubic. What differs is that it does not stretch an image to
    its grid: it fits it in and centres it (`img_tool::resize` with `PAD_CEIL`, tools/mtmd of
    llama.cpp 0c1e570; its floats are of 32 bits).
    """
    scale = min(
        np.float32(columns) / np.float32(image.width), np.float32(rows) / np.float32(image.height)
    )
    width = min(math.ceil(np.float32(image.width) * scale), columns)
    height = min(math.ceil(np.float32(image.height) * scale), rows)
    page = Image.new("RGB", (columns, rows))
    fitted = width_first(image, height, width, Image.Resampling.BICUBIC)
    page.paste(fitted, ((columns - width) // 2, (rows - height) // 2))
    return page
