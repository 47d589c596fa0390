"""The pictures that were shown on a page, and undo."""

from dataclasses import dataclass, replace

from vaedm_jax.modes.explorer.state import State

MOST_SHOWN, MOST_UNDONE = 24, 200


@dataclass(frozen=True)
class History:
    """The pictures of a page.

    Attributes:
      strip: the states of the last pictures, each with its image, in the order in which they were first shown.
      trail: the states in the order in which they were visited; the last is the present one.
    """

    strip: tuple[tuple[State, str], ...] = ()
    trail: tuple[State, ...] = ()

    @property
    def now(self) -> State | None:
        """The present state; None before the first."""
        return self.trail[-1] if self.trail else None

    def add(self, state: State, image: str) -> "History":
        """Return the history after a visit to a state.

        Args:
          image: the image of the state, as the strip shows it.
        """
        if state == self.now:
            return self
        known = any(state == old for old, _ in self.strip)
        strip = self.strip if known else (*self.strip, (state, image))[-MOST_SHOWN:]
        return History(strip, (*self.trail, state)[-MOST_UNDONE:])

    def undo(self) -> "History":
        """Return the history before the last visit. The first visit is never undone; the strip keeps its pictures."""
        return replace(self, trail=self.trail[:-1] or self.trail)
