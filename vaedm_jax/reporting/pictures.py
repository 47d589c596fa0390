"""Grids of images as PNG files that contain a caption."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from vaedm_jax.errors import UserError
from vaedm_jax.storage import read_png
from vaedm_jax.storage.paths import shown
from vaedm_jax.storage.writing import write_kept, write_whole

GAP = 2  # pixels of white between tiles
SMALLEST_TILE = 64  # pixels; smaller images are enlarged to at least this width


def grid(rows: Sequence, labels: Sequence[str] | None = None, scale: int | None = None) -> Image.Image:
    """Return one picture with several rows of images, separated by thin white gaps.

    Args:
      rows: an array [N_i, H, W, 3] for each row, uint8 or floats in [0, 1]. N_i may differ, H and W may not.
      labels: a short text for each row, drawn at its left.
      scale: every pixel becomes scale x scale pixels. By default a tile is at least 64 pixels wide.

    Raises:
      UserError: the rows differ in H or W, or their number is not that of the labels.
    """
    rows = [to_uint8(row) for row in rows]
    shapes = [row.shape for row in rows]
    if not rows or any(len(s) != 4 or s[3] != 3 or s[1:] != shapes[0][1:] for s in shapes):
        raise UserError(f"a grid of rows of shapes {shapes}: each must be [N, H, W, 3], with the same H and W")
    if labels is not None and len(labels) != len(rows):
        raise UserError(f"a grid of {len(rows)} rows with {len(labels)} labels: there must be one label for each row")
    scale = scale or max(1, math.ceil(SMALLEST_TILE / shapes[0][2]))
    rows = [row.repeat(scale, axis=1).repeat(scale, axis=2) for row in rows]
    height, width = (n * scale + GAP for n in shapes[0][1:3])

    font = load_font(min(20, max(12, height // 4)))
    margin = max((math.ceil(font.getlength(label)) + 12 for label in labels), default=0) if labels else 0
    columns = max(len(row) for row in rows)
    canvas = np.full((GAP + len(rows) * height, margin + GAP + columns * width, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = GAP + i * height, margin + GAP + j * width
            canvas[top : top + image.shape[0], left : left + image.shape[1]] = image

    picture = Image.fromarray(canvas)
    for i, label in enumerate(labels or ()):
        middle = GAP + i * height + (height - GAP) / 2
        ImageDraw.Draw(picture).text((margin - 6, middle), label, "black", font, anchor="rm")
    return picture


def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font of Matplotlib. That of Pillow has no Greek letters and no combining hat, as in "x̂"."""
    import matplotlib  # here, since it takes a tenth of a second

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def sample_rows(images, x_hat=None, columns: int = 8, **below) -> list[tuple[str, np.ndarray]]:
    """Return labelled rows for `grid`: x_hat [N, H, W, C], below it the refined images, then the others by name.

    Whatever is None is left out.
    """
    others = ((name.replace("_", " "), values) for name, values in below.items())
    kinds = [("x̂", x_hat), ("sampled" if x_hat is None else "refined", images), *others]
    kinds = [(label, values) for label, values in kinds if values is not None]
    return [(label, values[i : i + columns]) for i in range(0, len(images), columns) for label, values in kinds]


def tile(images, columns: int | None = None) -> list:
    """Split images [N, H, W, C] into rows of `columns` for `grid`, by default into a nearly square grid."""
    columns = columns or max(1, math.ceil(math.sqrt(len(images))))
    return [images[i : i + columns] for i in range(0, len(images), columns)]


def save_png(path: Path | str, image: Image.Image, caption: str = "", keep: bool = False) -> None:
    """Write an image as `to_png` returns it, and create the parent folders.

    The file is written whole: a kill leaves the old file or the new one.

    Args:
      keep: rename an existing file of other contents instead of replacing it.
    """
    (write_kept if keep else write_whole)(path, to_png(image, caption))


def to_png(image: Image.Image, caption: str = "") -> bytes:
    """Return an image as a PNG with the caption as its text chunk "Description"."""
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Description", shown(caption))
    data = io.BytesIO()
    image.save(data, "PNG", pnginfo=texts, optimize=True)
    return data.getvalue()


def read_caption(path: Path | str) -> str:
    """Return the caption of a PNG, "" if it has none; raise UserError if the file is not a PNG."""
    return read_png(path)[1]


def to_uint8(images) -> np.ndarray:
    """Convert floats in [0, 1] of any shape to uint8, clipped and rounded; NaN becomes 0. uint8 is returned unchanged.

    Raises:
      UserError: for other integers, whose range is unknown.
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind in "bui":
        raise UserError(f"images of type {images.dtype}: must be uint8, or floats in [0, 1]")
    return np.rint(255 * np.clip(np.nan_to_num(images.astype(np.float32)), 0, 1)).astype(np.uint8)
