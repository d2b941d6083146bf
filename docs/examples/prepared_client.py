"""Asks a bare llama-server or Ollama about an image that is resized as training resized it.

    python prepared_client.py preprocess_contract.json page.png "Convert the table to HTML."
    python prepared_client.py ... --url http://127.0.0.1:11434 --model my-model     (Ollama)

Needs Pillow and nothing else. `prepare` is the whole of it: the same pixels as vlmpipe's own.
"""

import argparse
import base64
import io
import json
import math
import urllib.request
from pathlib import Path

from PIL import Image, ImageOps


def grid_size(height, width, side, least, most):
    """Rows and columns: multiples of `side`, at least `least` and at most `most` pixels."""
    rows, columns = (max(side, round(length / side) * side) for length in (height, width))
    if rows * columns > most:
        scale = math.sqrt(height * width / most)
        return [max(side, math.floor(n / scale / side) * side) for n in (height, width)]
    if rows * columns < least:
        scale = math.sqrt(least / (height * width))
        return [math.ceil(n * scale / side) * side for n in (height, width)]
    return [rows, columns]


def prepare(image, contract):
    """The image upright, on white, within the contract's box, on its grid; the width first."""
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(page, image.convert("RGBA"))
    image = image.convert("RGB")
    side = contract["patch_size"] * contract["merge_size"]
    least, most = contract["min_pixels"], contract["max_pixels"]
    height, width, box = image.height, image.width, contract["max_size"]
    if box:
        box = [max(length // side, 1) * side for length in box]
        scale = min(1.0, box[0] / height, box[1] / width)
        height, width = (max(1, round(length * scale)) for length in (height, width))
        most = min(most, box[0] * box[1])
    rows, columns = grid_size(height, width, side, least, most)
    if box and min(rows, box[0]) * min(columns, box[1]) >= least:
        rows, columns = min(rows, box[0]), min(columns, box[1])
    wide = image.resize((columns, image.height), Image.Resampling.BICUBIC)
    return wide.resize((columns, rows), Image.Resampling.BICUBIC)


def ask(url, model, contract, image, question):
    """The answer's text. With `model` from Ollama, else from llama-server."""
    png = io.BytesIO()
    prepare(image, contract).save(png, format="PNG")
    data = base64.b64encode(png.getvalue()).decode()
    system = contract["system_prompt"]
    messages = [{"role": "system", "content": system}] if system else []
    if model:
        messages += [{"role": "user", "content": question, "images": [data]}]
        body = {"model": model, "messages": messages, "stream": False}
        return post(f"{url}/api/chat", body)["message"]["content"]
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    messages += [{"role": "user", "content": [picture, {"type": "text", "text": question}]}]
    body = {"messages": messages, "temperature": 0}
    return post(f"{url}/v1/chat/completions", body)["choices"][0]["message"]["content"]


def post(url, body):
    """The JSON that a server answers with."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as response:
        return json.load(response)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("contract", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("question")
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--model", help="a model of Ollama's; without, llama-server is asked")
    words = parser.parse_args()
    terms = json.loads(words.contract.read_text(encoding="utf-8"))
    print(ask(words.url, words.model, terms, Image.open(words.image), words.question))  # noqa: T201
