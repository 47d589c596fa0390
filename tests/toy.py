"""The smallest training: the training loop fits a matrix to noise.

Run it as one of several processes: python -m tests.toy DIR STEPS FSDP K/N@HOST:PORT
"""

import sys
from pathlib import Path

import jax
import numpy as np

from tests.tiny import tiny_config
from vaedm_jax.data import Dataset
from vaedm_jax.runtime import hosts
from vaedm_jax.runtime.mesh import make_mesh
from vaedm_jax.storage.writing import disable_writing
from vaedm_jax.training.loop import fit
from vaedm_jax.training.stages import Stage
from vaedm_jax.training.state import TrainState

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), np.uint8)


def fitted(workdir: Path, steps: int, devices: int | None = None, fsdp: bool = False) -> TrainState:
    """Return the state after `steps` train steps. The training continues from the checkpoint in `workdir`, if any.

    Args:
      devices: how many devices are used; None uses all.
    """
    settings = {"ddpm.ema_decay": 0.5, "ddpm.warmup": 0, "ddpm.clip": 0.0, "mesh.fsdp": fsdp, "ddpm.steps": steps}
    config = tiny_config(**settings)

    def loss(params, frozen, images, keys, train):
        x = images.reshape(len(images), -1).astype(np.float32) / 255
        return jax.numpy.mean((x @ params["kernel"] - jax.vmap(lambda k: jax.random.normal(k, (16,)))(keys)) ** 2), {}

    def init(key):
        return {"kernel": jax.random.normal(key, (768, 16))}

    stage = Stage("ddpm", config.ddpm, init, loss, lambda *_: {}, {})
    data = Dataset("noise", IMAGES, IMAGES)
    return fit(stage, data, config, workdir, make_mesh(1, jax.devices()[:devices]), lambda *_: {})


if __name__ == "__main__":
    folder, steps, fsdp, spec = sys.argv[1:]
    hosts.join(spec)
    if jax.process_index():
        disable_writing()
    fitted(Path(folder), int(steps), fsdp=fsdp == "True")
    hosts.exit_process(0)
