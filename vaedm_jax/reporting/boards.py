"""Where metrics can be followed: TensorBoard, and Weights & Biases. Both take the same two calls."""

import hashlib
from pathlib import Path
from typing import Any, Protocol

from tensorboardX import SummaryWriter

from vaedm_jax.errors import UserError


class Board(Protocol):
    """A place that shows metrics."""

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Add the scalars of a step."""

    def close(self) -> None:
        """Write or send what is left."""


class TensorBoard:
    """The TensorBoard files in a folder.

    Args:
      resume_step: the step from which a run continues. What was written of later steps is hidden.
    """

    def __init__(self, folder: Path, resume_step: int):
        folder.mkdir(exist_ok=True)
        # tensorboardX names a file by the current second. With the suffix, a quick restart does not overwrite it.
        suffix = f".{sum(1 for _ in folder.iterdir())}"
        self._writer = SummaryWriter(str(folder), purge_step=resume_step + 1, flush_secs=5, filename_suffix=suffix)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Add the scalars of a step."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases. A run that continues adds to the same one.

    The library's variables apply, such as WANDB_API_KEY, and WANDB_MODE=offline, which sends nothing.

    Args:
      project: the name of the project.
      folder: the folder of the stage; its path identifies the run.
      config: the settings to show.

    Raises:
      UserError: wandb is not installed, or cannot begin.
    """

    def __init__(self, project: str, folder: Path, config: dict[str, Any]):
        try:
            import wandb
        except ImportError as error:
            raise UserError(f"log.wandb = {project!r} needs a package: pip install wandb") from error
        place = folder.resolve()
        name = f"{place.parent.name}-{place.name}"
        identity = f"{name}-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"
        try:
            self._run = wandb.init(
                project=project, name=name, id=identity, resume="allow", dir=str(folder), config=config
            )
        except Exception as error:  # of many types
            raise UserError(f"log.wandb = {project!r}: {error}; WANDB_MODE=offline sends nothing") from error

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Add the scalars of a step."""
        self._run.log(scalars, step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()
