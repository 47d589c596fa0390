"""A hook of MkDocs: the site's pages that are not in docs/, and links from page to page."""

import re
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
API = """# Python

The public classes. What is not here may change without notice.

## The model

::: vaedm_jax.api.VAEDM

::: vaedm_jax.sampling.engine.Samples

::: vaedm_jax.sampling.generation.Bound

## Chains and schedules

::: vaedm_jax.diffusion.chain.Chain

::: vaedm_jax.diffusion.schedule.Schedule

## Configurations

::: vaedm_jax.config.build.base_config

::: vaedm_jax.config.build.small_config

::: vaedm_jax.config.own.own_config

## Errors

::: vaedm_jax.errors.UserError
"""
SETTINGS = """# Settings

Every setting with its default, as it stands in `vaedm_jax/config/settings.py`. On the command line, the setting `steps`
of `VAE` is `--config.vae.steps`.

```python
{text}```
"""


@event_priority(100)  # before the plugin that renders notebooks
def on_files(files: Files, config: Any) -> Files:
    """Add the README as the first page, the reference, the settings and the notebook."""
    settings = SETTINGS.format(text=(ROOT / "vaedm_jax" / "config" / "settings.py").read_text("utf-8"))
    readme = (ROOT / "README.md").read_text("utf-8")
    for name, content in (("index.md", readme), ("api.md", API), ("settings.md", settings)):
        files.append(File.generated(config, name, content=content))
    files.append(File("colab.ipynb", str(ROOT / "launch"), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Change the links between the files of the repository to links between pages."""
    replaced = re.sub(r"\]\((?:\.\./)?vaedm_jax/config/settings\.py\)", "](settings.md)", markdown)
    replaced = re.sub(r"\]\(\.\./README\.md", "](index.md", replaced)
    return re.sub(r"\]\(docs/", "](", replaced)
