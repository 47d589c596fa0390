"""Writes folders of tiny models, whose images make.py computes: python -m tests.golden_diffusers.folder FOLDER."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from flax.traverse_util import unflatten_dict

from tests.golden_diffusers.make import random_weights
from tests.tiny import tiny_config
from vaedm_jax.api import VAEDM
from vaedm_jax.interop import names
from vaedm_jax.main import main
from vaedm_jax.training.stages import ddpm_stage, parameter_shapes, vae_stage

# The changes of tiny_config, by variant. All models work on patches of 2 x 2 pixels. That of form1 has attention with
# two heads, and its first convolution is narrower than its first level.
RESIDUAL = {"ddpm.prediction": "residual", "ddpm.sigma_r": 0.3, "ddpm.sigma_data": 0.6}
CHANGES = {
    "form1": {"ddpm.multipliers": (2, 1), "ddpm.attention": (2,), "ddpm.heads": 2, "ddpm.scale_shift": True} | RESIDUAL,
    "form2": {"ddpm.prediction": "v"},
    "uncond": RESIDUAL,
}


def tiny_model(variant: str, **changes) -> VAEDM:
    """Return a tiny model with the weights of `random_weights`, and further changes."""
    changes = CHANGES[variant] | changes
    config, params = tiny_config(variant, **changes), []
    for stage, table in ((vae_stage(config), names.VAE), (ddpm_stage(config, {}), names.UNET)):
        shapes = {path: np.empty(shape) for path, shape in parameter_shapes(stage).items()}
        shapes = {name: a.shape for name, a in names.to_torch(unflatten_dict(shapes, sep="/"), table).items()}
        params.append(names.from_torch(random_weights(shapes), table))
    return VAEDM(config, params[0] if variant != "uncond" else {}, params[1])


def export(model: VAEDM, folder: Path) -> None:
    """Write a model as a folder of diffusers, by the command line."""
    with TemporaryDirectory() as beside:
        model.save(Path(beside) / "model.safetensors")
        assert main(["main", "--mode=export", f"--from={beside}/model.safetensors", f"--out={folder}"]) == 0


if __name__ == "__main__":
    for name in CHANGES:
        export(tiny_model(name), Path(sys.argv[1]) / name)
