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

pytest.register_assert_rewrite("tests.loading", "tests.cli_fixtures")
