"""Cores become as many devices as the batches allow, unless the user says otherwise, and memory is checked and kept."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from vaedm_jax.errors import UserError
from vaedm_jax.runtime.mesh import batch_sharding, check_memory, in_batches, make_mesh, replicated

CODE = """
import os, sys
os.sched_getaffinity = lambda pid: range(int(sys.argv[1]))
from vaedm_jax.runtime.setup import share_cpu
share_cpu(*map(int, sys.argv[2:]))
import jax
print(jax.device_count())
"""


def devices(cores: int, *batches: int, **environment: str) -> int:
    command = [sys.executable, "-c", CODE, *map(str, (cores, *batches))]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | environment
    return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize(
    ("cores", "batches", "expected"),
    [(2, (32, 32), 2), (2, (32, 5), 1), (4, (32, 6), 2), (64, (32, 16), 8)],
)
def test_there_are_as_many_devices_as_cores_and_batches_allow(cores, batches, expected):
    assert devices(cores, *batches) == expected


def test_a_requested_number_of_devices_is_kept():
    assert devices(2, 32, XLA_FLAGS="--xla_force_host_platform_device_count=4") == 4
    assert devices(2, 32, JAX_NUM_CPU_DEVICES="3") == 3


def test_existing_devices_are_kept():
    begun = CODE.replace("share_cpu(*", "import jax; jax.devices(); share_cpu(*")
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [sys.executable, "-c", begun, "2", "32"]
    assert subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout == "1\n"


ALLOCATIONS = """
import resource, sys
import numpy as np
from vaedm_jax.runtime.setup import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
sums = []
for _ in range(6):
    sums.append(np.ones(10**7).sum())  # freed at once
    if len(sums) == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc's allocator that is told to keep memory")
def test_freed_memory_is_reused_and_not_requested_from_the_kernel_again():
    faults = [
        int(subprocess.run([sys.executable, "-c", ALLOCATIONS, how], check=True, capture_output=True, text=True).stdout)
        for how in ("keep", "leave")
    ]
    assert faults[0] < faults[1] / 10


def test_a_state_that_no_device_can_hold_is_refused_before_it_is_made():
    place = replicated(mesh := make_mesh())
    fits = jax.ShapeDtypeStruct((2**10,), np.float32, sharding=place)
    check_memory({"a": fits}, "it")
    large = jax.ShapeDtypeStruct((8, 2**40), np.float32, sharding=place)
    with pytest.raises(UserError, match=r"it needs 32768.0 GiB of a device, which has \d+\.\d, .*mesh.fsdp=True"):
        check_memory({"a": fits, "b": large}, "it")
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()
    # Exactly the memory of a device.
    cut = jax.ShapeDtypeStruct((8, has // 4), np.float32, sharding=batch_sharding(mesh))
    check_memory(cut, "it")


def test_settings_of_xla_hold_in_the_whole_process():
    """Every product has the requested precision, and XLA has accepted its flag: it refuses unknown flags."""
    code = (
        "from vaedm_jax.runtime.setup import set_xla; set_xla(True, 'float32')\n"
        "import os, jax; print(os.environ['XLA_FLAGS'], jax.device_count())\n"
        "print(jax.jit(lambda a: a @ a).lower(jax.numpy.ones((2, 2))).as_text())"
    )
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    out = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert out.stdout.startswith("--xla_force_host_platform_device_count=3 --xla_gpu_deterministic_ops=true 3\n")
    assert "precision = [HIGHEST, HIGHEST]" in out.stdout


@pytest.mark.parametrize("devices, sizes", [(1, {1, 2, 4, 8, 16, 32, 64}), (8, {8, 16, 32, 64})])
def test_all_numbers_of_images_need_few_sizes_of_batches(devices, sizes):
    mesh = make_mesh(1, jax.devices()[:devices])
    found = set()
    for n in range(1, 201):
        batches = list(in_batches(mesh, np.arange(n), 64))
        assert np.concatenate([batch[:count] for count, batch in batches]).tolist() == list(range(n))
        found |= {len(batch) for _, batch in batches}
    assert found == sizes
