"""Runs in a child process: what transformers' own processor makes of an image and a question.

    python official_processor.py MODEL_FOLDER IMAGE MAX_PIXELS OUT.npz

torchvision's wheel needs two operators that a CPU build of torch lacks; declaring them is enough
for its import. It lies in a folder of its own, since libraries that merely find it would fail.
Pillow's resize is put back to what it did up to version 12, which the processors were made with:
the width first. Version 13 begins with whatever is cheaper, and clips other values in between.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

if not torch.cuda.is_available():
    torch.library.define("torchvision::nms", "(Tensor d, Tensor s, float t) -> Tensor")
    torch.library.define("torchvision::qnms", "(Tensor d, Tensor s, float t) -> Tensor")

from transformers import (
    AutoTokenizer,
    Qwen2_5_VLProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vlmpipe.models.families import family_of

_pillow_resize = Image.Image.resize


def _width_first(
    image: Image.Image, size: tuple[int, int], resample: int, **_: object
) -> Image.Image:
    wide = _pillow_resize(image, (size[0], image.height), resample)
    return _pillow_resize(wide, size, resample)


Image.Image.resize = _width_first  # type: ignore[method-assign,assignment]

PROCESSORS = {
    "qwen2_vl": (Qwen2VLProcessor, Qwen2VLVideoProcessor),
    "qwen2_5_vl": (Qwen2_5_VLProcessor, Qwen2VLVideoProcessor),
    "qwen3_vl": (Qwen3VLProcessor, Qwen3VLVideoProcessor),
}


def main(folder: Path, picture: Path, max_pixels: int, out: Path) -> None:
    family = family_of(folder)
    processor_class, video_class = PROCESSORS[family.name]
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    images = Qwen2VLImageProcessorPil(
        patch_size=family.patch_size,
        image_mean=list(family.image_mean),
        image_std=list(family.image_std),
        size={"shortest_edge": 8 * family.grid_factor**2, "longest_edge": max_pixels},
    )
    processor = processor_class(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=video_class(patch_size=family.patch_size),
        chat_template=family.chat_template,
    )
    content = [
        {"type": "image", "image": Image.open(picture)},
        {"type": "text", "text": "Convert the table in the image to HTML. 표를 읽어 주세요."},
    ]
    encoded = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="np",
    )
    from qwen_vl_utils.vision_process import smart_resize

    sizes = [(56, 84), (57, 225), (70, 238), (345, 451), (3000, 40), (903, 637)]
    factor = family.grid_factor
    resized = [smart_resize(*size, factor, 8 * factor**2, max_pixels) for size in sizes]
    np.savez(out, sizes=sizes, resized=resized, **dict(encoded))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
