"""Check a folder of golden arrays: `python -m tests.golden DIR`.

The arrays were computed by the method's published implementation on random weights and inputs. Every file of a known
kind (process.npz, unet_*.npz, vae.npz) is recomputed. One line for each file gives the largest error over its arrays,
relative to the largest golden value of the array. The exit status is 1 if an error exceeds the tolerance, if a file
cannot be read, or if there is no file.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from vaedm_jax.diffusion import prediction, process, reverse, samplers, schedule, spacing
from vaedm_jax.interop import names
from vaedm_jax.models.unet import UNet
from vaedm_jax.models.vae import VAE, kl_divergence

jax.config.update("jax_default_matmul_precision", "highest")

T = 1000
Checks = Iterator[tuple[str, jax.Array | np.ndarray]]  # (name of a golden array, what we compute for it)


def weights(d: dict[str, np.ndarray], table: list) -> dict:
    return {"params": names.from_torch({k[2:]: v for k, v in d.items() if k.startswith("w/")}, table)}


def unet(d: dict[str, np.ndarray]) -> Checks:
    c = json.loads(str(d["config"]))
    network = UNet(
        channels=c["model_channels"],
        multipliers=tuple(c["channel_mult"]),
        blocks=c["num_res_blocks"],
        attention=tuple(c["attention_resolutions"]),
        heads=c["num_heads"],
        scale_shift=c.get("use_scale_shift_norm", False),
    )
    yield "y", jax.jit(network.apply)(weights(d, names.UNET), d["x"], d["t"], d.get("low_res"), d.get("z"))


def vae(d: dict[str, np.ndarray]) -> Checks:
    c = json.loads(str(d["config"]))
    network, params = (
        VAE(c["enc_block"], c["dec_block"], c["enc_channel"], c["dec_channel"]),
        weights(d, names.VAE),
    )
    apply = jax.jit(network.apply, static_argnames="method")
    mu, logvar = apply(params, d["x"], method="encode")
    yield "mu", mu
    yield "logvar", logvar
    yield "decoded", apply(params, d["z"], method="decode")
    at_mu = apply(params, mu, method="decode")
    yield "recon_loss_sum_at_mu", np.sum((np.asarray(at_mu) - d["x"]) ** 2)
    yield "kl_sum", np.sum(kl_divergence(mu, logvar))


def golden_predictor(x: jax.Array, t: jax.Array, c: jax.Array) -> jax.Array:
    """Stand in for the network of process.npz."""
    return 0.7 * x - 0.3 * c + 0.1 * t[:, None, None, None] / T


def process_array(name: str, d: dict[str, np.ndarray]) -> jax.Array | np.ndarray:
    """Return what we compute for the array `name` of process.npz."""
    full = schedule.linear_schedule(T)
    if m := re.fullmatch(r"timesteps/(uniform|quad)/(\d+)", name):
        return spacing.STEPS[{"quad": "quadratic"}.get(m[1], m[1])](T, int(m[2]))

    formulation, *rest = name.split("/")
    form, x_hat = process.FORMULATIONS[formulation], d["xhat"]
    shift = x_hat if form.shifted else 0.0
    predict = prediction.predictor(prediction.Eps(), form, golden_predictor, x_hat)
    if rest == ["x_t"]:
        return process.q_sample(full, d["x0"], d["t"], d["eps"]) + shift
    if rest[1] == "post_logvar":
        return full.log_variance(rest[0])[int(rest[2])]
    if rest[1] == "post_mean":
        u_t, t = d["eps"] - shift, np.full(len(x_hat), int(rest[2]))
        x_0 = predict(u_t, process.noise_level(full, t, len(t))).x_0.clip(-1, 1)
        return process.posterior_mean(full, x_0, u_t, t) + shift

    folder, n = name.rpartition("/")[0], int(rest[-2])
    if rest[1] == "truncated":
        steps = spacing.timesteps(full, "truncated", "even", n, 0)
    else:
        steps = spacing.timesteps(full, "noise", {"quad": "quadratic"}.get(rest[-3], rest[-3]), n, 0)
    chain = schedule.respace(full, steps)
    table = samplers.ddim(chain, clip_eps=False) if rest[0] == "ddim" else samplers.ddpm(chain, rest[0])
    noise = d.get(f"{folder}/noise")
    run = jax.jit(lambda u: reverse.reverse(predict, table.trimmed(), u, lambda j: jax.numpy.asarray(noise)[j][None]))
    return run(d[f"{folder}/x_start"] - shift)


def process_file(d: dict[str, np.ndarray]) -> Checks:
    inputs = {"x0", "xhat", "eps", "t"}
    for name in d:
        if name not in inputs and not name.endswith(("/x_start", "/noise")):
            yield name, process_array(name, d)


KINDS: list[tuple[str, Callable[[dict], Checks], float]] = [
    ("process.npz", process_file, 1e-5),
    ("unet_*.npz", unet, 5e-5),
    ("vae.npz", vae, 5e-5),
]


def relative_error(got: jax.Array | np.ndarray, want: np.ndarray) -> float:
    """Return max |got - want| / max |want|; infinity for another shape or a NaN."""
    got = np.asarray(got, np.float64)
    if got.shape != want.shape:
        return float("inf")
    error = np.max(np.abs(got - want)) / max(np.max(np.abs(want)), 1e-30)
    return float(np.nan_to_num(error, nan=np.inf))


def check_folder(folder: Path) -> tuple[list[str], bool]:
    """Return a line for each file, and whether there are files and all are within tolerance."""
    lines, good = [], True
    for pattern, compute, tolerance in KINDS:
        for path in sorted(folder.glob(pattern)):
            try:
                with np.load(path, allow_pickle=False) as file:
                    d = {name: file[name] for name in file.files}
                errors = {name: relative_error(got, d[name]) for name, got in compute(d)}
                worst = max(errors, key=errors.get)
            except Exception as error:  # a bad file must not stop the check of the others
                lines.append(f"{path.name:24s} cannot be checked: {type(error).__name__}: {error}")
                good = False
                continue
            passed = errors[worst] <= tolerance
            good &= passed
            verdict = "ok" if passed else f"OVER the tolerance {tolerance:g}"
            lines.append(f"{path.name:24s} {errors[worst]:.2e} in {len(errors)} arrays, worst {worst}: {verdict}")
    if not lines:
        return [f"no golden arrays (process.npz, unet_*.npz, vae.npz) in {folder}"], False
    return lines, good


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m tests.golden DIR", file=sys.stderr)
        return 2
    lines, good = check_folder(Path(sys.argv[1]))
    print("\n".join(lines))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
