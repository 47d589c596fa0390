"""A line on stderr while XLA compiles, which takes up to a minute and shows nothing itself."""

import sys
import threading
from functools import cache

import jax
from tqdm import tqdm

from vaedm_jax.storage.writing import is_writer

PATIENCE = 2.0  # seconds
# JAX reports how long each of these took when it ends. The compilation follows the lowering at once.
LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
COMPILED = "/jax/core/compile/backend_compile_duration"


@cache
def announce_compilation() -> None:
    """From now on, say so when the compilation of a program takes longer than PATIENCE."""
    timers: dict[int, threading.Timer] = {}

    def listen(event: str, duration: float, **_) -> None:
        if event in (LOWERED, COMPILED) and (timer := timers.pop(threading.get_ident(), None)):
            timer.cancel()
        if event == LOWERED and is_writer():
            timers[threading.get_ident()] = timer = threading.Timer(PATIENCE, say)
            timer.daemon = True
            timer.start()

    jax.monitoring.register_event_duration_secs_listener(listen)


def say() -> None:
    """Print the line, above a progress bar if there is one."""
    tqdm.write("compiling, once for this shape ...", file=sys.stderr)
