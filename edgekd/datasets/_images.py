"""Decoding of image files, shared by the data sets that have some."""

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import ConfigError

LARGEST_SIDE = 4096


def decode(files: Iterable[tuple[str, bytes]], size: int) -> NDArray[Any]:
    """RGB images as uint8 of shape (images, 3, size, size), resized where they differ; `files` are (name, content).

    Raises:
        ConfigError: a file is not an image, or larger than 4096 pixels a side.
    """
    from PIL import Image, UnidentifiedImageError

    decoded = []
    for name, content in files:
        try:
            with Image.open(io.BytesIO(content)) as image:
                if max(image.size) > LARGEST_SIDE:
                    raise ConfigError(f"{name}: {image.size} pixels, at most {LARGEST_SIDE} a side")
                rgb = image.convert("RGB")
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise ConfigError(
                f"{name}: not an image that can be read: {error}", hint="take it out, or mend it"
            ) from error
        resized = rgb if rgb.size == (size, size) else rgb.resize((size, size), Image.Resampling.BILINEAR)
        decoded.append(np.asarray(resized).transpose(2, 0, 1))
    return np.stack(decoded)
