"""`Explorer`: draws what the page shows."""

import io
import json
import threading
from dataclasses import asdict, replace
from functools import cache, lru_cache
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from vaedm_jax.api import VAEDM
from vaedm_jax.conditioning.tasks import check_size, make_task
from vaedm_jax.data import picture
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.learnt import TUNED
from vaedm_jax.diffusion.samplers import SAMPLERS
from vaedm_jax.diffusion.spacing import RULE_OF
from vaedm_jax.errors import UserError, check_range
from vaedm_jax.modes.explorer.directions import describe_loss, find_directions, lost
from vaedm_jax.modes.explorer.state import SETTINGS, Allowed, State, from_file, from_query, to_file, to_query
from vaedm_jax.modes.shared.restoration import restore_images
from vaedm_jax.reporting import to_uint8
from vaedm_jax.sampling.inputs import compute_digest, path_between

MOST_PIXELS = 16 * 10**6  # limit of a picture that is dropped onto the page
MOST_RESTORED = 256 * 256  # pixels of a restored picture
MOST_STEPS = 100  # unless the configuration has more
DRAWN = 16  # z that are drawn at a time
PLACES = 100  # places on the path between two pictures
CONSISTENCY = "consistency"
# Settings with a name: (sampler, steps, start). docs/few_steps.md and docs/study.md have the scores of many of them.
TUNED_PRESETS = {
    "Fastest": (CONSISTENCY, 1, "warm"),
    "Best": (CONSISTENCY, 2, "warm"),
    "From noise": (CONSISTENCY, 2, "noise"),
}
PRESETS = {"Fast": ("unipc2", 3, "warm"), "Good": ("unipc2", 5, "warm"), "From noise": ("unipc2", 10, "noise")}
# The chain of a tuned refiner whose configuration does not have one that suits it (docs/few_steps.md).
TUNED_CHAIN = {"sampler": CONSISTENCY, "steps": 2, "start": "warm", "spacing": "open"}
TUNED_START = 0.9  # its t_start, as a share of T
OTHER = "This was made with another model or other settings. So the picture differs from the one that was shown there."
OTHER_CHAIN = "This was made with other settings ({}). So the picture differs from the one that was shown there."


class Explorer:
    """The functions of the page: they take states and names of files, and return states and PNG files.

    Attributes:
      directions: the principal directions of the encoded images.
      usual: [N], what the VAE loses of each of these; see `lost`.
      allowed: the states that the model allows.
      own: the settings of the configuration, at the mean z.
      presets: states with the mean z, by the name of their settings; `own` is one of them.
      identity: identifies the model and the images, which together give a position its meaning, and the settings that a
        state does not have.
    """

    def __init__(self, model: VAEDM, images: np.ndarray, chain: Chain):
        """Encode the images, and find what the model allows.

        Args:
          images: [N, H, W, C] in [0, 1], some of the images that the model was trained on.
          chain: how to sample, as the configuration says.
        """
        model.engine.check_vae()
        self.model, self.images = model, images
        if self.is_tuned and chain.sampler != CONSISTENCY:
            chain = replace(chain, **TUNED_CHAIN, t_start=round(TUNED_START * model.config.ddpm.T))
        # The t_start of a configuration that does not start at x_hat is only a default.
        self._chain = chain if chain.start == "warm" else replace(chain, t_start=0)
        self._variance = cache(lambda: model.error_variance(images[:RULE_OF]))
        model.engine.check_chain(self._chain.with_t_start(model.schedule, self._variance))
        usual = asdict(Chain())
        others = {k: v for k, v in asdict(self._chain).items() if k not in SETTINGS and v != usual[k]}
        made_with = model.engine.fingerprint + (json.dumps(others) if others else "")
        self.identity = compute_digest(to_uint8(images), made_with)
        z = model.encode(images)
        self.directions, self.usual = find_directions(z), lost(images, model.decode(z))
        self._known = np.array([self.directions.position(one) for one in z])
        samplers, starts = self._samplers(), dict.fromkeys((chain.start, "warm", "noise"))
        most = max(MOST_STEPS, chain.steps)
        self.allowed = Allowed(len(self.directions.axes), most, samplers, tuple(starts))
        self.own = State((0.0,) * len(self.directions.axes), 0, chain.steps, chain.sampler, chain.start)
        self.presets = self._presets()
        self._cached, self._one_at_a_time = lru_cache(256)(self._draw), threading.Lock()

    def _samplers(self) -> tuple[str, ...]:
        """Return the samplers that suit the model, that of the configuration first."""
        if self.is_tuned:
            return (CONSISTENCY,)
        unfit = {CONSISTENCY} if self.model.params["tables"] else {CONSISTENCY, TUNED}
        return tuple(dict.fromkeys((self._chain.sampler, *(name for name in SAMPLERS if name not in unfit))))

    def _presets(self) -> dict[str, State]:
        """Return the presets that the model allows."""
        found = {}
        for name, (sampler, steps, start) in (TUNED_PRESETS if self.is_tuned else PRESETS).items():
            state = replace(self.own, sampler=sampler, steps=steps, start=start)
            try:
                self._program(state)
            except UserError:  # such as a spacing that gives other numbers of steps
                continue
            found[name] = state
        return found if self.own in found.values() else {"As configured": self.own} | found

    @property
    def is_tuned(self) -> bool:
        """Whether the refiner is tuned for consistency, which only one sampler suits."""
        return self.model.config.ddpm.objective == CONSISTENCY

    def chain(self, state: State) -> Chain:
        """Return the chain of a state; raise UserError if the model does not allow it."""
        self.allowed.check(state)
        chain = replace(self._chain, sampler=state.sampler, steps=state.steps, start=state.start)
        chain = chain.with_t_start(self.model.schedule, self._variance)
        self.model.engine.check_chain(chain)
        return chain

    def _program(self, state: State) -> Any:
        """Return what the compiled program of a state depends on."""
        return jax.tree.map(np.shape, self.model.engine.arrays(self.chain(state)))

    def compile(self) -> None:
        """Compile the programs that the page needs at first."""
        self.draw_z(0)
        self.model.reconstruct(self.images[:1])
        for state in {self._program(state): state for state in self.presets.values()}.values():
            self.refined(state)

    def x_hat(self, state: State) -> bytes:
        """Return the PNG of the image that the VAE decodes from z."""
        z = self.directions.z(self.allowed.check(state).position)
        return as_png(self.model.decode(z[None], batch_size=1)[0])

    def refined(self, state: State) -> bytes:
        """Return the PNG of the image that the refiner makes of x_hat.

        The page asks for the same image in two places at once. It is drawn once.
        """
        with self._one_at_a_time:
            return self._cached(state)

    def _draw(self, state: State) -> bytes:
        how = dict(z=self.directions.z(state.position), chain=self.chain(state), batch_size=1, progress=False)
        return as_png(self.model.sample(1, state.seed, **how).images[0])

    def draw_z(self, seed: int, typical: bool = False) -> tuple[float, ...]:
        """Return the position of a z from the prior.

        Args:
          typical: of several z, take the one that is nearest to that of a training image.
        """
        z = self.model.sample_z(DRAWN, seed, self._chain.z_temperature)
        if not typical:
            return self.directions.position(z[0])
        k, found = self.directions.sliders, [self.directions.position(one) for one in z]
        return min(found, key=lambda p: np.min(np.sum((self._known[:, :k] - p[:k]) ** 2, axis=1)))

    def between(self, a: State, b: State, place: float, path: str) -> tuple[float, ...]:
        """Return a position on the path in z from a to b.

        Args:
          place: from 0, which is a, to 1, which is b.
          path: one of `inputs.PATHS`.
        """
        check_range("place", place, 0.0, 1.0)
        ends = (self.directions.z(self.allowed.check(end).position) for end in (a, b))
        return self.directions.position(path_between(*ends, PLACES + 1, path)[round(PLACES * place)])

    def combine(self, a: State, b: State, c: State) -> tuple[float, ...]:
        """Return the position of z_a - z_b + z_c."""
        a, b, c = (self.allowed.check(state) for state in (a, b, c))
        return self.directions.position(sum(s * self.directions.z(x.position) for s, x in ((1, a), (-1, b), (1, c))))

    def find(self, path: str | None) -> tuple[tuple[float, ...], str]:
        """Return the position of a picture, and a sentence if the VAE hardly knows such pictures."""
        image = picture(require_picture(path), self.model.engine.networks.size, MOST_PIXELS)[None]
        z = self.model.encode(image)
        loss = lost(image / np.float32(255), self.model.decode(z, batch_size=1))[0]
        note = describe_loss(loss, self.usual) or self.directions.describe_place(z[0])
        return self.directions.position(z[0]), note

    def restore(self, path: str | None, task: str, factor: float, sigma: float) -> bytes:
        """Restore a picture that was reduced by `factor`, or that has noise of deviation `sigma`; return the PNG.

        The picture is used at its own size.
        """
        damaged = picture(require_picture(path), None, MOST_PIXELS)[None].astype(np.float32) / 255
        task = make_task(ConfigDict({"task": task, "factor": int(factor), "sigma": float(sigma)}))
        check_size("the picture", task, damaged.shape[1:], MOST_RESTORED, self.model.engine.networks.multiple)
        chain = task.begin(self.chain(self.own), self.model.schedule, lambda: self.images[:RULE_OF])
        return as_png(restore_images(self.model, task, chain, damaged, progress=False)[0])

    def to_query(self, state: State) -> str:
        """Return a state as the query of an address."""
        return to_query(state, self.identity)

    def from_query(self, query: str, default: State) -> tuple[State, str]:
        """Return the state of a query, which the default completes, and a sentence if it is of another model."""
        state, made_with = from_query(query, self.allowed, default)
        return state, OTHER if made_with not in ("", self.identity) else ""

    def to_file(self, state: State) -> str:
        """Return a state as the text of a JSON file."""
        z = self.directions.z(state.position)
        found = to_file(state, self.model.engine.fingerprint, z, self.chain(state), self.refined(state))
        return json.dumps(found, indent=1)

    def from_file(self, path: str) -> tuple[State, str]:
        """Return the state in a file, and a sentence if it is of another model, or of another chain."""
        loaded = from_file(path, self.model.engine.check_vae().z_dim)
        state = self.allowed.check(State(self.directions.position(loaded.z), **loaded.settings))
        if loaded.model != self.model.engine.fingerprint:
            return state, OTHER
        chain = asdict(self.chain(state))
        others = [name for name, value in (loaded.chain or {}).items() if chain.get(name, value) != value]
        return state, OTHER_CHAIN.format(", ".join(others)) if others else self.directions.describe_place(loaded.z)


def require_picture(path: str | None) -> str:
    """Return the path of a picture; raise UserError if none was dropped."""
    if not path:
        raise UserError("drop a picture first")
    return path


def as_png(image: np.ndarray) -> bytes:
    """Return the PNG of an image in [0, 1]. It is compressed little, since that takes longer than drawing x_hat."""
    data = io.BytesIO()
    Image.fromarray(to_uint8(image)).save(data, "PNG", compress_level=1)
    return data.getvalue()
