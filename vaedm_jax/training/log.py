"""The log of a stage in training: a summary at the start, progress, and metrics."""

import json
import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from tqdm import tqdm

from vaedm_jax import models
from vaedm_jax.config import flatten
from vaedm_jax.errors import RunError
from vaedm_jax.reporting import MetricWriter, Progress
from vaedm_jax.storage.writing import write_whole
from vaedm_jax.training.stages import Stage
from vaedm_jax.training.state import TrainState

WARM_UP = 5  # the duration is estimated from the fastest of so many steps, since the first ones are slower


class Log:
    """The log of steps start + 1 to total, in the folder of a stage.

    Args:
      like: the state, or its shapes.
      compiled: the compiled train step.
      flops: operations of a step on each device.
      config: the whole configuration.
    """

    def __init__(
        self,
        stage: Stage,
        like: TrainState,
        compiled: Any,
        flops: float,
        start: int,
        total: int,
        folder: Path,
        config: Any,
    ):
        self.stage, self.like, self.compiled, self.flops = stage, like, compiled, flops
        self.start, self.total, self.folder = start, total, folder
        self.progress = Progress(total, start, stage.name, stage.settings.batch_size)
        self.writer = MetricWriter(folder, start, config.log.wandb, flatten(config))
        self.pending: list[dict[str, jax.Array]] = []
        self.seconds: list[float] = []
        self.began = time.monotonic()

    def add(self, n: int, metrics: dict[str, jax.Array]) -> None:
        """Add the metrics of step n, which may still be running."""
        self.pending.append(metrics)
        if len(self.seconds) < WARM_UP:
            jax.block_until_ready(metrics)
            now = time.monotonic()
            self.seconds.append(now - self.began)
            self.began = now
            if n == min(self.start + WARM_UP, self.total):
                self.opening(min(self.seconds))
        self.progress.update(n, metrics["loss"])

    def averages(self, last: int) -> dict[str, float]:
        """Return the means of the metrics since the last call; raise RunError for the first that is not finite.

        Args:
          last: the last step that was added.
        """
        fetched, self.pending = jax.device_get(self.pending), []
        for i, metrics in enumerate(fetched):
            for name, value in metrics.items():
                if not math.isfinite(value):
                    raise RunError(
                        f"step {last - len(fetched) + 1 + i}: the {name} is {value}. Training stops; the checkpoints "
                        f"in {self.folder / 'checkpoints'} are from before it. A lower learning rate or clipping may "
                        "help"
                    )
        return {name: float(np.mean([metrics[name] for metrics in fetched], dtype=np.float64)) for name in fetched[0]}

    def write(self, n: int, metrics: dict[str, float]) -> None:
        """Write metrics of step n, and the throughput."""
        speed = {"images_per_s": self.progress.images_per_s} if self.progress.images_per_s else {}
        self.writer.write(n, metrics | speed)

    def opening(self, seconds: float) -> None:
        """Print the devices, the number of parameters, the memory and the duration; write them to files too."""
        devices, memory, batch_size = jax.devices(), self.compiled.memory_analysis(), self.stage.settings.batch_size
        size = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
        summary = {
            "device": f"{len(devices)} x {devices[0].device_kind}",
            "processes": jax.process_count(),
            "parameters": models.count(self.like.params),
            "GFLOP_a_step_and_device": round(self.flops / 1e9, 3),
            "memory_a_device_MB": round((size - memory.alias_size_in_bytes) / 1e6),
            "batch_size": batch_size,
            "steps": self.total,
            "duration_estimate": tqdm.format_interval((self.total - self.start) * seconds),
        }
        write_whole(self.folder / "summary.json", json.dumps(summary, indent=1).encode())
        overview = parameter_overview.get_parameter_overview(self.like.params, include_stats=False)
        write_whole(self.folder / "parameters.txt", overview.encode())
        print(
            f"{self.stage.name}: {summary['device']}, {summary['parameters']:,} parameters, about "
            f"{summary['memory_a_device_MB']:,} MB a device and {summary['duration_estimate']} for the steps "
            f"{self.start + 1:,} to {self.total:,} of {batch_size} images",
            flush=True,
        )

    def close(self) -> None:
        """Show the last step, and write everything to disk."""
        self.progress.close()
        self.writer.close()
