"""Data sets by name or from a folder, and endless batches of their images."""

from vaedm_jax.data.dataset import Dataset, Source
from vaedm_jax.data.folder import pictures
from vaedm_jax.data.images import picture
from vaedm_jax.data.pipeline import batches, pipeline, preview, some
from vaedm_jax.data.sources import load

__all__ = ["Dataset", "Source", "batches", "load", "picture", "pictures", "pipeline", "preview", "some"]
