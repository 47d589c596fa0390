"""Install with `pip install .`, or `pip install '.[cuda]'`, `'.[tpu]'`."""

from setuptools import find_packages, setup

setup(
    name="vaedm_jax",
    version="0.1.0",
    description="VAEs meet Diffusion Models in JAX: a VAE generates, a diffusion model refines",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["vaedm_jax", "vaedm_jax.*"]),
    package_data={"vaedm_jax": ["data/*.npz", "evaluation/*.safetensors", "weights/*.safetensors"]},
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.1",
        "clu>=0.0.12",
        "flax>=0.11.2",
        "grain>=0.2.15",
        "jax>=0.7.2",
        "matplotlib>=3.8",
        "ml-collections>=1.0",
        "numpy>=1.26",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.25",
        "pillow>=10.0",
        "safetensors>=0.4.3",
        "tensorboardX>=2.6",
        "tensorflow-datasets>=4.9.10",
        "tqdm>=4.66",
    ],
    extras_require={
        "beam": ["apache-beam>=2.77"],
        "explore": ["gradio>=5.0"],
        "test": ["hypothesis>=6.100", "pytest>=8.0", "pytest-xdist>=3.6", "ruff>=0.6", "scipy>=1.11"],
        "cuda": ["jax[cuda12]>=0.7.2"],
        "tpu": ["jax[tpu]>=0.7.2"],
    },
)
