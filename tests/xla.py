"""Settings of XLA for tests, whose programs take longer to compile than to run."""

from importlib.metadata import version


def quick_xla(devices: int = 1) -> dict[str, str]:
    """Return the environment of a process that has so many fake CPU devices and compiles quickly.

    Programs are not optimised. The emitters of fusions would optimise them nevertheless, which doubles the time. From
    jaxlib 0.11.1 on, they cannot be switched off, and XLA ends a process with a flag that it does not know.
    """
    flags = [f"force_host_platform_device_count={devices}", "backend_optimization_level=0"]
    if [int(number) for number in version("jaxlib").split(".")[:2]] < [0, 11]:
        flags.append("cpu_use_fusion_emitters=false")
    return {"XLA_FLAGS": " ".join(f"--xla_{flag}" for flag in flags)}
