"""Any picture to the square RGB that the networks take."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vaedm_jax.data.reason import reason
from vaedm_jax.errors import UserError
from vaedm_jax.storage.paths import opened, shown


def picture(path: str | os.PathLike, size: int | None, most_pixels: int) -> np.ndarray:
    """As `read`, for a picture of whoever sends one: UserError before it is decoded, where it has too many pixels."""
    try:
        with Image.open(path) as image:
            width, height = image.size
    except Exception:  # `read` says why
        width = height = 0
    if width * height > most_pixels:
        raise UserError(f"the picture has {width} x {height} pixels; at most {most_pixels:,} in all")
    try:
        return read(path, size)
    except UserError as error:  # the folder that it was sent to concerns nobody
        raise UserError(str(error).replace(shown(path), shown(Path(path).name))) from error


def read(path: str | os.PathLike, size: int | None) -> np.ndarray:
    """The image in a file as uint8 [size, size, 3], or [H, W, 3] where size is None; UserError if it is damaged."""
    try:
        return decode(path, size)
    except UserError:
        raise
    except Exception as error:
        what = f"{shown(path)} cannot be read as an image ({complaint(error)})"
        raise UserError(f"{what}; repair or remove it") from error


def complaint(error: Exception) -> str:
    """Why an image cannot be read: on damaged files Pillow raises whatever its decoders trip over."""
    return "its format is none that is known" if isinstance(error, UnidentifiedImageError) else reason(error)


def decode(file: str | os.PathLike | BinaryIO, size: int | None) -> np.ndarray:
    """The image in a file, of an animation the first frame, as uint8; may raise anything."""
    is_path = isinstance(file, str | os.PathLike)
    with opened(file, "image") if is_path else nullcontext(file) as data, Image.open(data) as image:
        if size is None:
            return np.asarray(to_rgb(ImageOps.exif_transpose(image)))
        # A JPEG is decoded at a half, a quarter or an eighth if that is still twice the size: it is faster.
        image.draft(None, (2 * size, 2 * size))
        return square(image, size)


def square(image: Image.Image, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: upright as EXIF says, RGB on white, short side resized, the centre cut out."""
    rgb = to_rgb(ImageOps.exif_transpose(image))
    return np.asarray(ImageOps.fit(rgb, (size, size), Image.Resampling.LANCZOS))


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in RGB; what is transparent becomes white. ValueError if its range is unknown."""
    if image.mode.startswith(("I", "F")):
        return sixteen_bit(image).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def sixteen_bit(image: Image.Image) -> Image.Image:
    """A greyscale image of 16 bits in 8 bits: Pillow's own conversion clips at 255 where it should scale."""
    pixels = np.asarray(image)
    if image.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"pixels of mode {image.mode} have no known range, 8 or 16 bits do")
    return Image.fromarray(np.rint(pixels / 257).astype(np.uint8))
