"""Makes the golden arrays beside it with PyTorch and diffusers. launch/benchmark.sh makes an environment with both.

.venv/bin/python -m tests.golden_diffusers.folder FOLDER
.venv-torch/bin/python tests/golden_diffusers/make.py FOLDER

With --check as the last argument it writes nothing, and compares with the arrays that are there.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
# Of UNet2DModel: as google/ddpm-cifar10-32, but smaller; and with its default conventions and two heads.
CONFIGS = {
    "ddpm": {
        "sample_size": 8, "block_out_channels": [32, 64], "layers_per_block": 2, "attention_head_dim": None,
        "down_block_types": ["AttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "AttnUpBlock2D"],
        "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6,
    },
    "default": {
        "sample_size": 8, "block_out_channels": [32, 64, 64], "layers_per_block": 1, "attention_head_dim": 32,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        "attn_norm_num_groups": 32, "resnet_time_scale_shift": "scale_shift",
    },
}  # fmt: skip
PREDICTIONS = {"ddpm": "epsilon", "default": "v_prediction"}
SCHEDULER = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
SCHEDULER |= {"set_alpha_to_one": True, "steps_offset": 0, "timestep_spacing": "leading", "clip_sample": True}
STEPS, B = 5, 2


def random(name: str, *shape: int) -> np.ndarray:
    """Return normal noise that depends only on its name and its shape, whatever the version of NumPy."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def random_weights(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Return weights whose outputs have a variance of about 1, by the names of PyTorch."""
    state = {}
    for name, shape in shapes.items():
        fan_in = np.prod(shape[1:]) if len(shape) > 1 else 100
        mean = float(name.endswith("weight") and len(shape) == 1)
        state[name] = np.float32(mean + random(name, *shape) / np.sqrt(fan_in))
    return state


def network(name: str) -> dict[str, np.ndarray]:
    """Return the golden arrays of a UNet2DModel: its outputs, and the images of a chain of DDIM."""
    import torch
    from diffusers import DDIMScheduler, UNet2DModel

    unet = UNet2DModel(**CONFIGS[name]).eval()
    shapes = {key: list(tensor.shape) for key, tensor in unet.state_dict().items()}
    unet.load_state_dict({key: torch.tensor(array) for key, array in random_weights(shapes).items()})
    scheduler = DDIMScheduler(**SCHEDULER, prediction_type=PREDICTIONS[name])
    scheduler.set_timesteps(STEPS)
    x, u = (torch.tensor(random(key, B, 3, 8, 8)) for key in ("x", "x_T"))
    with torch.no_grad():
        y = unet(x, torch.tensor([7, 803])).sample
        for t in scheduler.timesteps:
            u = scheduler.step(unet(u, t).sample, t, u, use_clipped_model_output=True).prev_sample
    return {"shapes": np.array(json.dumps(shapes)), "y": y.numpy(), "u": u.numpy()}


def pipeline(folder: Path) -> dict[str, np.ndarray]:
    """Return the golden arrays of the pipeline in a folder: its images."""
    import torch
    from diffusers import DiffusionPipeline

    loaded = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    loaded.set_progress_bar_config(disable=True)
    side = loaded.unet.config.sample_size * loaded.config.patch
    z = torch.tensor(random("z", B, loaded.vae.z_dim)) if loaded.vae else None
    x_T = torch.tensor(random("x_T", B, 3, side, side))
    return {"images": loaded(B, num_inference_steps=STEPS, z=z, x_T=x_T, output_type="np").images}


def main() -> None:
    """Write the files, or compare with them."""
    folder, *check = sys.argv[1:]
    pipelines = {path.name: pipeline(path) for path in Path(folder).iterdir()}
    for name, arrays in {**pipelines, **{name: network(name) for name in CONFIGS}}.items():
        if not check:
            np.savez_compressed(HERE / f"{name}.npz", **arrays)
            continue
        with np.load(HERE / f"{name}.npz") as golden:
            for key in set(arrays) - {"shapes"}:
                np.testing.assert_allclose(arrays[key], golden[key], rtol=0, atol=1e-4, err_msg=f"{name}: {key}")


if __name__ == "__main__":
    main()
