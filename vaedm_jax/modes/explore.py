"""Mode `explore`: a page in the browser with sliders along the principal directions of encoded images."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vaedm_jax.api import VAEDM
from vaedm_jax.conditioning.tasks import check_size, make_task
from vaedm_jax.config import make_chain
from vaedm_jax.config.checks import check
from vaedm_jax.data import picture, some
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.learnt import TUNED
from vaedm_jax.diffusion.samplers import SAMPLERS
from vaedm_jax.diffusion.spacing import RULE_OF
from vaedm_jax.errors import UserError
from vaedm_jax.modes.shared.drawing import with_t_start
from vaedm_jax.modes.shared.models import load_training_images, open_model
from vaedm_jax.modes.shared.restoration import restore_images
from vaedm_jax.reporting import to_uint8
from vaedm_jax.runs.weights import model_name
from vaedm_jax.sampling.inputs import PATHS

DIRECTIONS, LEAST = 8, 0.01  # most sliders; least share of the variance along a direction with a slider
ENCODED = 512  # training images whose principal directions are used
MOST_BYTES, MOST_PIXELS = 10 * 2**20, 16 * 10**6  # limits of a picture that is dropped onto the page
MOST_RESTORED = 256 * 256  # pixels of a restored picture
SHOWN = 256  # pixels a side of an image on the page, about
LAUNCH = {"max_file_size": MOST_BYTES, "quiet": True, "show_error": True, "share": False, "footer_links": []}


class Explorer:
    """The functions of the page: they take settings and names of files, and return uint8 images [H, W, 3].

    Attributes:
      mean: [D], the mean z of the encoded images.
      axes: [K, D], the principal directions of z. The length of each is the standard deviation along it.
      shares: [K], the share of the variance of z along each axis.
    """

    def __init__(self, model: VAEDM, images: np.ndarray, chain: Chain):
        model.engine.check_vae()
        model.engine.check_chain(chain)
        self.model, self.images, self.chain = model, images, chain
        z = model.encode(images)
        self.mean = z.mean(axis=0)
        _, deviations, axes = np.linalg.svd(z - self.mean, full_matrices=False)
        shares = deviations**2 / np.sum(deviations**2)
        kept = min(DIRECTIONS, int(np.sum(shares >= LEAST)))
        self.axes, self.shares = (deviations[:, None] * axes / np.sqrt(len(z)))[:kept], shares[:kept]

    def draw(self, seed: float | None, steps: float, sampler: str, start: str, *positions: float) -> list[np.ndarray]:
        """Return x_hat and the image refined from it.

        Args:
          seed: the seed of x_T.
          positions: the position of z along each axis, in standard deviations from the mean.
        """
        z = np.float32(self.mean + np.asarray(positions) @ self.axes)
        how = dict(z=z, steps=int(steps), sampler=sampler, start=start)
        samples = self.model.sample(1, int(seed or 0), chain=self.chain, progress=False, **how)
        return [enlarge(samples.x_hat[0]), enlarge(samples.images[0])]

    def positions(self, path: str | None) -> list[float]:
        """Return the positions of a picture along the axes. The rest of its z is dropped."""
        z = self.model.encode(self.square(path))[0] - self.mean
        return [round(float(p), 2) for p in self.axes @ z / np.sum(self.axes**2, axis=1)]

    def restore(self, path: str | None, task: str, factor: float, sigma: float) -> np.ndarray:
        """Restore a picture that was reduced by `factor`, or that has noise of deviation `sigma`.

        The picture is used at its own size.
        """
        damaged = picture(require_picture(path), None, MOST_PIXELS)[None].astype(np.float32) / 255
        task = make_task(ConfigDict({"task": task, "factor": int(factor), "sigma": float(sigma)}))
        check_size("the picture", task, damaged.shape[1:], MOST_RESTORED, self.model.engine.networks.multiple)
        chain = task.begin(self.chain, self.model.schedule, lambda: self.images[:RULE_OF])
        return enlarge(restore_images(self.model, task, chain, damaged, progress=False)[0])

    def interpolate(self, a: str | None, b: str | None, path: str, seed: float | None) -> list[np.ndarray]:
        """Return an interpolation of seven images between two pictures, with one x_T."""
        ends = [self.square(end)[0] for end in (a, b)]
        how = dict(n=7, path=path, seed=int(seed or 0), chain=self.chain, progress=False)
        return [enlarge(image) for image in self.model.interpolate(*ends, **how).images]

    def square(self, path: str | None) -> np.ndarray:
        """Return a picture at the size that the VAE takes, uint8 [1, H, W, 3]."""
        return picture(require_picture(path), self.model.engine.networks.size, MOST_PIXELS)[None]


def require_picture(path: str | None) -> str:
    """Return the path of a picture; raise UserError if none was dropped."""
    if not path:
        raise UserError("drop a picture first")
    return path


def enlarge(image: np.ndarray) -> np.ndarray:
    """Convert an image in [0, 1] to uint8. The pixels of a small image become squares."""
    scale = max(1, SHOWN // max(image.shape[:2]))
    return to_uint8(image).repeat(scale, axis=0).repeat(scale, axis=1)


def build_page(explorer: Explorer, title: str) -> Any:
    """Return the page, a `gradio.Blocks`."""
    import gradio as gr

    def show_errors(function: Callable) -> Callable:
        """Return the function with its UserErrors shown on the page."""

        @wraps(function)
        def call(*inputs: Any) -> Any:
            try:
                return function(*inputs)
            except UserError as error:
                raise gr.Error(str(error), print_exception=False) from error

        return call

    def drop(label: str) -> gr.Image:
        image = gr.Image(label=label, type="filepath", image_mode=None, sources=["upload", "clipboard"], height=SHOWN)
        # Pass on the file unopened: `data.picture` refuses files that are huge or not pictures.
        image.preprocess = lambda payload: payload and payload.path
        return image

    def shown(label: str, name: str) -> gr.Image:
        return gr.Image(label=label, elem_id=name, interactive=False, format="png", buttons=["download"])

    chain = explorer.chain
    samplers = [name for name in SAMPLERS if name != TUNED or explorer.model.params["tables"]]
    with gr.Blocks(title=title, analytics_enabled=False) as page:
        gr.Markdown(f"# {title}\nThe VAE decodes z to x̂. The refiner turns x̂ into an image.")
        with gr.Row():
            with gr.Column():
                sliders = [
                    gr.Slider(
                        -3, 3, 0, step=0.1, label=f"direction {k + 1}, {share:.0%} of the variance", elem_id=f"z{k}"
                    )
                    for k, share in enumerate(explorer.shares)
                ]
                dropped = drop("or start from a picture")
            with gr.Column():
                x_hat, refined = shown("x̂", "x_hat"), shown("refined", "refined")
                with gr.Row():
                    seed = gr.Number(0, label="seed of x_T", precision=0, minimum=0, maximum=2**32 - 1)
                    again = gr.Button("another x_T")
                steps = gr.Slider(1, 100, chain.steps, step=1, label="steps")
                sampler = gr.Dropdown(samplers, value=chain.sampler, label="sampler")
                start = gr.Dropdown(["noise", "warm"], value=chain.start, label="start")
        settings = [seed, steps, sampler, start, *sliders]
        # While a slider moves, only its latest position is drawn.
        moves = [page.load, *(control.change for control in settings)]
        gr.on(
            moves,
            show_errors(explorer.draw),
            settings,
            [x_hat, refined],
            trigger_mode="always_last",
            show_progress="minimal",
        )
        again.click(lambda seed: seed + 1, seed, seed)
        dropped.upload(show_errors(explorer.positions), dropped, sliders)

        with gr.Accordion("Restore a picture", open=False), gr.Row():
            damaged = drop("reduced or noisy picture")
            with gr.Column():
                task = gr.Radio(["super", "denoise"], value="super", label="task")
                factor = gr.Slider(2, 8, 2, step=1, label="factor by which it was reduced")
                sigma = gr.Slider(0.02, 0.5, 0.1, label="standard deviation of its noise, for pixels in [0, 1]")
                restore = gr.Button("restore")
            restored = shown("restored", "restored")
            restore.click(show_errors(explorer.restore), [damaged, task, factor, sigma], restored)

        with gr.Accordion("From one picture to another", open=False):
            with gr.Row():
                first, last = drop("from"), drop("to")
            path = gr.Radio(list(PATHS), value=PATHS[0], label="path in z")
            go = gr.Button("interpolate")
            way = gr.Gallery(label="interpolation", columns=7, format="png")
            go.click(show_errors(explorer.interpolate), [first, last, path, seed], way)
    return page


def explore(config: ConfigDict, workdir: Path) -> None:
    """Serve the page until Ctrl-C."""
    check(config, to_train=False)
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError(
            "--mode=explore needs Gradio; install it with launch/env.sh explore, or pip install '.[explore]'"
        ) from error
    model = open_model(config, workdir)
    model.engine.check_vae()
    train, settings = load_training_images(config, model).train, config.explore
    (chain,) = with_t_start(model, [make_chain(config.sample)], lambda: train)
    explorer = Explorer(model, some(train, ENCODED), chain)
    page = build_page(explorer, f"VAEDM, {model_name(config.sample.weights or workdir)}")
    place = f"explore.host = {settings.host}, explore.port = {settings.port}"
    try:
        page.launch(**LAUNCH, server_name=settings.host, server_port=settings.port, prevent_thread_lock=True)
    except Exception as error:  # Gradio and its server raise many kinds
        raise UserError(f"{place}: the page cannot be served there; give another port or host") from error
    print(f"http://{settings.host}:{settings.port}; press Ctrl-C to stop", flush=True)
    page.block_thread()
