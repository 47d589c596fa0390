"""The pictures that were shown on a page, and undo."""

from dataclasses import dataclass, replace

from vaedm_jax.modes.explorer.state import State

MOST_SHOWN, MOST_UNDONE = 24, 200


@dataclass(frozen=True)
class History:
    """The pictures of a page.

    Attributes:
      strip: the last states, in the order in which they were first visited.
      trail: all visits in their order; the last is the present state.
    """

    strip: tuple[State, ...] = ()
    trail: tuple[State, ...] = ()

    @property
    def now(self) -> State | None:
        """The present state; None before the first visit."""
        return self.trail[-1] if self.trail else None

    def visit(self, state: State) -> "History":
        """Return the history after a visit to a state."""
        if state == self.now:
            return self
        strip = self.strip if state in self.strip else (*self.strip, state)[-MOST_SHOWN:]
        return History(strip, (*self.trail, state)[-MOST_UNDONE:])

    def undo(self) -> "History":
        """Return the history before the last visit. The first visit is never undone; the strip stays."""
        return replace(self, trail=self.trail[:-1] or self.trail)
