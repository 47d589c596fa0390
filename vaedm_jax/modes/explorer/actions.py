"""What the page does on each event, as functions of plain values, without Gradio.

An action has two parts. The first, which ends in `_arrive`, sets the controls and shows x_hat at once. The second,
`finish`, draws the refined image, and adds it to the history and to the address. While a slider moves, only `sketch`
and `refine` follow.
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

Slots = tuple[State, ...]  # the kept faces A, B and C
Values = list[Any]  # of components, in the order of the outputs
WAY = 7  # images of an interpolation
SEEDS = 2**32


class Actions:
    """The actions. `controls` are the positions without a slider, those with one, seed, steps, sampler and start."""

    def __init__(self, explorer: Explorer):
        self.explorer, self.size = explorer, explorer.model.engine.networks.size

    def state(self, controls: Sequence[Any]) -> State:
        """Return the state that the controls show."""
        rest, *sliders, seed, steps, sampler, start = controls
        return State((*map(float, sliders), *rest), int(seed or 0), int(steps or 1), sampler, start)

    def controls(self, state: State) -> Values:
        """Return the values of the controls for a state."""
        k = self.explorer.directions.sliders
        rest, sliders = state.position[k:], state.position[:k]
        return [rest, *sliders, state.seed, state.steps, state.sampler, state.start]

    def _x_hat(self, state: State, alt: str = "") -> str:
        return markup.image(self.explorer.x_hat(state), alt, self.size)

    def _refined(self, state: State, alt: str = "") -> str:
        return markup.image(self.explorer.refined(state), alt, self.size)

    def _pane(self, state: State) -> str:
        return markup.titled(self._x_hat(state, "Image of the VAE"), "Image of the VAE", "x̂")

    def _arrive(self, state: State, history: History, note: str = "") -> Values:
        """Return [history, preset, x_hat, note, what the page waits for, *controls]."""
        explorer = self.explorer
        waiting = "" if explorer.is_compiled(state) else f"compiling for {state.steps} steps, once ..."
        settings = replace(state, position=explorer.own.position, seed=explorer.own.seed)
        preset = next((name for name, other in explorer.presets.items() if other == settings), None)
        controls = self.controls(explorer.allowed.check(state))
        return [history, preset, self._pane(state), markup.note(note), markup.note(waiting), *controls]

    def finish(self, history: History, *controls: Any) -> Values:
        """Return [history, refined image, strip, query, what the page waits for]."""
        state = self.state(controls)
        history = history.add(state, self._refined(state))
        return [history, self.refine(*controls), markup.strip(history), self.explorer.to_query(state), ""]

    def sketch(self, *controls: Any) -> Values:
        """Return [x_hat, note]."""
        return [self._pane(self.state(controls)), ""]

    def refine(self, *controls: Any) -> str:
        """Return the refined image."""
        return markup.titled(self._refined(self.state(controls), "Refined image"), "Refined image", "x₀")

    def open(self, query: str) -> Values:
        """Return the first picture of the page, and the kept faces with their images.

        The picture is that of the address, or else a random one.
        """
        seeds = np.random.default_rng().integers(SEEDS, size=3).tolist()
        start, *others = (replace(self.explorer.own, position=self.explorer.draw_z(s, typical=True)) for s in seeds)
        note = ""
        try:
            start, note = self.explorer.from_query(query, start)
            shown = self._arrive(start, History(), note)
        except UserError as error:
            shown = self._arrive(start, History(), str(error))
        slots = (start, *others)
        return [*shown, slots, self._slots(slots)]

    def rest(self, history: History, *controls: Any) -> Values:
        """Arrive where the controls have come to rest."""
        return self._arrive(self.state(controls), history)

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
        state, image = history.strip[index]
        return self._arrive(state, history.add(state, image))

    def choose(self, preset: str, history: History, *controls: Any) -> Values:
        """Take the settings of a preset."""
        state, of = self.state(controls), self.explorer.presets[preset]
        return self._arrive(replace(of, position=state.position, seed=state.seed), history)

    def find(self, path: str | None, history: History, *controls: Any) -> Values:
        """Go to where a picture lies."""
        position, note = self.explorer.find(path)
        return self._arrive(replace(self.state(controls), position=position), history, note)

    def open_file(self, path: str, history: History) -> Values:
        """Go to the picture of a saved file."""
        state, note = self.explorer.from_file(path)
        return self._arrive(state, history, note)

    def save(self, *controls: Any) -> str:
        """Return the text of a file."""
        return self.explorer.to_file(self.explorer.allowed.check(self.state(controls)))

    def keep(self, slot: int, slots: Slots, *controls: Any) -> Values:
        """Keep the present face; return [the kept faces, their images]."""
        slots = (*slots[:slot], self.state(controls), *slots[slot + 1 :])
        return [slots, self._slots(slots)]

    def _slots(self, slots: Slots) -> str:
        return markup.labelled([self._x_hat(state) for state in slots], "ABC"[: len(slots)])

    def mix(self, share: float, path: str, slots: Slots, history: History, *controls: Any) -> Values:
        """Go to a place on the path from A to B."""
        position = self.explorer.between(*slots[:2], float(share), path)
        return self._arrive(replace(self.state(controls), position=position), history)

    def combine(self, slots: Slots, history: History, *controls: Any) -> Values:
        """Go to A - B + C."""
        return self._arrive(replace(self.state(controls), position=self.explorer.combine(*slots)), history)

    def interpolate(self, path: str, slots: Slots, *controls: Any) -> str:
        """Return images on the path from A to B with the present settings, x_hat above the refined images."""
        places = np.linspace(0, 1, WAY).tolist()
        positions = [self.explorer.between(*slots[:2], place, path) for place in places]
        states = [replace(self.state(controls), position=position) for position in positions]
        labels = [f"{place:.0%} of the way from A to B" for place in places]
        images = ([draw(s, n) for s, n in zip(states, labels, strict=True)] for draw in (self._x_hat, self._refined))
        return markup.rows(*images)

    def restore(self, path: str | None, task: str, factor: float, sigma: float) -> str:
        """Return the restored picture."""
        return markup.image(self.explorer.restore(path, task, factor, sigma), "Restored picture", self.size)
