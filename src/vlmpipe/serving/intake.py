"""Images that come in with requests: refused or accepted by their bytes and header alone.

Nothing is ever fetched, and nothing is decoded here: that is done in the worker process.
"""

from __future__ import annotations

import base64
import binascii
import re
import warnings
from io import BytesIO

from PIL import Image

from vlmpipe.encoding.images import MAX_ASPECT_RATIO
from vlmpipe.serving.problems import ApiError, bad_image, image_too_large, invalid_request
from vlmpipe.serving.settings import ServiceSettings
from vlmpipe.serving.wire import IMAGE_FORMATS

_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,", re.IGNORECASE)


def accept_data_url(url: str, settings: ServiceSettings, param: str) -> str:
    """base64 of an acceptable image from a `data:` URL.

    Raises:
        ApiError: for any other URL, and as `accept_base64`.
    """
    prefix = _DATA_URL.match(url)
    if prefix is None:
        raise ApiError(
            400,
            "image_url_not_allowed",
            "images are taken as data: URLs only (data:image/png;base64,...); nothing is fetched",
            param=param,
        )
    return accept_base64(url[prefix.end() :], settings, param)


def accept_image(text: str, settings: ServiceSettings, param: str) -> str:
    """The same for a `data:` URL or plain base64."""
    if text[:5].lower() == "data:" or "://" in text[:20]:
        return accept_data_url(text, settings, param)
    return accept_base64(text, settings, param)


def accept_base64(text: str, settings: ServiceSettings, param: str) -> str:
    """base64 of an acceptable image.

    Raises:
        ApiError: too many bytes, not base64, not a PNG, JPEG or WEBP file, too many pixels, or
            too thin a picture.
    """
    limit = settings.max_image_bytes
    if len(text) > 4 * (limit // 3 + 1):
        raise image_too_large(f"an image is larger than {limit} bytes", param)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise invalid_request("an image is not valid base64", param) from exc
    if len(data) > limit:
        raise image_too_large(f"an image is larger than {limit} bytes", param)
    _check_size(*_size(data, settings, param), settings, param)
    return text


def _size(data: bytes, settings: ServiceSettings, param: str) -> tuple[int, int]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(BytesIO(data), formats=IMAGE_FORMATS) as image:
                return image.size
    except Image.DecompressionBombError as exc:
        raise _too_many_pixels(settings, param) from exc
    except Exception as exc:  # whatever a header parser raises, the image is what is wrong
        raise bad_image(param) from exc


def _check_size(width: int, height: int, settings: ServiceSettings, param: str) -> None:
    if width * height > settings.max_image_pixels:
        raise _too_many_pixels(settings, param)
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        message = f"an image is more than {MAX_ASPECT_RATIO} times as long as it is wide"
        raise ApiError(400, "invalid_image", message, param=param)


def _too_many_pixels(settings: ServiceSettings, param: str) -> ApiError:
    return image_too_large(f"an image has more than {settings.max_image_pixels} pixels", param)
