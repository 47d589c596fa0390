"""Settings of every test: eight fake CPU devices, no silent broadcasting between ranks, and quick compilation."""

import os
import tempfile

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# All processes of a test run share one cache of compiled programs, apart from that of real runs.
os.environ.setdefault("VAEDM_TEST_CACHE", tempfile.mkdtemp(prefix="vaedm_jax_tests_"))
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["VAEDM_TEST_CACHE"]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# The files that take longest come first, so that no process has one of them left at the end. All tests of a file run in
# one process (launch/test.sh), since their fixtures train.
FIRST = ("hosts", "tuned", "sharding", "training", "fuzz", "consistency", "prior", "conditions", "kill", "ladder")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests by their file."""
    place = {f"test_{name}": i for i, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


pytest.register_assert_rewrite("tests.loading", "tests.cli_fixtures")
