"""Grids of images as PNG files, with a caption inside."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from vaedm_jax.diffusion.images import to_uint8
from vaedm_jax.errors import UserError
from vaedm_jax.storage import read_png
from vaedm_jax.storage.paths import shown
from vaedm_jax.storage.writing import write_kept, write_whole

GAP = 2  # pixels of white between tiles
SMALLEST_TILE = 64  # pixels; smaller images are enlarged to at least this width
# Pillow's own font has no Greek and no combining hat: "x̂" and "η" would be boxes.
FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


def grid(rows: Sequence, labels: Sequence[str] | None = None, scale: int | None = None) -> Image.Image:
    """One picture of several rows of images, with thin white gaps.

    rows: one array [N_i, H, W, 3] a row, uint8 or floats in [0, 1]; N_i may differ, H and W may not.
    labels: one short text a row, at its left.
    scale: every pixel becomes scale x scale; by default, what makes a tile at least 64 pixels wide.
    Raises UserError if the rows do not fit each other or the labels.
    """
    rows = [to_uint8(row) for row in rows]
    shapes = [row.shape for row in rows]
    if not rows or any(len(s) != 4 or s[3] != 3 or s[1:] != shapes[0][1:] for s in shapes):
        raise UserError(f"a grid of rows of shapes {shapes}: each must be [N, H, W, 3], with one H and W for all")
    if labels is not None and len(labels) != len(rows):
        raise UserError(f"a grid of {len(rows)} rows with {len(labels)} labels: must be one label a row")
    scale = scale or max(1, math.ceil(SMALLEST_TILE / shapes[0][2]))
    rows = [row.repeat(scale, axis=1).repeat(scale, axis=2) for row in rows]
    height, width = (n * scale + GAP for n in shapes[0][1:3])

    font = ImageFont.truetype(str(FONT), min(20, max(12, height // 4)))
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


def sample_rows(images, x_hat=None, columns: int = 8, **below) -> list[tuple[str, np.ndarray]]:
    """Labelled rows for `grid`: x_hat [N, H, W, C], below it what it was refined to, below that others by their names.

    Where one is None, it is left out.
    """
    others = ((name.replace("_", " "), values) for name, values in below.items())
    kinds = [("x̂", x_hat), ("sampled" if x_hat is None else "refined", images), *others]
    kinds = [(label, values) for label, values in kinds if values is not None]
    return [(label, values[i : i + columns]) for i in range(0, len(images), columns) for label, values in kinds]


def tile(images, columns: int | None = None) -> list:
    """[N, H, W, C] split into rows of `columns` for `grid`, by default as near to a square as can be."""
    columns = columns or max(1, math.ceil(math.sqrt(len(images))))
    return [images[i : i + columns] for i in range(0, len(images), columns)]


def save_png(path: Path | str, image: Image.Image, caption: str = "", keep: bool = False) -> None:
    """Writes a PNG whole, with the caption as its text chunk "Description"; creates the parents.

    With `keep`, another picture that is there gets another name.
    """
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Description", shown(caption))
    data = io.BytesIO()
    image.save(data, "PNG", pnginfo=texts, optimize=True)
    (write_kept if keep else write_whole)(path, data.getvalue())


def read_caption(path: Path | str) -> str:
    """The caption of a PNG, "" if it has none. Raises UserError if the file is not a picture."""
    return read_png(path)[1]
