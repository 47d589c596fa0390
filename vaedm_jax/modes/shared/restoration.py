"""Restoration of images by a model: the chain begins at the damaged image."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vaedm_jax.api import VAEDM
from vaedm_jax.conditioning.tasks import Images, Task
from vaedm_jax.diffusion.chain import Chain


def restore_images(model: VAEDM, task: Task, chain: Chain, damaged: Images, seed: int = 0, **how: Any) -> Images:
    """Return damaged images, restored by the chain of `Task.begin`.

    The refiner is shown the VAE's reconstruction of the damaged image, since it was trained to be shown such images. It
    is shown the damaged image itself if there is no VAE, or if the image has another size than those of the VAE.

    Args:
      how: arguments of `VAEDM.sample`.
    """
    lifted, networks = task.lift(damaged), model.engine.networks
    known = networks.vae and lifted.shape[1:] == networks.shape
    shown, begin = (model.reconstruct(lifted), lifted) if known and chain.start == "warm" else (lifted, None)
    made = model.refine(shown, seed, x_T=task.x_T(damaged, seed), begin=begin, chain=chain, **how)
    return task.make_consistent(made, damaged)


def describe_ways(model: VAEDM, chain: Chain) -> str:
    """Return a description of the chains of `ways`."""
    chains = dict.fromkeys((replace(chain, start="noise"), chain))
    return " and ".join(chain.describe(model.schedule) for chain in chains)


def ways(
    model: VAEDM, task: Task, chain: Chain, truth: Images, seed: int = 0, **how: Any
) -> dict[str, Callable[[], Images]]:
    """Return functions that restore what `truth` loses by a task, by name.

    They are: none, the VAE's reconstruction, the paper's way (from noise), and ours (a warm start). The images of both
    chains are made consistent with what is known.
    """
    damaged = task.corrupt(truth, seed)
    lifted = task.lift(damaged)
    found = {
        task.input_name: lambda: lifted,
        "VAE": lambda: model.reconstruct(lifted),
        "from noise": lambda: task.make_consistent(
            model.refine(lifted, seed, chain=replace(chain, start="noise"), **how), damaged
        ),
    }
    if not model.engine.networks.vae:
        del found["VAE"]
    ours = f"from t = {chain.t_start}" if chain.start == "warm" else "agreeing"
    return found | {ours: lambda: restore_images(model, task, chain, damaged, seed, **how)}
