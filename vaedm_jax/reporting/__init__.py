"""Output of a run for people: pictures, metrics, progress on the terminal, and a report."""

from vaedm_jax.reporting.metrics import MetricWriter, read_metrics
from vaedm_jax.reporting.pictures import grid, read_caption, sample_rows, save_png, tile, to_png, to_uint8
from vaedm_jax.reporting.progress import Progress, counted
from vaedm_jax.reporting.report import renew_report, write_report

__all__ = [
    "MetricWriter",
    "Progress",
    "counted",
    "grid",
    "read_caption",
    "read_metrics",
    "renew_report",
    "sample_rows",
    "save_png",
    "tile",
    "to_png",
    "to_uint8",
    "write_report",
]
