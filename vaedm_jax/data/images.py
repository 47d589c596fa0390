"""Decode pictures of any format and convert them to the square RGB images that the networks take."""

import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vaedm_jax.data.listing import formats
from vaedm_jax.errors import UserError, reason
from vaedm_jax.storage.paths import opened, shown

MOST_PIXELS = 2**29  # the default limit for pictures in the user's own folder
LARGE = 2**24  # pictures with more pixels are decoded one at a time, to save memory
one_at_a_time = threading.Lock()


class TooLarge(ValueError):
    """An image has more pixels than it may have. `pixels` says how many."""

    def __init__(self, pixels: str, most_pixels: int):
        super().__init__(
            f"it has {pixels}, but data.max_pixels = {most_pixels:,}; raise this setting if you trust the picture"
        )
        self.pixels = pixels


def picture(path: str | os.PathLike, size: int | None, most_pixels: int) -> np.ndarray:
    """Return an untrusted picture, such as an upload, as `read` does.

    Raises:
      UserError: it has more than `most_pixels` pixels, which is checked before decoding, or it cannot be read.
    """
    try:
        with opened(path, "picture") as file, open_image(file, most_pixels):
            pass
    except TooLarge as error:
        raise UserError(f"the picture has {error.pixels}; it may have at most {most_pixels:,}") from error
    except Exception:  # `read` below raises the error that says why
        pass
    try:
        return read(path, size)
    except UserError as error:  # do not reveal the folder of the upload
        raise UserError(str(error).replace(shown(path), shown(Path(path).name))) from error


def read(path: str | os.PathLike, size: int | None, most_pixels: int = MOST_PIXELS) -> np.ndarray:
    """Return the image in a file as uint8 [size, size, 3], or [H, W, 3] if size is None.

    Raises:
      UserError: the file cannot be read as an image.
    """
    try:
        return decode(path, size, most_pixels)
    except UserError:
        raise
    except Exception as error:
        what = f"{shown(path)} cannot be read as an image ({why_unreadable(error)})"
        raise UserError(f"{what}; repair or remove it") from error


def why_unreadable(error: Exception) -> str:
    """Return the reason why an image cannot be read; Pillow raises many types of exceptions for damaged files."""
    return "unknown format" if isinstance(error, UnidentifiedImageError) else reason(error)


def decode(file: str | os.PathLike | BinaryIO, size: int | None, most_pixels: int = MOST_PIXELS) -> np.ndarray:
    """Decode the image in a file, or the first frame of an animation, as uint8.

    Damaged files may raise any exception. Pillow refuses images of more than 179 million pixels, since a small
    malicious file could take all memory. These files are the user's own, so `most_pixels` replaces that limit.

    Args:
      size: the result is [size, size, 3], or [H, W, 3] if size is None.
    """
    is_path = isinstance(file, str | os.PathLike)
    with opened(file, "image") if is_path else nullcontext(file) as data, open_image(data, most_pixels) as image:
        if size is not None:
            # Decode a JPEG at a half, a quarter or an eighth of its size if that is still at least twice `size`, which
            # takes less time and memory.
            image.draft(None, (2 * size, 2 * size))
        with one_large_image(most_pixels) if image.width * image.height > LARGE else nullcontext():
            if size is None:
                return np.asarray(to_rgb(ImageOps.exif_transpose(image)))
            return square(image, size)


@contextmanager
def one_large_image(most_pixels: int) -> Iterator[None]:
    """Allow one large picture at a time, and raise the limit of Pillow, which some of its readers check, for it."""
    with one_at_a_time:
        usual = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = usual and max(usual, most_pixels)
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = usual


def open_image(file: BinaryIO, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """Open the image in a file without decoding it, as `Image.open` does, but with `most_pixels` as its limit.

    Formats in `listing.UNFIT` are not tried, whatever the name of the file. Pillow would start other programs for
    some of them.

    Raises:
      TooLarge: the image has more pixels than `most_pixels`.
      UnidentifiedImageError: the format is unknown.
    """
    prefix = file.read(16)
    for name in formats():
        factory, accepts = Image.OPEN[name]
        accepted = accepts is None or accepts(prefix)
        if isinstance(accepted, str) or not accepted:  # a string says what this installation of Pillow lacks
            continue
        try:
            image = open_as(factory, file, most_pixels)
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
        width, height = image.size
        if width * height > most_pixels:
            raise TooLarge(f"{width} x {height} pixels, {width * height:,} in all", most_pixels)
        return image
    raise UnidentifiedImageError


def open_as(factory: Callable[[BinaryIO, str], Image.Image], file: BinaryIO, most_pixels: int) -> Image.Image:
    """Open a file by the reader of one format. Some readers, such as that of WebP in Pillow 13, have a limit."""
    file.seek(0)
    try:
        return factory(file, "")
    except Image.DecompressionBombError:
        file.seek(0)
    try:
        with one_large_image(most_pixels):
            return factory(file, "")
    except Image.DecompressionBombError as error:
        raise TooLarge(f"more than {most_pixels:,} pixels", most_pixels) from error


def square(image: Image.Image, size: int) -> np.ndarray:
    """Return an image as uint8 [size, size, 3]: rotated as EXIF says, on white, resized and cropped to the centre."""
    rgb = to_rgb(ImageOps.exif_transpose(image))
    return np.asarray(ImageOps.fit(rgb, (size, size), Image.Resampling.LANCZOS))


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB, on white; raise ValueError if the range of its pixels is unknown."""
    if image.mode.startswith(("I", "F")):
        return to_eight_bits(image).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale a greyscale image of 16 bits to 8 bits; the conversion of Pillow clips at 255 instead.

    Raises:
      ValueError: the range of the pixels is unknown.
    """
    pixels = np.asarray(image)
    if image.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"pixels of mode {image.mode} have no known range; 8 or 16 bits are supported")
    return Image.fromarray(np.rint(pixels / 257).astype(np.uint8))
