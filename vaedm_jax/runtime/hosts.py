"""Several processes, on one machine or many, that run one command together.

Each process drives its own devices, and process 0 writes the files. If there is only one process, nothing here waits.
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

PATIENCE = 300  # seconds that the other processes wait for process 0
HEARTBEAT = 20  # seconds without a sign of life after which a process counts as dead
EXAMPLE = "0/2@10.0.0.1:1234"
GONE = "another process has probably ended; start all processes again, and the same command continues the run"


class PeersMissing(RunError):
    """An error for other processes that cannot be reached. The same command may succeed later."""

    status = os.EX_TEMPFAIL


def join(spec: str) -> None:
    """Connect to the other processes. Call it before any other use of JAX.

    Args:
      spec: "K/N@HOST:PORT" for process K of N, counted from 0, where process 0 listens at HOST:PORT; or "auto", which
        lets JAX find this out (Slurm, Open MPI, Kubernetes, TPU pods).

    Raises:
      UserError: `spec` is not of this form, the port is taken, or JAX cannot connect the processes.
      PeersMissing: process 0 does not listen for PATIENCE seconds.
    """
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})@(.+:[0-9]{1,5})", spec)
    if spec != "auto" and not (found and int(found[1]) < int(found[2]) and 0 < int(spec.rpartition(":")[2]) < 2**16):
        raise UserError(f"--distributed={spec}: it must be 'auto', or K/N@HOST:PORT with K < N, such as {EXAMPLE}")
    who = {}
    if found:
        check_coordinator(int(found[1]), found[3])
        who = {"process_id": int(found[1]), "num_processes": int(found[2]), "coordinator_address": found[3]}
        who["cluster_detection_method"] = "deactivate"
    try:
        jax.distributed.initialize(**who, heartbeat_timeout_seconds=HEARTBEAT)
    except (ValueError, RuntimeError) as error:
        remedy = f"; give the process explicitly, such as --distributed={EXAMPLE}" if spec == "auto" else ""
        raise UserError(f"--distributed={spec}: the processes cannot connect ({error}){remedy}") from error
    # JAX has installed its own handler of SIGTERM, which would hide the signal from training/stop.py.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def check_coordinator(process: int, address: str) -> None:
    """Wait until process 0 listens; in process 0, check that the port is free.

    JAX ends the process without a message if either fails.

    Args:
      process: the number of this process.
      address: HOST:PORT, at which process 0 listens.

    Raises:
      UserError: in process 0, the port is taken.
      PeersMissing: in other processes, process 0 does not listen for PATIENCE seconds.
    """
    host, _, port = address.rpartition(":")
    if not process:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("", int(port)))
            except OSError as error:
                raise UserError(
                    f"port {port} of {host} is taken ({error.strerror}); give another port to all processes"
                ) from error
        return
    began, told = time.monotonic(), False
    while (waited := time.monotonic() - began) < PATIENCE:
        with suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=5):
            return
        if waited > 5 and not told:
            told = not print(f"vaedm: process {process} waits for process 0 at {address}", file=sys.stderr, flush=True)
        time.sleep(0.2)
    raise PeersMissing(f"process 0 does not listen at {address} for {PATIENCE} s; start it, and open its port")


def exit_process(status: int) -> None:
    """End this process with an exit status.

    After a failure (any status except 0) it ends at once. It does not wait for the other processes, which wait for it,
    nor for its own threads: threads that write a checkpoint could wait for a failed process for many minutes.
    """
    if status:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def disconnect() -> None:
    """Disconnect from the other processes, which must all call this too. Process 0 waits until they have."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def is_single() -> bool:
    """Return whether there is only one process."""
    return jax.process_count() == 1


def gather(value: Any) -> np.ndarray:
    """Return the values [...] of all processes, stacked: [processes, ...]."""
    return np.asarray(multihost_utils.process_allgather(np.asarray(value)))


def wait_for_all(what: str) -> None:
    """Wait until all processes have called this, so that all see the files that process 0 has written.

    Args:
      what: the name of this point in the program, the same in all processes.
    """
    if not is_single():
        multihost_utils.sync_global_devices(what)


def check_all_agree(digest: bytes, what: str) -> None:
    """Raise UserError in all processes unless all of them have the same digest.

    Args:
      digest: at least 4 bytes, of which the first 4 are compared.
      what: what the digests stand for, such as "other data", for the message.
    """
    numbers = gather(np.frombuffer(digest[:4], np.int32))
    others = [k for k, number in enumerate(numbers) if (number != numbers[0]).any()]
    if others:
        disconnect()
        raise UserError(f"process {others[0]} of {len(numbers)} sees {what} than process 0; all must have the same")


def to_host(tree: Any) -> Any:
    """Return a tree of JAX arrays as whole NumPy arrays, in every process."""

    def whole(a: Any) -> Any:
        here = not isinstance(a, jax.Array) or a.is_fully_addressable or a.is_fully_replicated
        return a if here else multihost_utils.process_allgather(a, tiled=True)

    return jax.device_get(jax.tree.map(whole, tree))
