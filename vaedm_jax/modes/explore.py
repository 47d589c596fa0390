"""Mode `explore`: a page in the browser with sliders along the directions in which encoded images differ most."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vaedm_jax.api import VAEDM, silent
from vaedm_jax.conditioning.tasks import check_size, task_of
from vaedm_jax.config import chain_of
from vaedm_jax.config.checks import check
from vaedm_jax.data import picture, some
from vaedm_jax.diffusion.chain import SAMPLERS, Chain
from vaedm_jax.diffusion.images import to_uint8
from vaedm_jax.diffusion.spacing import RULE_OF
from vaedm_jax.errors import UserError
from vaedm_jax.modes.drawing import placed
from vaedm_jax.modes.restoring import restored
from vaedm_jax.modes.training_images import images_of
from vaedm_jax.runs.models import label_of
from vaedm_jax.sampling.inputs import PATHS

DIRECTIONS, LEAST = 8, 0.01  # sliders at most, and the share of the variance that a direction needs to have one
ENCODED = 512  # images of the training that the directions are of
MOST_BYTES, MOST_PIXELS = 10 * 2**20, 16 * 10**6  # of a picture that is dropped onto the page
MOST_RESTORED = 256 * 256  # pixels that are restored
SHOWN = 256  # pixels of an image on the page, about
LAUNCH = {"max_file_size": MOST_BYTES, "quiet": True, "show_error": True, "share": False, "footer_links": []}


class Explorer:
    """What the page does, without the page: settings and names of files in, uint8 images [H, W, 3] out.

    Attributes:
      mean: [D], of the encoded images; axes: [K, D], their principal directions, as long as the images deviate there.
      shares: [K], of their variance.
    """

    def __init__(self, model: VAEDM, images: np.ndarray, chain: Chain):
        model.check_vae()
        model.check_chain(chain)
        self.model, self.images, self.chain = model, images, chain
        z = model.encode(images)
        self.mean = z.mean(axis=0)
        _, deviations, axes = np.linalg.svd(z - self.mean, full_matrices=False)
        shares = deviations**2 / np.sum(deviations**2)
        kept = min(DIRECTIONS, int(np.sum(shares >= LEAST)))
        self.axes, self.shares = (deviations[:, None] * axes / np.sqrt(len(z)))[:kept], shares[:kept]

    def draw(self, seed: float | None, steps: float, sampler: str, start: str, *positions: float) -> list[np.ndarray]:
        """x_hat at so many deviations along each axis from the mean, and what is refined from it with a seed's x_T."""
        z = np.float32(self.mean + np.asarray(positions) @ self.axes)
        how = dict(z=z, steps=int(steps), sampler=sampler, start=start)
        samples = self.model.sample(1, int(seed or 0), chain=self.chain, progress=silent, **how)
        return [enlarged(samples.x_hat[0]), enlarged(samples.images[0])]

    def positions(self, path: str | None) -> list[float]:
        """Where the axes have a picture; all else of its z is dropped."""
        z = self.model.encode(self.square(path))[0] - self.mean
        return [round(float(p), 2) for p in self.axes @ z / np.sum(self.axes**2, axis=1)]

    def restore(self, path: str | None, task: str, factor: float, sigma: float) -> np.ndarray:
        """A picture that was reduced, or is noisy, at its own size."""
        damaged = picture(given(path), None, MOST_PIXELS)[None].astype(np.float32) / 255
        task = task_of(ConfigDict({"task": task, "factor": int(factor), "sigma": float(sigma)}))
        check_size("the picture", task, damaged.shape[1:], MOST_RESTORED, self.model.networks.multiple)
        chain = task.begin(self.chain, self.model.networks.full_schedule, lambda: self.images[:RULE_OF])
        return enlarged(restored(self.model, task, chain, damaged, progress=silent)[0])

    def interpolate(self, a: str | None, b: str | None, path: str, seed: float | None) -> list[np.ndarray]:
        """Seven images on the way between two pictures, with one x_T."""
        ends = [self.square(end)[0] for end in (a, b)]
        how = dict(n=7, path=path, seed=int(seed or 0), chain=self.chain, progress=silent)
        return [enlarged(image) for image in self.model.interpolate(*ends, **how).images]

    def square(self, path: str | None) -> np.ndarray:
        """A picture as the VAE takes it, uint8 [1, H, W, 3]."""
        return picture(given(path), self.model.networks.size, MOST_PIXELS)[None]


def given(path: str | None) -> str:
    if not path:
        raise UserError("drop a picture first")
    return path


def enlarged(image: np.ndarray) -> np.ndarray:
    """An image in [0, 1] as uint8, its pixels as squares where it is small."""
    scale = max(1, SHOWN // max(image.shape[:2]))
    return to_uint8(image).repeat(scale, axis=0).repeat(scale, axis=1)


def build_page(explorer: Explorer, title: str) -> Any:
    """The page, a `gradio.Blocks`."""
    import gradio as gr

    def told(function: Callable) -> Callable:
        """What is wrong with the input appears on the page."""

        @wraps(function)
        def call(*inputs: Any) -> Any:
            try:
                return function(*inputs)
            except UserError as error:
                raise gr.Error(str(error), print_exception=False) from error

        return call

    def drop(label: str) -> gr.Image:
        image = gr.Image(label=label, type="filepath", image_mode=None, sources=["upload", "clipboard"], height=SHOWN)
        # Hands over the file unopened: `data.picture` refuses what is none, or huge.
        image.preprocess = lambda payload: payload and payload.path
        return image

    def shown(label: str, name: str) -> gr.Image:
        return gr.Image(label=label, elem_id=name, interactive=False, format="png", buttons=["download"])

    chain = explorer.chain
    with gr.Blocks(title=title, analytics_enabled=False) as page:
        gr.Markdown(f"# {title}\nThe VAE decodes z to x̂; the refiner makes an image of it.")
        with gr.Row():
            with gr.Column():
                sliders = [
                    gr.Slider(
                        -3, 3, 0, step=0.1, label=f"direction {k + 1}, {share:.0%} of the variance", elem_id=f"z{k}"
                    )
                    for k, share in enumerate(explorer.shares)
                ]
                dropped = drop("or begin at a picture")
            with gr.Column():
                x_hat, refined = shown("x̂", "x_hat"), shown("refined", "refined")
                with gr.Row():
                    seed = gr.Number(0, label="seed of x_T", precision=0, minimum=0, maximum=2**32 - 1)
                    again = gr.Button("another x_T")
                steps = gr.Slider(1, 100, chain.steps, step=1, label="steps")
                sampler = gr.Dropdown(list(SAMPLERS), value=chain.sampler, label="sampler")
                start = gr.Dropdown(["noise", "warm"], value=chain.start, label="start")
        settings = [seed, steps, sampler, start, *sliders]
        # While a slider moves, what is drawn is always of its latest place.
        moves = [page.load, *(control.change for control in settings)]
        gr.on(
            moves, told(explorer.draw), settings, [x_hat, refined], trigger_mode="always_last", show_progress="minimal"
        )
        again.click(lambda seed: seed + 1, seed, seed)
        dropped.upload(told(explorer.positions), dropped, sliders)

        with gr.Accordion("Restore a picture", open=False), gr.Row():
            damaged = drop("reduced, or noisy")
            with gr.Column():
                task = gr.Radio(["super", "denoise"], value="super", label="what it lost")
                factor = gr.Slider(2, 8, 2, step=1, label="factor by which it was reduced")
                sigma = gr.Slider(0.02, 0.5, 0.1, label="deviation of its noise, of 1")
                restore = gr.Button("restore")
            restored = shown("restored", "restored")
            restore.click(told(explorer.restore), [damaged, task, factor, sigma], restored)

        with gr.Accordion("From one picture to another", open=False):
            with gr.Row():
                first, last = drop("from"), drop("to")
            path = gr.Radio(list(PATHS), value=PATHS[0], label="path in z")
            go = gr.Button("interpolate")
            way = gr.Gallery(label="on the way", columns=7, format="png")
            go.click(told(explorer.interpolate), [first, last, path, seed], way)
    return page


def explore(config: ConfigDict, workdir: Path) -> None:
    """Serve the page until Ctrl-C."""
    check(config, to_train=False)
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError("--mode=explore needs Gradio: launch/env.sh explore, or pip install '.[explore]'") from error
    model = VAEDM.open(config.sample.weights or workdir, config.sample.best).as_asked(config)
    model.check_vae()
    train, settings = images_of(config, model).train, config.explore
    (chain,) = placed(model, [chain_of(config.sample)], lambda: train)
    explorer = Explorer(model, some(train, ENCODED), chain)
    page = build_page(explorer, f"VAEDM, {label_of(config.sample.weights or workdir)}")
    place = f"explore.host = {settings.host}, explore.port = {settings.port}"
    try:
        page.launch(**LAUNCH, server_name=settings.host, server_port=settings.port, prevent_thread_lock=True)
    except Exception as error:  # Gradio and its server raise many kinds
        raise UserError(f"{place}: the page cannot be served there; name another port or host") from error
    print(f"http://{settings.host}:{settings.port}; Ctrl-C ends it", flush=True)
    page.block_thread()
