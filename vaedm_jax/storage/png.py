"""Pictures that a run directory holds, as the report shows them: whole files, which are not decoded."""

import io
import os

from PIL import PngImagePlugin

from vaedm_jax.storage.damage import read_bytes, reading

WHAT = "PNG"
MOST = 2**28  # bytes of a picture


def read_png(path: str | os.PathLike) -> tuple[bytes, str]:
    """Return the bytes of a PNG and its caption, the text "Description"; `Damaged` where its head cannot be read."""
    data = read_bytes(path, WHAT, MOST)
    # Image.open would refuse large grids of our own. Nothing is decoded here, so their size costs nothing.
    with reading(path, WHAT), PngImagePlugin.PngImageFile(io.BytesIO(data)) as image:
        return data, str(image.info.get("Description", ""))
