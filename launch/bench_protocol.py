"""What the workers of launch/benchmark.py share: they prepare a program, and run it when they are asked to."""

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

BATCH_OF_SAMPLES, STEPS_OF_SAMPLES = 64, 10


def serve(prepare: Callable, about: Callable[[], dict[str, Any]]) -> None:
    """Prepare a program, run it once, and run it again as often as each further line asks for.

    The lines, on stdin, are JSON; the first describes the program. Each answer is a line of JSON on stdout that begins
    with "@", which tells it from outputs of libraries.

    Args:
      prepare: returns the program of a specification, and the number of parameters of its network.
      about: returns versions and the device, for the first answer. It is called after `prepare`.
    """
    run, count = prepare(json.loads(sys.stdin.readline()))
    run()
    answer(about() | {"parameters": count})
    for line in sys.stdin:
        times = []
        for _ in range(json.loads(line)):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        answer({"seconds": times, "memory_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024})


def answer(facts: dict[str, Any]) -> None:
    """Print a line for the driver."""
    print("@" + json.dumps(facts), flush=True)
