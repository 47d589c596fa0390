"""Worker processes. They do not receive Ctrl-C and SIGTERM, and they end with the parent process in any case."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, connection, get_context, parent_process, resource_tracker, util
from typing import Any

from vaedm_jax.errors import RunError


def start_shielded(start: Callable[[], Any]) -> Any:
    """Call `start` so that the processes that it starts do not receive SIGINT and SIGTERM; return its result.

    A terminal sends Ctrl-C to all processes of a command, and a scheduler often does so with SIGTERM. New threads and
    processes inherit the signal mask. Therefore `start` runs in a thread of its own that blocks the signals; this
    process still receives them.
    """
    result = Future()

    def run() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            result.set_result(start())
        except BaseException as error:
            result.set_exception(error)

    resource_tracker.ensure_running()  # it unblocks the signals in the thread that starts it
    util.Finalize(None, kill_daemons, exitpriority=0)
    threading.Thread(target=run, daemon=True).start()
    return result.result()


def kill_daemons() -> None:
    """Kill the daemon processes at exit: multiprocessing would send SIGTERM, which they block, and wait for them."""
    for process in active_children():
        if process.daemon:
            process.kill()


def begin() -> None:
    """Initialise a worker process, so that it ends with its parent, even if that is killed by SIGKILL."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # the accelerators belong to the parent; workers should not use JAX at all
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")

    def end_with_parent() -> None:
        connection.wait([parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


@contextmanager
def pool(
    processes: int, initializer: Callable[..., None] = begin, arguments: tuple = ()
) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes, which are killed when the block ends. Submit the first task in `start_shielded`.

    Args:
      initializer: runs first in each process, and must call `begin`.

    Raises:
      RunError: a process was killed.
    """
    before = set(active_children())
    executor = ProcessPoolExecutor(processes, get_context("spawn"), initializer, arguments)
    try:
        yield executor
    except BrokenProcessPool as error:
        raise RunError(
            "a process that reads or draws images was killed (out of memory?); run the same command again"
        ) from error
    finally:
        for process in set(active_children()) - before:
            process.kill()
        executor.shutdown(wait=False, cancel_futures=True)
