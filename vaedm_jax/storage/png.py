"""A reader for the pictures of a run directory that the report shows. It does not decode them."""

import io
import os

from PIL import PngImagePlugin

from vaedm_jax.storage.damage import read_bytes, reading

WHAT = "PNG file"
MOST = 2**28  # bytes of a picture


def read_png(path: str | os.PathLike) -> tuple[bytes, str]:
    """Return a PNG file's bytes and caption (its text "Description"); raise `Damaged` if its header is unreadable."""
    data = read_bytes(path, WHAT, MOST)
    # Image.open would refuse large grids of images. Nothing is decoded here, so their size does not matter.
    with reading(path, WHAT), PngImagePlugin.PngImageFile(io.BytesIO(data)) as image:
        return data, str(image.info.get("Description", ""))
