"""Processes that work for this one: they leave Ctrl-C and SIGTERM to it, and end with it, however it ends."""

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


def started_apart(start: Callable[[], Any]) -> Any:
    """What `start` returns. The processes that it starts never see the signals that ask this one to stop.

    A terminal sends Ctrl-C to all processes of a command, and a scheduler often SIGTERM. A mask is inherited by threads
    and processes from their very beginning, so it is set in a thread of its own; here the signals still arrive.
    """
    result = Future()

    def run() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            result.set_result(start())
        except BaseException as error:
            result.set_exception(error)

    resource_tracker.ensure_running()  # who starts this process of multiprocessing's has the mask lifted by it
    util.Finalize(None, kill_daemons, exitpriority=0)
    threading.Thread(target=run, daemon=True).start()
    return result.result()


def kill_daemons() -> None:
    """At exit multiprocessing sends them SIGTERM, which they do not see, and waits."""
    for process in active_children():
        if process.daemon:
            process.kill()


def begin() -> None:
    """What a process that was started apart does first: it sees to it that it ends with its parent, even by SIGKILL."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # the accelerators are the parent's, and nothing here should start JAX at all
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
    """Lend so many processes, whose first task is given by `started_apart`; they are killed where the block ends early.

    Args:
      initializer: runs in each of them first, and calls `begin`.
    """
    before = set(active_children())
    executor = ProcessPoolExecutor(processes, get_context("spawn"), initializer, arguments)
    try:
        yield executor
    except BrokenProcessPool as error:
        raise RunError("a process that reads images was killed (out of memory?); the same command continues") from error
    finally:
        for process in set(active_children()) - before:
            process.kill()
        executor.shutdown(wait=False, cancel_futures=True)
