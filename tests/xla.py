"""Settings of XLA for tests, whose programs take longer to compile than to run."""


def quick_xla(devices: int = 1) -> dict[str, str]:
    """Return the environment of a process that has so many fake CPU devices and compiles quickly.

    Programs are not optimised. The emitters of fusions would optimise them nevertheless, which doubles the time.
    """
    flags = (
        f"force_host_platform_device_count={devices}",
        "backend_optimization_level=0",
        "cpu_use_fusion_emitters=false",
    )
    return {"XLA_FLAGS": " ".join(f"--xla_{flag}" for flag in flags)}
