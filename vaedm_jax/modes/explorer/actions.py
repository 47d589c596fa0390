"""What the page does on each event, as functions of plain values, without Gradio.

An action sets the controls, the history and the address. The browser then asks for the images of the address, which
`draw` returns. While a slider moves, it asks for these alone.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vaedm_jax.errors import UserError
from vaedm_jax.modes.explorer import markup
from vaedm_jax.modes.explorer.drawing import Explorer
from vaedm_jax.modes.explorer.history import History
from vaedm_jax.modes.explorer.state import State

SLOTS = "ABC"  # the kept faces
WAY = 7  # images of an interpolation
SEEDS = 2**32
PLACE = "picture"  # the folder of the images, relative to the page
Slots = tuple[State, ...]
Values = list[Any]  # of components, in the order of the outputs


class Actions:
    """The actions. `controls` are the positions without a slider, those with one, seed, steps, sampler and start."""

    def __init__(self, explorer: Explorer):
        self.explorer, self.size = explorer, explorer.model.engine.networks.size

    def draw(self, name: str, query: str) -> bytes:
        """Return the PNG of a state.

        Args:
          name: "x_hat" or "refined".
          query: the query of the state, of unknown origin.
        """
        state, _ = self.explorer.from_query(query, self.explorer.own)
        return {"x_hat": self.explorer.x_hat, "refined": self.explorer.refined}[name](state)

    def state(self, controls: Sequence[Any]) -> State:
        """Return the state that the controls show."""
        rest, *sliders, seed, steps, sampler, start = controls
        state = State((*(float(s or 0) for s in sliders), *rest), int(seed or 0), int(steps or 1), sampler, start)
        return self.explorer.allowed.check(state)

    def controls(self, state: State) -> Values:
        """Return the values of the controls for a state."""
        k = self.explorer.directions.sliders
        rest, sliders = state.position[k:], state.position[:k]
        return [rest, *sliders, state.seed, state.steps, state.sampler, state.start]

    def _arrive(self, state: State, history: History, note: str = "") -> Values:
        """Return [history, strip, address, preset, note, *controls]; raise UserError if the state is not allowed."""
        self.explorer.chain(state)
        history = history.visit(state)
        pictures = [self._image("refined", old) for old in history.strip]
        current = history.strip.index(state) if state in history.strip else -1
        settings = replace(state, position=self.explorer.own.position, seed=self.explorer.own.seed)
        preset = next((name for name, other in self.explorer.presets.items() if other == settings), None)
        shown = [markup.strip(pictures, current), self.explorer.to_query(state), preset, markup.note(note)]
        return [history, *shown, *self.controls(state)]

    def _image(self, name: str, state: State, alt: str = "") -> str:
        return markup.image(f"{PLACE}/{name}?{self.explorer.to_query(state)}", alt, self.size)

    def open(self, query: str) -> Values:
        """Arrive at the state of the address, or else at a random one; also return the kept faces and their images."""
        seeds = np.random.default_rng().integers(SEEDS, size=len(SLOTS)).tolist()
        first, *others = (replace(self.explorer.own, position=self.explorer.draw_z(s, typical=True)) for s in seeds)
        try:
            first, note = self.explorer.from_query(query, first)
            shown = self._arrive(first, History(), note)
        except UserError as error:
            shown = self._arrive(first, History(), str(error))
        return [*shown, *self._keep((first, *others))]

    def rest(self, history: History, *controls: Any) -> Values:
        """Arrive where the controls have come to rest; the controls stay as they are."""
        shown = self._arrive(self.state(controls), history)
        return shown[: -len(controls)]

    def random(self, history: History, *controls: Any) -> Values:
        """Draw z from the prior."""
        position = self.explorer.draw_z(int(np.random.default_rng().integers(SEEDS)))
        return self._arrive(replace(self.state(controls), position=position), history)

    def renew(self, history: History, *controls: Any) -> Values:
        """Take the next seed."""
        state = self.state(controls)
        return self._arrive(replace(state, seed=(state.seed + 1) % SEEDS), history)

    def undo(self, history: History, *controls: Any) -> Values:
        """Go back to what was shown before."""
        history = history.undo()
        return self._arrive(history.now or self.state(controls), history)

    def visit(self, history: History, index: int) -> Values:
        """Go to a picture of the strip."""
        if not 0 <= index < len(history.strip):
            raise UserError(f"picture {index + 1}: there are {len(history.strip)}")
        return self._arrive(history.strip[index], history)

    def choose(self, preset: str, history: History, *controls: Any) -> Values:
        """Take the settings of a preset."""
        state = self.state(controls)
        chosen = replace(self.explorer.presets[preset], position=state.position, seed=state.seed)
        return self._arrive(chosen, history)

    def find(self, path: str | None, history: History, *controls: Any) -> Values:
        """Go to where a picture lies."""
        position, note = self.explorer.find(path)
        return self._arrive(replace(self.state(controls), position=position), history, note)

    def load(self, path: str, history: History) -> Values:
        """Go to the picture of a saved file."""
        state, note = self.explorer.from_file(path)
        return self._arrive(state, history, note)

    def save(self, *controls: Any) -> str:
        """Return the text of a file."""
        return self.explorer.to_file(self.state(controls))

    def keep(self, slot: int, slots: Slots, *controls: Any) -> Values:
        """Keep the present face; return [the kept faces, their images]."""
        return self._keep((*slots[:slot], self.state(controls), *slots[slot + 1 :]))

    def _keep(self, slots: Slots) -> Values:
        pictures = [markup.titled(self._image("x_hat", s), name) for s, name in zip(slots, SLOTS, strict=True)]
        return [slots, markup.row(pictures)]

    def mix(self, place: float, path: str, slots: Slots, *controls: Any) -> Values:
        """Move to a place on the path from A to B; return [address, *controls]."""
        position = self.explorer.between(*slots[:2], float(place), path)
        state = replace(self.state(controls), position=position)
        return [self.explorer.to_query(state), *self.controls(state)]

    def combine(self, slots: Slots, history: History, *controls: Any) -> Values:
        """Go to A - B + C."""
        return self._arrive(replace(self.state(controls), position=self.explorer.combine(*slots)), history)

    def interpolate(self, path: str, slots: Slots, *controls: Any) -> str:
        """Return images on the path from A to B with the present settings, x_hat above the refined images."""
        state, places = self.state(controls), np.linspace(0, 1, WAY).tolist()
        states = [replace(state, position=self.explorer.between(*slots[:2], place, path)) for place in places]
        labels = [f"{place:.0%} of the way from A to B" for place in places]
        return "".join(
            markup.row(self._image(name, *of) for of in zip(states, labels, strict=True))
            for name in ("x_hat", "refined")
        )

    def restore(self, path: str | None, task: str, factor: float, sigma: float) -> str:
        """Return the restored picture."""
        restored = self.explorer.restore(path, task, factor, sigma)
        return markup.image(markup.inline(restored), "Restored picture", self.size)
