"""Small pictures for tests, of one colour or of noise, and a function that saves them."""

from pathlib import Path

import numpy as np
from PIL import Image

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)


def solid(*colours, height=8, width=8):
    """Return images [N, height, width, 3] uint8, each of one colour."""
    return np.broadcast_to(np.array(colours, np.uint8)[:, None, None], (len(colours), height, width, 3))


def noise(size: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def save(path: Path, image: Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path
