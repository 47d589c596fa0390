"""Models on the Hugging Face Hub: a repository holds a file of weights and a model card."""

import hashlib
import re
from pathlib import Path
from typing import Any

from vaedm_jax.errors import UserError, brief
from vaedm_jax.storage.paths import PathLike

PREFIX = "hub:"
WEIGHTS, CARD = "model.safetensors", "README.md"
NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)


def is_on_hub(name: PathLike) -> bool:
    """Return whether a model's name is that of a repository of the Hub, such as `hub:user/model`."""
    return str(name).startswith(PREFIX)


def library() -> Any:
    """Return the module huggingface_hub; raise UserError if it is not installed."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError("the Hub needs a package: pip install huggingface-hub") from error
    return huggingface_hub


def fetch(name: str) -> Path:
    """Return the file of weights of a repository, from the library's cache, or downloaded to it.

    The library's variables apply, such as HF_HOME, HF_TOKEN and HF_HUB_OFFLINE=1, which takes what is in the cache.

    Args:
      name: `hub:user/model`, or `hub:user/model@REVISION` for a branch, a tag or a commit.

    Raises:
      UserError: there is no such file, it cannot be fetched, or it is not what the Hub says.
    """
    if not NAME.fullmatch(written := str(name).removeprefix(PREFIX)):
        raise UserError(f"{brief(name)}: give {PREFIX}USER/MODEL, or {PREFIX}USER/MODEL@REVISION")
    repository, _, revision = written.partition("@")
    hub = library()
    try:
        file = Path(hub.hf_hub_download(repository, WEIGHTS, revision=revision or None, library_name="vaedm_jax"))
    except Exception as error:  # of many types: of the library, of its HTTP client, of the system
        raise UserError(f"{PREFIX}{written}: {reason(error)}") from error
    check_digest(file)
    return file


# Errors of the library by name, the most special first.
REASONS = {
    "GatedRepoError": "its owner must allow you to read it; ask on its page, then log in (hf auth login)",
    "RepositoryNotFoundError": "there is no such repository, or it is private and you are not logged in (hf auth)",
    "RevisionNotFoundError": "the repository has no such revision",
    "LocalEntryNotFoundError": "it is not in the cache, and the Hub cannot be reached",
    "EntryNotFoundError": f"the repository has no {WEIGHTS}, so it is no model of vaedm_jax",
}


def reason(error: Exception) -> str:
    """Return what an error of the library means, or else its first sentence."""
    known = [text for name, text in REASONS.items() if name in (of.__name__ for of in type(error).__mro__)]
    if known:
        return known[0]
    return brief(re.split(r"(?<=\.)\s|\n", str(error).strip())[0] or type(error).__name__, 300)


def check_digest(file: Path) -> None:
    """Raise UserError unless a file of the cache has the digest that the Hub states, which is its name there.

    The name is the SHA-256 of a large file, or git's SHA-1 of a small one. Without links, the cache has no such name.
    """
    stored = file.resolve()
    kind = {64: "sha256", 40: "sha1"}.get(len(stored.name)) if re.fullmatch("[0-9a-f]+", stored.name) else None
    if kind is None:
        return
    digest = hashlib.new(kind, b"" if kind == "sha256" else f"blob {stored.stat().st_size}\0".encode())
    with stored.open("rb") as data:
        while block := data.read(2**20):
            digest.update(block)
    if digest.hexdigest() != stored.name:
        raise UserError(f"{stored} is not the file that the Hub has; remove it, and fetch it again")


def push(repository: str, files: dict[str, bytes], private: bool) -> str:
    """Write files to a repository as one commit, and return its address. The repository is created if necessary."""
    if not NAME.fullmatch(repository) or "@" in repository:
        raise UserError(f"{brief(repository)}: give USER/MODEL")
    hub = library()
    try:
        api = hub.HfApi(library_name="vaedm_jax")
        place = api.create_repo(repository, exist_ok=True, private=private)
        operations = [hub.CommitOperationAdd(name, data) for name, data in files.items()]
        api.create_commit(repository, operations, commit_message="Upload a model of vaedm_jax")
    except Exception as error:
        raise UserError(f"{repository}: {reason(error)}") from error
    return str(place)
