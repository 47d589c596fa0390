"""Mode `explore`: a page in the browser, with sliders along the principal directions of encoded images."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from vaedm_jax.api import VAEDM
from vaedm_jax.config import make_chain
from vaedm_jax.config.checks import check
from vaedm_jax.data import some
from vaedm_jax.errors import UserError
from vaedm_jax.modes.explorer.drawing import Explorer
from vaedm_jax.modes.explorer.page import build_page, launch
from vaedm_jax.modes.shared.models import load_training_images, open_model
from vaedm_jax.runs.weights import model_name

ENCODED = 512  # training images whose principal directions are used
STAND_INS = 64  # samples of the model that take their place


def explore(config: ConfigDict, workdir: Path) -> None:
    """Serve the page until Ctrl-C."""
    check(config, to_train=False)
    model, settings = open_model(config, workdir), config.explore
    model.engine.check_vae()
    model.engine.check_trained()
    if not find_spec("gradio"):
        raise UserError(
            "--mode=explore needs Gradio; install it with launch/env.sh explore, or pip install '.[explore]'"
        )
    name, noun = model_name(config.sample.weights or workdir), noun_of(model)
    print("compiling the programs of the page ...", flush=True)
    explorer = Explorer(model, known_images(config, model), make_chain(config.sample))
    explorer.compile()
    page = build_page(explorer, f"VAEDM explorer: {name}", noun)
    try:
        launch(page, explorer, server_name=settings.host, server_port=settings.port)
    except Exception as error:  # Gradio and its server raise many kinds
        place = f"explore.host = {settings.host}, explore.port = {settings.port}"
        raise UserError(
            f"{place}: the page cannot be served there ({type(error).__name__}); give another port or host"
        ) from error
    print(f"http://{settings.host}:{settings.port}; press Ctrl-C to stop", flush=True)
    page.block_thread()


def noun_of(model: VAEDM) -> str:
    """Return what an image of the model is called."""
    return "face" if model.config.data.source == "avatars" and not model.config.data.path else "image"


def known_images(config: ConfigDict, model: VAEDM) -> np.ndarray:
    """Return some training images [N, H, W, C] in [0, 1], or samples of the model if these are not on this machine.

    Weights of others are of images that only they have. A place that the user names must have the images.
    """
    try:
        return some(load_training_images(config, model).train, ENCODED)
    except UserError as error:
        if config.data.path != model.config.data.path:
            raise
        print(
            f"note: {error}\nnote: {STAND_INS} samples of the model take the place of its training images", flush=True
        )
        chain = make_chain(config.sample)
        if chain.start == "warm" and not chain.t_start:  # the rule that finds it needs training images
            chain = replace(chain, start="noise")
        return model.sample(STAND_INS, chain=chain).images
