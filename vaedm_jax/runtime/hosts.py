"""Several processes, on one machine or many, that work as one: each drives its own devices, and the first one writes.

A process alone is the first of one, and nothing here waits for anybody then.
"""

import os
import re
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vaedm_jax.errors import RunError, UserError

PATIENCE = 300  # seconds that the others wait for the first
HEARTBEAT = 20  # seconds after which a process that says nothing is taken for dead
EXAMPLE = "0/2@10.0.0.1:1234"
GONE = "another process has probably ended; start all of them again, and the same command continues"


class Alone(RunError):
    """The other processes are not there; the same command may find them later."""

    status = os.EX_TEMPFAIL


def join(spec: str) -> None:
    """Meet the other processes; call it before anything else of JAX.

    Args:
      spec: "K/N@HOST:PORT", the K-th of N (from 0), which meet where the first listens; or "auto", where JAX finds this
        out (Slurm, Open MPI, Kubernetes, TPU pods).
    """
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})@(.+:[0-9]{1,5})", spec)
    if spec != "auto" and not (found and int(found[1]) < int(found[2]) and int(spec.rpartition(":")[2]) < 2**16):
        raise UserError(f"--distributed={spec}: it must be 'auto', or K/N@HOST:PORT with K < N, such as {EXAMPLE}")
    who = {}
    if found:
        find_the_first(int(found[1]), found[3])
        who = {"process_id": int(found[1]), "num_processes": int(found[2]), "coordinator_address": found[3]}
        who["cluster_detection_method"] = "deactivate"
    try:
        jax.distributed.initialize(**who, heartbeat_timeout_seconds=HEARTBEAT)
    except (ValueError, RuntimeError) as error:
        remedy = f"; name the process, such as --distributed={EXAMPLE}" if spec == "auto" else ""
        raise UserError(f"--distributed={spec}: the processes do not meet ({error}){remedy}") from error
    # JAX has set a handler of its own, which would keep SIGTERM to itself; see training/stop.py.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def find_the_first(process: int, address: str) -> None:
    """Wait until process 0 listens, or make sure that process 0 can: JAX ends without a word where either fails."""
    host, _, port = address.rpartition(":")
    if not process:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("", int(port)))
            except OSError as error:
                raise UserError(
                    f"port {port} of {host} is taken ({error.strerror}); let them meet at another"
                ) from error
        return
    began, told = time.monotonic(), False
    while (waited := time.monotonic() - began) < PATIENCE:
        with suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=5):
            return
        if waited > 5 and not told:
            told = not print(f"vaedm: process {process} waits for process 0 at {address}", file=sys.stderr, flush=True)
        time.sleep(0.2)
    raise Alone(f"process 0 does not listen at {address} for {PATIENCE} s; start it, and open the port to the others")


def leave(status: int) -> None:
    """End the process. After a failure it waits neither for the others, who wait for it, nor for threads of its own.

    Those that write a checkpoint may wait for each other for many minutes when one of them has failed.
    """
    if status:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def part() -> None:
    """Leave the others, who all come here as well: the first, whom they listen to, goes when they have left."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def alone() -> bool:
    return jax.process_count() == 1


def gather(value: Any) -> np.ndarray:
    """A value [...] of every process, [processes, ...]."""
    return np.asarray(multihost_utils.process_allgather(np.asarray(value)))


def meet(what: str) -> None:
    """Wait until all have come here, so that the files that the first has written are there for the others."""
    if not alone():
        multihost_utils.sync_global_devices(what)


def agree(digest: bytes, what: str) -> None:
    """UserError in all processes unless all have the same digest, of 4 bytes or more."""
    numbers = gather(np.frombuffer(digest[:4], np.int32))
    others = [k for k, number in enumerate(numbers) if (number != numbers[0]).any()]
    if others:
        part()
        raise UserError(f"process {others[0]} of {len(numbers)} sees {what} than process 0; give all of them the same")


def fetch(tree: Any) -> Any:
    """Arrays of JAX as those of NumPy, whole in every process."""

    def whole(a: Any) -> Any:
        here = not isinstance(a, jax.Array) or a.is_fully_addressable or a.is_fully_replicated
        return a if here else multihost_utils.process_allgather(a, tiled=True)

    return jax.device_get(jax.tree.map(whole, tree))
