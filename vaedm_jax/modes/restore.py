"""Mode `restore`: restore damaged pictures, which take the place of x_hat.

A refiner with a VAE was not trained for this. A refiner with a condition restores what the condition takes.
"""

from collections import Counter
from functools import cache
from itertools import chain as chained
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from vaedm_jax.api import VAEDM
from vaedm_jax.conditioning.tasks import Task, check_size, make_task
from vaedm_jax.config import make_chain
from vaedm_jax.config.checks import check
from vaedm_jax.data import Dataset, pictures, some
from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.spacing import RULE_OF
from vaedm_jax.errors import UserError, prefix_errors
from vaedm_jax.evaluation.fidelity import WINDOW, psnr, ssim
from vaedm_jax.evaluation.judge import judges
from vaedm_jax.modes.shared.models import load_training_images, open_model
from vaedm_jax.modes.shared.restoration import describe_ways, restore_images, ways
from vaedm_jax.reporting import Progress, counted, grid, renew_report, save_png, to_uint8
from vaedm_jax.runs.weights import model_name
from vaedm_jax.storage.paths import resolve_path, shown
from vaedm_jax.storage.writing import write_csv

SHOWN = 8  # images in a row of the picture


def restore(config: ConfigDict, workdir: Path) -> None:
    """Write the restored pictures of a folder to `restored/`, or scores and a picture of restored held-out images."""
    check(config, to_train=False)
    make_task(config.restore)
    model = open_model(config, workdir)
    model.engine.check_x_hat()
    task = make_task(config.restore, model.config.ddpm.condition)
    files = config.restore.files
    found = pictures(files, config.data.max_pixels)[: config.restore.n or None] if files else []
    data = cache(lambda: load_training_images(config, model))
    chain = task.begin(make_chain(config.sample), model.schedule, lambda: some(data().train, RULE_OF))
    model.engine.check_chain(chain)
    name = chain.name(model.schedule)
    print(f"{task.label}: {name}", flush=True)
    which = model_name(config.sample.weights) if config.sample.weights else "run"
    target = workdir / "restored" / f"{which}_{task.label}_{name}"
    if found:
        folder = target / resolve_path(files, "restore.files").resolve().name
        restore_files(found, config, model, task, chain, folder)
    else:
        restore_held_out(config, model, task, chain, data(), target)
    renew_report(workdir)


def restore_files(found: list, config: ConfigDict, model: VAEDM, task: Task, chain: Chain, folder: Path) -> None:
    """Restore each picture of a folder at its own size, or `factor` times that. All sizes are checked first."""
    networks = model.engine.networks
    for name, read in found:
        shape = read().shape
        with prefix_errors("restore.pixels: "):
            check_size(name, task, shape, config.restore.pixels, networks.multiple)
        H, W = (side * task.factor for side in shape[:2])
        if networks.z_conditioning and (H, W) != networks.shape[:2]:
            raise UserError(
                f"{shown(name)}: {W} x {H} pixels would be restored; this refiner takes z too (ddpm.z_conditioning), "
                f"so they must be {networks.size} x {networks.size}"
            )
    targets = output_names([name for name, _ in found])
    with Progress(len(found), 0, "restore", noun="picture", unit="pictures") as progress:
        for i, (name, read) in enumerate(found):
            damaged = read()[None].astype(np.float32) / 255
            image = restore_images(model, task, chain, damaged, config.sample.seed)[0]
            if np.array_equal(to_uint8(image), to_uint8(damaged[0])):
                print(
                    f"note: {shown(name)} is unchanged: it lacks nothing that {task.label} takes (docs/conditions.md)",
                    flush=True,
                )
            save_png(
                folder / targets[name],
                Image.fromarray(to_uint8(image)),
                f"{name}, restored: {task.label}, {chain.name(model.schedule)}",
                keep=True,
            )
            progress.update(i + 1)
    print(f"{counted(len(found), 'picture')}: {folder}", flush=True)


def output_names(names: list[str]) -> dict[str, str]:
    """Return a unique name, ending in `.png`, for each restored picture.

    The ending is replaced, unless several pictures would have the same name: then `.png` is appended.
    """
    short = {name: str(Path(name).with_suffix(".png")) for name in names}
    wanted, given = Counter(short.values()), {}
    taken = {str(parent) for name in names for parent in Path(name).parents}
    for name in sorted(names, key=lambda name: wanted[short[name]] > 1):
        first = [short[name]] if wanted[short[name]] == 1 else []
        numbered = (f"{name}_{i}.png" for i in range(1, len(names) + 1))
        given[name] = next(choice for choice in chained(first, [f"{name}.png"], numbered) if choice not in taken)
        taken.add(given[name])
    return given


def restore_held_out(config: ConfigDict, model: VAEDM, task: Task, chain: Chain, data: Dataset, target: Path) -> None:
    """Damage held-out images, restore them in several ways, and write how near each comes to the originals."""
    seed, batch_size = config.sample.seed, config.sample.batch_size
    truth = some(data.test, config.restore.n)
    if len(truth) < 2:
        raise UserError(
            f"{data.name}: scores need two held-out images, and there is {len(truth)} (data.held_out, restore.n); "
            "--config.restore.files=DIR restores pictures of a folder"
        )
    if min(truth.shape[1:3]) < WINDOW:
        raise UserError(f"images of {truth.shape[2]} x {truth.shape[1]} pixels: SSIM needs {WINDOW} or more a side")
    attempts = ways(model, task, chain, truth, seed, batch_size=batch_size)
    place = target.parents[1] / "evaluation" / "reference"
    judge = next(judges(config.eval, model.config.data, data, model.engine.mesh, batch_size, place))
    rows, shown = [], [("held out", truth[:SHOWN])]
    with Progress(len(attempts), 0, task.label, len(truth), noun="way") as progress:
        for i, (way, images) in enumerate(attempts.items()):
            made = images()
            shown.append((way, made[:SHOWN]))
            scores = judge.scores(judge.add(None, to_uint8(made)))
            rows.append(row(task.label, way, made, truth) | {k: scores[k] for k in ("kid", "kid_error", "fd")})
            progress.update(i + 1)
    write_csv(target.with_name(f"{target.name}.csv"), rows, keep=True)
    caption = f"{task.label}, {len(truth)} held-out images, {describe_ways(model, chain)}; PSNR: " + ", ".join(
        f"{r['way']} {r['psnr']:.2f} dB" for r in rows
    )
    picture = grid([a for _, a in shown], [name for name, _ in shown])
    save_png(target.with_name(f"{target.name}.png"), picture, caption, keep=True)
    for r in rows:
        error = "" if r["kid_error"] is None else f" ± {r['kid_error']:.2f}"
        print(
            f"{r['way']:12} PSNR {r['psnr']:.2f} ± {r['psnr_error']:.2f} dB, SSIM {r['ssim']:.3f}, "
            f"KID {r['kid']:.2f}{error}"
        )


def row(task: str, way: str, images: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Return the means of the scores over the images, with their standard errors."""
    facts = {"task": task, "way": way, "n": len(truth)}
    for name, score in (("psnr", psnr), ("ssim", ssim)):
        values = np.asarray(score(images, truth))
        facts |= {name: float(values.mean()), f"{name}_error": float(values.std(ddof=1) / np.sqrt(len(values)))}
    return facts
