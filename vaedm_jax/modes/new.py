"""Mode `new`: look at a folder of pictures, and write a configuration for them."""

import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vaedm_jax.config.checks import check
from vaedm_jax.config.own import own_config
from vaedm_jax.data.dataset import split
from vaedm_jax.data.folder import list_images
from vaedm_jax.data.images import open_image, why_unreadable
from vaedm_jax.errors import UserError
from vaedm_jax.modes.plan import duration
from vaedm_jax.reporting import counted
from vaedm_jax.runtime.mesh import batch_sharding, make_mesh, whole_batch
from vaedm_jax.storage.paths import opened, shown
from vaedm_jax.storage.writing import set_aside, write_whole
from vaedm_jax.training.loop import abstract_state, new_state
from vaedm_jax.training.stages import Stage, ddpm_stage, vae_stage
from vaedm_jax.training.step import make_train_step

LOOKED_AT = 200  # pictures whose sizes are read
OFFERED = (32, 64, 96, 128, 192, 256)  # pixels
MOST = {"small": 64, "base": 128}  # pixels that are proposed: more take days
TEXT = '''"""{images} of {folder} at {size} x {size} pixels.

    {command}

Training takes about {whole} on this device: {vae} for the VAE, and {ddpm} for the refiner.
"""

from vaedm_jax.config.own import own_config


def get_config(variant="form1"):
    c = own_config(f"{{variant}}-{size}-{budget}")  # the size in pixels; small, or base for GPUs and TPUs
    c.data.path, c.data.held_out = {path!r}, {held_out}
    c.vae.steps, c.ddpm.steps = {vae_steps}, {ddpm_steps}
    c.vae.batch_size, c.ddpm.batch_size = {vae_batch}, {ddpm_batch}
    return c
'''


def new(config: ConfigDict, workdir: Path) -> None:
    """Write `config.py` to the run directory, for the pictures of `data.path`, and print the command that trains.

    The size is the largest of OFFERED that the pictures and the budget allow. The budget is `base` on an accelerator.
    The batches suit the number of pictures and of devices. The times come from three train steps of each stage.
    """
    if not config.data.path:
        raise UserError("--mode=new needs the folder of your pictures: --config.data.path=DIR")
    root, names = list_images(config.data.path)
    side = statistics.median(shorter_sides(root, names[:: -(-len(names) // LOOKED_AT)]))
    budget = "small" if jax.default_backend() == "cpu" else "base"
    size = max([s for s in OFFERED if s <= min(side, MOST[budget])], default=OFFERED[0])
    chosen, mesh = own_config(f"form1-{size}-{budget}").unlock(), make_mesh()
    chosen.data.path, chosen.data.held_out = str(root), round(min(0.1, 1000 / len(names)), 4)
    train, _ = split(names, chosen.data.held_out)
    for stage in (chosen.vae, chosen.ddpm):
        stage.batch_size = fitting_batch(mesh, stage.batch_size, len(train))
    check(chosen)
    images = counted(len(names), "picture")
    print(f"{images} in {shown(root)}; the shorter side of half of them has at least {side:g} pixels", flush=True)
    if len(names) < 1000:
        print("note: some thousands are better: the model memorises a small set", flush=True)

    print(f"{size} x {size} pixels, {budget} networks: measuring the time of a train step ...", flush=True)
    timed = chosen.copy_and_resolve_references()
    timed.ddpm.sigma_r, timed.ddpm.sigma_data = 0.3, 0.6  # which training measures
    params, vae_seconds = measured(vae_stage(timed), size, mesh)
    _, ddpm_seconds = measured(ddpm_stage(timed, params), size, mesh)
    times = [vae_seconds * chosen.vae.steps, ddpm_seconds * chosen.ddpm.steps]

    file = workdir / "config.py"
    place = shlex.quote(str(workdir))
    command = f"python -m vaedm_jax.main --config={shlex.quote(str(file))} --workdir={place} --mode=train"
    text = TEXT.format(
        images=images, folder=escaped(root.name), size=size, budget=budget, command=escaped(command), path=str(root),
        held_out=chosen.data.held_out, vae_steps=chosen.vae.steps, ddpm_steps=chosen.ddpm.steps,
        vae_batch=chosen.vae.batch_size, ddpm_batch=chosen.ddpm.batch_size,
        whole=duration(sum(times)), vae=duration(times[0]), ddpm=duration(times[1]),
    )  # fmt: skip
    if file.exists() and file.read_bytes() != text.encode():
        set_aside(file)
    write_whole(file, text.encode())
    print(f"training takes about {duration(sum(times))} on this device; fewer steps take less ({file})")
    print(f"to train:\n  {command}", flush=True)


def fitting_batch(mesh: Mesh, size: int, images: int) -> int:
    """Return a size near `size` for a batch, which the devices divide equally and the training images can fill.

    Raises:
      UserError: there are fewer training images than devices.
    """
    share = mesh.shape["data"]
    if images < share:
        raise UserError(
            f"data.path: {counted(images, 'training image')} for {share} devices: each device needs one or more; add "
            "pictures to the folder, or use fewer devices"
        )
    return min(whole_batch(mesh, size), images // share * share)


def escaped(text: str) -> str:
    """Return a text as it can stand in a docstring, whatever characters the names of folders in it have."""
    return shown(text).replace("\\", "\\\\").replace('"', '\\"')


def shorter_sides(root: Path, names: list[str]) -> list[int]:
    """Return the shorter side in pixels of each picture that can be opened; raise UserError if none can."""
    sides = []
    for name in names:
        try:
            with opened(root / name, "data.path") as file, open_image(file) as image:
                sides.append(min(image.size))
        except Exception as error:
            print(f"note: {shown(name)} cannot be opened as an image ({why_unreadable(error)})", file=sys.stderr)
    if not sides:
        raise UserError(f"data.path: no picture in {shown(root)} can be read")
    return sides


def measured(stage: Stage, size: int, mesh: Mesh) -> tuple[Any, float]:
    """Return new parameters of a stage, and the seconds that a train step takes on images of size x size pixels."""
    state = new_state(stage, abstract_state(stage, mesh), jax.random.key(0), None)
    params, B = jax.device_get(state.params), stage.settings.batch_size
    images = jax.device_put(np.zeros((B, size, size, 3), np.uint8), batch_sharding(mesh))
    step, times = make_train_step(stage, mesh, 1000), []
    for _ in range(4):  # the first one is compiled
        began = time.perf_counter()
        state, metrics = step(state, stage.frozen, images, jax.random.key(1))
        metrics["loss"].block_until_ready()
        times.append(time.perf_counter() - began)
    return params, min(times[1:])
