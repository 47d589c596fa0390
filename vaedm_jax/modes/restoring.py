"""Restoration by a model: the damaged image stands in place of x_hat."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vaedm_jax.api import VAEDM
from vaedm_jax.conditioning.tasks import Images, Task
from vaedm_jax.diffusion.chain import Chain


def restored(model: VAEDM, task: Task, chain: Chain, damaged: Images, seed: int = 0, **how: Any) -> Images:
    """Damaged images, restored by the chain that `Task.begin` gave; `how` as in `VAEDM.sample`."""
    made = model.refine(task.lift(damaged), seed, x_T=task.x_T(damaged, seed), chain=chain, **how)
    return task.agree(made, damaged)


def told_of(model: VAEDM, chain: Chain) -> str:
    """Return in words the chains of `ways`."""
    chains = dict.fromkeys((replace(chain, start="noise"), chain))
    return " and ".join(chain.describe(model.networks.full_schedule) for chain in chains)


def ways(
    model: VAEDM, task: Task, chain: Chain, truth: Images, seed: int = 0, **how: Any
) -> dict[str, Callable[[], Images]]:
    """Ways to give back what `truth` loses by a task, by name: none, the VAE's, the paper's (from noise), and ours.

    What is known is put into the images of both chains.
    """
    damaged = task.corrupt(truth, seed)
    lifted = task.lift(damaged)
    found = {
        task.input_name: lambda: lifted,
        "VAE": lambda: model.reconstruct(lifted),
        "from noise": lambda: task.agree(
            model.refine(lifted, seed, chain=replace(chain, start="noise"), **how), damaged
        ),
    }
    if not model.networks.vae:
        del found["VAE"]
    ours = f"from t = {chain.t_start}" if chain.start == "warm" else "agreeing"
    return found | {ours: lambda: restored(model, task, chain, damaged, seed, **how)}
