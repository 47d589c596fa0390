"""Any picture to the square RGB that the networks take."""

import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vaedm_jax.data.listing import formats
from vaedm_jax.data.reason import reason
from vaedm_jax.errors import UserError
from vaedm_jax.storage.paths import opened, shown

MOST_PIXELS = 2**29  # of a picture in a folder of the user's own
LARGE = 2**24  # pixels; of larger pictures one is decoded at a time, for the memory
one_at_a_time = threading.Lock()


def picture(path: str | os.PathLike, size: int | None, most_pixels: int) -> np.ndarray:
    """As `read`, for a picture of whoever sends one: UserError before it is decoded, where it has too many pixels."""
    try:
        with opened(path, "picture") as file, recognised(file) as image:
            width, height = image.size
    except Exception:  # `read` says why
        width = height = 0
    if width * height > most_pixels:
        raise UserError(f"the picture has {width} x {height} pixels; at most {most_pixels:,} in all")
    try:
        return read(path, size)
    except UserError as error:  # the folder that it was sent to concerns nobody
        raise UserError(str(error).replace(shown(path), shown(Path(path).name))) from error


def read(path: str | os.PathLike, size: int | None, most_pixels: int = MOST_PIXELS) -> np.ndarray:
    """The image in a file as uint8 [size, size, 3], or [H, W, 3] where size is None; UserError if it is damaged."""
    try:
        return decode(path, size, most_pixels)
    except UserError:
        raise
    except Exception as error:
        what = f"{shown(path)} cannot be read as an image ({complaint(error)})"
        raise UserError(f"{what}; repair or remove it") from error


def complaint(error: Exception) -> str:
    """Why an image cannot be read: on damaged files Pillow raises whatever its decoders trip over."""
    return "its format is none that is known" if isinstance(error, UnidentifiedImageError) else reason(error)


def decode(file: str | os.PathLike | BinaryIO, size: int | None, most_pixels: int = MOST_PIXELS) -> np.ndarray:
    """The image in a file, of an animation the first frame, as uint8; may raise anything.

    Pillow refuses some 179 million pixels, lest a small file of a stranger takes all memory. These files are the
    user's own, so `most_pixels` is in its place.
    """
    is_path = isinstance(file, str | os.PathLike)
    with opened(file, "image") if is_path else nullcontext(file) as data, recognised(data) as image:
        width, height = image.size
        if width * height > most_pixels:
            raise ValueError(
                f"it has {width:,} x {height:,} pixels, {width * height:,} in all, and data.max_pixels = "
                f"{most_pixels:,} are allowed; raise that for a picture that you trust"
            )
        if size is not None:
            # A JPEG is decoded at a half, a quarter or an eighth if that is still twice the size: it takes less time
            # and memory.
            image.draft(None, (2 * size, 2 * size))
        with alone(most_pixels) if image.width * image.height > LARGE else nullcontext():
            if size is None:
                return np.asarray(to_rgb(ImageOps.exif_transpose(image)))
            return square(image, size)


@contextmanager
def alone(most_pixels: int) -> Iterator[None]:
    """Let one large picture at a time be decoded, up to `most_pixels`: some of Pillow's readers have the limit too."""
    with one_at_a_time:
        usual = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = usual and max(usual, most_pixels)
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = usual


def recognised(file: BinaryIO) -> Image.Image:
    """Return the image in a file before it is decoded, as Pillow's `open` does, but of any size.

    Formats that are not read (`listing.UNFIT`) are not tried either, whatever the file is called: Pillow would start
    other programs for some.
    """
    prefix = file.read(16)
    for name in formats():
        factory, accepts = Image.OPEN[name]
        accepted = accepts is None or accepts(prefix)
        if isinstance(accepted, str) or not accepted:  # a text says what this Pillow lacks
            continue
        file.seek(0)
        try:
            return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
    raise UnidentifiedImageError


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
