"""Settings of every test: eight fake CPU devices, no silent broadcasting between ranks, and quick compilation."""

import gc
import os
import tempfile

import pytest

from tests.xla import quick_xla

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.update(quick_xla(8))
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# All processes of a test run share one cache of compiled programs, apart from that of real runs.
os.environ.setdefault("VAEDM_TEST_CACHE", tempfile.mkdtemp(prefix="vaedm_jax_tests_"))
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["VAEDM_TEST_CACHE"]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# Tracing creates many objects, few of which are garbage. By default, a tenth of the time would go to looking for them.
gc.set_threshold(100_000)

# The files that take longest come first, so that no process has one of them left at the end. All tests of a file run in
# one process (launch/test.sh), since their fixtures train.
FIRST = ("hosts", "sharding", "fuzz", "kill", "tuned", "evaluate", "training", "notebook", "prior", "api", "conditions")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests by their file."""
    place = {f"test_{name}": i for i, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


pytest.register_assert_rewrite("tests.loading", "tests.cli_fixtures")
