"""Worker of launch/benchmark.py: the same programs with diffusers' U-Net, in PyTorch, eager or by torch.compile."""

from collections.abc import Callable
from typing import Any

import torch
from bench_protocol import BATCH_OF_SAMPLES, STEPS_OF_SAMPLES, serve
from diffusers import UNet2DModel

# The U-Nets of configs/cifar10.py:uncond and configs/emoji.py:uncond, which works on patches of 2 x 2 pixels.
NETWORKS = {
    "full": dict(
        sample_size=32, in_channels=3, out_channels=3, layers_per_block=2, block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    ),
    "small": dict(
        sample_size=16, in_channels=12, out_channels=12, layers_per_block=1, block_out_channels=(64, 128, 128),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    ),
}  # fmt: skip
SAME = dict(flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6, attention_head_dim=None)
DROPOUT = {"full": 0.3, "small": 0.0}


def prepare(spec: dict[str, Any]) -> tuple[Callable[[], None], int]:
    """Return a program, which waits until it is done, and the number of the network's parameters."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if spec["what"] in ("product", "convolution"):
        return peak(spec, device), 0
    facts = NETWORKS[spec["network"]]
    net = UNet2DModel(**facts, **SAME, dropout=DROPOUT[spec["network"]]).to(device, memory_format=torch.channels_last)
    count = sum(p.numel() for p in net.parameters())
    batch = BATCH_OF_SAMPLES if spec["what"] == "sample" else spec["batch"]
    x = torch.rand(batch, facts["in_channels"], facts["sample_size"], facts["sample_size"], device=device) * 2 - 1
    x = x.to(memory_format=torch.channels_last)
    t = torch.randint(0, 1000, (batch,), device=device)
    cast = torch.autocast(device, torch.bfloat16, enabled=spec["precision"] == "bfloat16")
    apply = torch.compile(net) if spec["backend"] == "torch.compile" else net
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def forward() -> None:
        with torch.no_grad(), cast:
            apply(x, t)
        wait()

    def sample() -> None:
        """A chain of DDIM, with the arithmetic of a step on the whole batch."""
        u, ladder = x, torch.linspace(0.01, 0.99, STEPS_OF_SAMPLES + 1, device=device)
        with torch.no_grad(), cast:
            for k in range(STEPS_OF_SAMPLES):
                eps = apply(u, torch.full((batch,), 999 - 100 * k, device=device)).sample.float()
                clean = ((u - (1 - ladder[k]).sqrt() * eps) / ladder[k].sqrt()).clamp(-1, 1)
                u = ladder[k + 1].sqrt() * clean + (1 - ladder[k + 1]).sqrt() * eps
        wait()

    if spec["what"] == "train":
        net.train()
        params, alpha_bar = list(net.parameters()), torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0).to(device)
        adam = torch.optim.Adam(params, lr=2e-4, fused=True)
        average = [p.detach().clone() for p in params]

        def step() -> None:
            noise, steps = torch.randn_like(x), torch.randint(0, 1000, (batch,), device=device)
            a = alpha_bar[steps].view(-1, 1, 1, 1)
            with cast:
                predicted = apply(a.sqrt() * x + (1 - a).sqrt() * noise, steps).sample
            loss = torch.nn.functional.mse_loss(predicted.float(), noise)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(params, 1.0, foreach=True)
            adam.step()
            adam.zero_grad(set_to_none=True)
            with torch.no_grad():
                torch._foreach_lerp_(average, params, 1e-4)

        def train() -> None:
            for _ in range(spec.get("steps", 1)):
                step()
            wait()

        return train, count
    net.eval()
    return (forward if spec["what"] == "forward" else sample), count


def peak(spec: dict[str, Any], device: str) -> Callable[[], None]:
    """Return one large matrix product, or one large convolution."""
    dtype = getattr(torch, spec["precision"])
    if spec["what"] == "product":
        a = torch.randn(spec["size"], spec["size"], device=device, dtype=dtype)
        run = lambda: a @ a  # noqa: E731
    else:
        x = torch.randn(16, 256, 32, 32, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        conv = torch.nn.Conv2d(256, 256, 3, padding=1, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        run = lambda: conv(x)  # noqa: E731

    def timed() -> None:
        with torch.no_grad():
            run()
        if device == "cuda":
            torch.cuda.synchronize()

    return timed


if __name__ == "__main__":
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    serve(prepare, lambda: {"torch": torch.__version__, "device": device})
