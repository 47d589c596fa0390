"""The card of a model on the Hub: what it is, how it was trained, and how good it is."""

import csv
from typing import Any

from ml_collections import ConfigDict

from vaedm_jax.conditioning.conditions import has_vae, parse_condition
from vaedm_jax.errors import UserError, brief
from vaedm_jax.models import count
from vaedm_jax.storage.damage import read_bytes
from vaedm_jax.storage.paths import PathLike, shown

VARIANTS = {
    "form1": "A VAE draws an image, and a diffusion model that is shown it refines it (Formulation 1)",
    "form2": "A VAE draws an image, and a diffusion model whose chain starts about it refines it (Formulation 2)",
    "uncond": "A plain diffusion model",
}
SCORES = {"kid": "KID", "fd": "FD", "precision": "precision", "recall": "recall"}
ERRORS = ("kid_error_", "fd_bias_")
MOST = 2**20  # bytes of a table of scores
TEXT = """\
---
{front}
---

# {name}

{what}, for images of {size} x {size} pixels. Made by vaedm_jax, an implementation of
[DiffuseVAE](https://arxiv.org/abs/2201.00308).

{does}

```python
from vaedm_jax import VAEDM

model = VAEDM.from_pretrained("{repository}")
{code}
```

| | parameters | training |
| --- | ---: | --- |
{networks}

**Data.** {data}

{scores}"""
# What the model does, and the code that does it.
SAMPLES = (
    "![samples](samples.png)\n\nThe first 16 samples of seed 0: {chain}.",
    'model.sample(16, seed=0).save("samples.png")',
)
RESTORES = (
    "It is shown what `{condition}` leaves of an image, and draws images that this may have come from: {chain}.",
    "shown = model.condition(images)  # uint8, or floats in [0, 1]: [N, H, W, C]\n"
    'model.sample(len(shown), x_hat=shown).save("restored.png")',
)


def model_card(
    repository: str,
    config: ConfigDict,
    params: dict[str, Any],
    images: dict[str, Any] | None,
    chain: str,
    rows: list[dict[str, str]],
    licence: str,
) -> str:
    """Return the card as Markdown.

    Args:
      images: identifies the images that the model was trained on (`Dataset.identity`); None if that is not known.
      chain: the description of the chain that the samples were drawn by.
      rows: the rows of `read_scores`.
      licence: the Hub's name of it; "" for none.
    """
    what, task, does, code = VARIANTS[config.ddpm.variant], "unconditional-image-generation", *SAMPLES
    if parse_condition(config.ddpm.condition):
        what, task, does, code = "A diffusion model that restores images", "image-to-image", *RESTORES
    front = ["library_name: vaedm_jax", f"pipeline_tag: {task}", "tags: [jax, diffusion, vae]"]
    front += [f"license: {licence}"] if licence else []
    stages = [("VAE", config.vae, params["vae"])] if has_vae(config.ddpm) else []
    stages += [(f"U-Net, predicts `{config.ddpm.prediction}`", config.ddpm, params["ddpm"])]
    networks = [f"| {name} | {count(of):,} | {budget(settings)} |" for name, settings, of in stages]
    section = config.data
    data = "A folder of pictures" if section.path else f"`data.source={section.source}`"  # without the private path
    if images:
        data += ", {train[images]:,} to train on and {held_out[images]:,} held out".format(**images)
    return TEXT.format(
        front="\n".join(front), name=repository.partition("/")[2], what=what, size=section.image_size,
        does=does.format(chain=chain, condition=config.ddpm.condition), repository=repository, code=code,
        networks="\n".join(networks), scores=scores_table(rows), data=f"{data}.",
    )  # fmt: skip


def budget(settings: ConfigDict) -> str:
    """Return how long a stage is trained by its settings."""
    length = f"{settings.steps:,} steps" if settings.steps else f"{settings.epochs:g} epochs"
    return f"{length}, batches of {settings.batch_size}"


def read_scores(file: PathLike) -> list[dict[str, str]]:
    """Return the rows of an `evaluation.csv` of mode `evaluate`; raise UserError if it is none."""
    lines = read_bytes(file, "evaluation", MOST).decode(errors="replace").splitlines()
    try:
        rows = list(csv.DictReader(lines))
    except csv.Error:  # such as a cell of too many characters
        rows = []
    if not rows or not {"sampler", "start", "nfe", "n"} <= rows[0].keys():
        raise UserError(f"{shown(file)} is not an evaluation.csv of --mode=evaluate")
    for name, value in ((name, row[name]) for row in rows for name in score_columns(row)):
        try:
            float(value or 0)
        except ValueError as error:
            raise UserError(f"{shown(file)}: {name} = {brief(repr(value))} is not a number") from error
    return rows


def score_columns(row: dict[str, str]) -> list[str]:
    """Return the columns that hold scores, without their errors."""
    return [name for name in row if name and name.partition("_")[0] in SCORES and not name.startswith(ERRORS)]


def scores_table(rows: list[dict[str, str]]) -> str:
    """Return the scores as a Markdown table, with a column for each score and feature space; "" without rows.

    If the scores are those of several models, a column names the model.
    """
    if not rows:
        return ""
    columns, several = score_columns(rows[0]), len({row.get("run") for row in rows}) > 1
    titles = [f"{SCORES[kind]}, `{space}`" for kind, _, space in (name.partition("_") for name in columns)]
    lines = [
        f"|{' model |' * several} sampler | start | evaluations | samples | {' | '.join(titles)} |",
        f"|{' --- |' * several} --- | --- | ---: | ---: |{' ---: |' * len(titles)}",
    ]
    for row in rows:
        values = " | ".join(f"{float(row[name]):.3g}" if row[name] else "" for name in columns)
        model = f" {row['run']} |" if several else ""
        lines.append(f"|{model} `{row['sampler']}` | {row['start']} | {row['nfe']} | {row['n']} | {values} |")
    return "\n".join(["**Scores** against images of the data; lower KID and FD are better.", "", *lines, ""])
