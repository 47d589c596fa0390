"""The cases of the fuzzer: each kind builds a command on a folder of sound input, some of which it damages.

A kind is a function (rng, folder) -> arguments. `folder` is its own copy of what `tests.fuzz.sound` writes.
"""

import io
import json
import os
import pickle
import pickletools
import re
import shutil
import string
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from vaedm_jax.config import base_config, flatten

Kind = Callable[[Random, Path], list[str]]
SETTINGS = flatten(base_config())
# Settings that would serve a page, use the network, or wait for other machines.
LEFT_ALONE = ("explore.port", "explore.host", "data.source", "data.tfds_dir", "data.archive", "prepare.beam")
USES = (  # quick commands on a run or on weights
    "--mode=sample",
    "--mode=sample --config.sample.files=png --config.sample.nearest=True",
    "--mode=sample --config.sample.best=True",
    "--mode=evaluate --config.eval.features=random --config.eval.n=4 --config.eval.steps=2",
    "--mode=figures --config.figures.columns=2 --config.figures.steps=2 --config.figures.z=3 --config.figures.x_T=3",
    "--mode=restore --config.restore.task=denoise --config.restore.files={folder}/images",
    "--mode=restore --config.restore.n=4",
    "--mode=prior --config.prior.kinds=diag --config.prior.components=1",
)
ODD_TEXTS = (
    "", " ", "\n", "\t", ",", ",,,", "..", "~", "~nobody", "-", "--", "=", "'", '"', "%s%n", "{}", "{0.__class__}",
    "null", "None", "True", "nan", "-inf", "1e400", "-0.0", "0x10", "1_000", "٣", "²", "½", "\u202e", "\ufeff", "é",
    "e\u0301", "🦄", "\udcff", "\x1b[31m", "a" * 300, "a/" * 3000, "x" * 20_000, "9" * 5000, "emoji", "emoji,emoji",
    "nosuch:f", "os:getcwd", "warm999999999999", "downsample0", "mask9", "blur-1", "1x200000000", "16x999999999",
    "16d4,16t4,4d4",
)  # fmt: skip
ODD_NUMBERS = (-(2**63), -1, 0, 1, 2, 3, 7, 31, 33, 1000, 2**15, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, 10**30, 10**400)
ODD_FLOATS = (-1.0, -0.0, 0.0, 1e-300, 1e-30, 0.5, 1.0, 1.5, 1e9, 3e38, 1e39, 1e308, float("inf"), float("nan"))


def text(rng: Random) -> str:
    """Return odd text or random characters, which an argument can always hold."""
    if rng.random() < 0.7:
        return rng.choice(ODD_TEXTS)
    return "".join(rng.choice(string.printable + "é×漢🦄\u2028") for _ in range(rng.choice((1, 5, 40))))


def written(rng: Random, old: Any) -> str:
    """Return a value for a setting as command-line text. It usually has the type of the old value."""
    if rng.random() < 0.25:
        return text(rng)
    if isinstance(old, bool):
        return rng.choice(("True", "false", "1", "2", "yes", ""))
    if isinstance(old, int):
        return str(rng.choice(ODD_NUMBERS)) if rng.random() < 0.5 else str(rng.randrange(0, 64))
    if isinstance(old, float):
        return str(rng.choice((*ODD_FLOATS, *ODD_NUMBERS)))
    if isinstance(old, tuple):
        numbers = [str(rng.choice((*ODD_NUMBERS, 0.5, "'a'", "None"))) for _ in range(rng.choice((0, 1, 2, 5)))]
        return rng.choice(("({})", "{}", "[{}]", "(({},),)", "{{{}}}")).format(",".join(numbers))
    return text(rng)


def damaged(rng: Random, data: bytes) -> bytes:
    """Return the bytes of a file as a disk, a network or a person may spoil them."""
    at, to = sorted(rng.randrange(len(data) + 1) for _ in range(2)) if data else (0, 0)
    match rng.randrange(9):
        case 0:
            return data[:at]
        case 1 | 2:
            spoilt = bytearray(data)
            for _ in range(rng.choice((1, 1, 8, 200)) if data else 0):
                spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
            return bytes(spoilt)
        case 3:
            return data[:at] + data[to:]
        case 4:
            return data[:at] + rng.randbytes(rng.choice((1, 8, 1000))) + data[at:]
        case 5:
            return data[:at] + bytes(to - at) + data[to:]
        case 6:
            return rng.choice((b"", b"\0", b"\n", rng.randbytes(100), b"\xff" * 100))
        case 7:
            return json.dumps(form(rng)).encode()
    return rng.choice((b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000))


def form(rng: Random, depth: int = 0) -> Any:
    """Return random JSON."""
    if depth < 3 and rng.random() < 0.4:
        keys = ("step", "identity", "row", "train", "held_out", "ddpm", "data", "shapes", "checksums", "figures", "n")
        return {rng.choice(keys): form(rng, depth + 1) for _ in range(3)}
    if depth < 3 and rng.random() < 0.3:
        return [form(rng, depth + 1) for _ in range(3)]
    return rng.choice((None, True, 0, -1, 1e308, 10**30, "", "a", "\ud800", [], {}, float("nan")))


def changed(rng: Random, tree: Any) -> Any:
    """Return JSON with one change at some depth: something is replaced, missing, added or repeated."""
    if isinstance(tree, dict) and tree and rng.random() < 0.9:
        key = rng.choice(sorted(tree))
        match rng.randrange(8):
            case 0:
                return {k: v for k, v in tree.items() if k != key}
            case 1:
                return tree | {text(rng): form(rng)}
            case _:
                return tree | {key: changed(rng, tree[key])}
    if isinstance(tree, list) and tree and rng.random() < 0.9:
        at = rng.randrange(len(tree))
        return rng.choice((tree[:at], tree + tree, [*tree[:at], changed(rng, tree[at]), *tree[at + 1 :]]))
    return rng.choice((rng.choice(ODD_NUMBERS), rng.choice(ODD_FLOATS), text(rng), form(rng)))


def settings(rng: Random, folder: Path) -> list[str]:
    """Return a command with odd settings."""
    uses = ["--mode=train", "--mode=train --stage=vae", "--mode=prepare --config.data.path={folder}/images", *USES]
    config = rng.choice(([f"--config={folder}/tiny.py"], [f"--config={folder}/tiny.py:uncond"], []))
    model = rng.choice(([], ["--config.sample.weights={folder}/weights.safetensors"]))
    arguments = [*config, *rng.choice(uses).split(), *model]
    if not (config or "train" in arguments[0]) or model:
        arguments.append(f"--workdir={folder}/{rng.choice(('run', 'new'))}")
    else:
        arguments.append(f"--workdir={folder}/{rng.choice(('run', 'new', 'new/deep', 'images', 'tiny.py'))}")
    for name in rng.sample([n for n in SETTINGS if n not in LEFT_ALONE], rng.choice((1, 1, 1, 2, 3))):
        value = written(rng, SETTINGS[name])
        arguments += [f"--config.{name}={value}"] if rng.random() < 0.9 else [f"--config.{name}", value]
    if rng.random() < 0.1:
        name = rng.choice(("stage", "targets", "from", "out", "mode", "workdir", "distributed", text(rng)))
        value = rng.choice(("a", "1/1@h:1", "9" * 99)) if name == "distributed" else text(rng)
        arguments.append(f"--{name}={value}")
    return arguments


def configuration(rng: Random, folder: Path) -> list[str]:
    """Return a command whose configuration file sets an odd value or is damaged."""
    source = (folder / "tiny.py").read_text()
    if rng.random() < 0.3:
        # Only cut the program: with other bits flipped, it could be one that does harm.
        source = source[: rng.randrange(len(source))] + rng.choice(("", "\0", "\n)", "\udcff", "raise SystemExit(3)"))
    else:
        name, value = (
            rng.choice([n for n in SETTINGS if n not in LEFT_ALONE]),
            rng.choice(
                (*ODD_NUMBERS[:-1], *ODD_FLOATS, *ODD_TEXTS, None, [1], (1, "a"), {}, True, b"a", ("a" * 9,) * 5)
            ),
        )
        value = "float('nan')" if value != value else "float('inf')" if value == float("inf") else repr(value)
        source = source.replace("return tiny_config(variant)", f"c = tiny_config(variant)\n    c.{name} = {value}")
        source += "    return c\n"
    (folder / "odd.py").write_bytes(source.encode("utf-8", "surrogateescape"))
    mode = rng.choice(("--mode=train", "--mode=train --stage=ddpm", "--mode=prepare", USES[0], USES[3], USES[6]))
    workdir = rng.choice(("new", "run"))
    return [
        f"--config={folder}/odd.py{rng.choice(('', '', ':uncond', ':form9'))}",
        f"--workdir={folder}/{workdir}",
        *mode.split(),
    ]


def images(rng: Random, folder: Path) -> list[str]:
    """Return a command on a folder of images, among which are odd files."""
    for _ in range(rng.choice((1, 1, 3))):
        image(rng, folder / "images")
    own = f"--config={folder}/tiny.py --config.data.category= --config.data.path={folder}/images --workdir={folder}/new"
    restoring = f"--workdir={folder}/run --mode=restore --config.restore.task=denoise --config.restore.files="
    uses = f"{own} --mode=train", f"{own} --mode=prepare", f"{restoring}{folder}/images"
    return rng.choice(uses).split()


def image(rng: Random, folder: Path) -> None:
    """Put an odd file into a folder, unless there is a file of that name."""
    ending = rng.choice((".png", ".jpg", ".gif", ".bmp", ".tiff", ".webp", ".PNG", ".jpeg"))
    name = rng.choice(
        (f"odd{ending}", f"new\nline{ending}", f"\udcff{ending}", f"{'é' * 90}{ending}", f"a b{ending}", f".h{ending}")
    )
    path = folder / name
    if os.path.lexists(path):
        return
    match rng.randrange(8):
        case 0:
            os.mkfifo(path)
        case 1:
            path.symlink_to(rng.choice((name, "nowhere", "..", str(folder), "0.png")))
        case 2:
            path.mkdir()
        case _:
            size = rng.choice(((1, 1), (1, 500), (16, 16), (40, 30), (3000, 2)))
            mode = rng.choice(("RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "I", "F", "YCbCr"))
            made = Image.new(
                mode, size, None if mode in ("1", "P") else rng.choice((0, 1)) if mode in ("I", "F") else 0
            )
            data = io.BytesIO()
            try:
                made.save(data, rng.choice(("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP")))
            except (OSError, KeyError, ValueError):  # the format does not have the mode
                Image.new("RGB", size).save(data, "PNG")
            spoilt = data.getvalue()
            if rng.random() < 0.2 and spoilt.startswith(b"\x89PNG"):  # the header claims a huge size
                spoilt = spoilt[:16] + rng.choice((b"\x00\x01\x00\x00", b"\x7f\xff\xff\xff")) * 2 + spoilt[24:]
            path.write_bytes(damaged(rng, spoilt) if rng.random() < 0.7 else spoilt)


def run(rng: Random, folder: Path) -> list[str]:
    """Return a command on a run directory in which files are damaged, missing or replaced."""
    for path in rng.sample(sorted((folder / "run").rglob("*"), key=place), rng.choice((1, 1, 2))):
        if os.path.lexists(path):  # its folder may be gone already
            spoil(rng, path)
    use = rng.choice(
        (*USES, *USES[:3], "--mode=train", "--mode=train --stage=ddpm", "--config={folder}/tiny.py", "export")
    )
    if use == "export":
        return ["--mode=export", f"--from={folder}/run", f"--out={folder}/out.pt"]
    return [*use.split(), f"--workdir={folder}/run"]


def place(path: Path) -> tuple[str, int]:
    """Return the sort key of a file, without the times and digests in names, which differ from run to run."""
    return re.sub(r"[0-9a-f]{8,}|[0-9]{6,}.*", "#", str(path)), path.stat().st_size if path.is_file() else 0


def spoil(rng: Random, path: Path) -> None:
    """Damage or remove what is at a path, or put something else there."""
    if path.suffix == ".json" and rng.random() < 0.5:
        path.write_text(json.dumps(changed(rng, json.loads(path.read_text()))))
    elif path.suffix == ".npz" and rng.random() < 0.5:
        path.write_bytes(arrays(rng, path.read_bytes()))
    elif path.is_file() and rng.random() < 0.8:
        path.write_bytes(damaged(rng, path.read_bytes()))
    else:
        was_file = path.is_file()
        path.unlink() if was_file else shutil.rmtree(path)
        match rng.randrange(6):
            case 0:
                path.mkdir() if was_file else path.write_bytes(b"a file")
            case 1:
                os.mkfifo(path)
            case 2:
                path.symlink_to(rng.choice((path.name, "nowhere", "..")))
            case _:
                pass


def arrays(rng: Random, data: bytes) -> bytes:
    """Return a file of arrays in which one is missing, is a pickle, or has another name, shape, type or values."""
    with np.load(io.BytesIO(data)) as file:
        found = dict(file)
    name = rng.choice(sorted(found))
    a = found.pop(name)
    match rng.randrange(8):
        case 0:
            pass
        case 1:
            found[name] = a.reshape(-1)[: a.size // 2]
        case 2:
            found[name] = a[None]
        case 3:
            found[name] = np.full(a.shape, rng.choice(ODD_FLOATS))
        case 4:
            found[name] = (
                a.astype(rng.choice(("S8", "U4", "?", "c16", "f8", "i1", "M8[s]")), casting="unsafe")
                if a.dtype.kind in "fiu"
                else a
            )
        case 5:
            found[name] = np.array({"a": 1}, dtype=object)
        case 6:
            found[name] = np.array(text(rng).replace("\udcff", "?"))
        case _:
            found[text(rng).replace("\udcff", "?").replace("\0", "") or "x"] = a
    out = io.BytesIO()
    np.savez(out, allow_pickle=True, **{k: v for k, v in found.items() if k not in ("file", "allow_pickle")})
    return out.getvalue()


def weights(rng: Random, folder: Path) -> list[str]:
    """Return a command on a file of weights whose header, configuration, shapes or numbers are damaged."""
    path = folder / "weights.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    names = sorted(n for n in header if n != "__metadata__")
    match rng.randrange(7):
        case 0:
            path.write_bytes(damaged(rng, data))
        case 1:
            path.write_bytes(damaged(rng, data[: 8 + length]) + body)
        case 2 | 3:
            stored = changed(rng, json.loads(header["__metadata__"]["config"]))
            header["__metadata__"]["config"] = json.dumps(stored)
        case 4:
            header["__metadata__"] = rng.choice(
                ({}, {"config": text(rng)}, {"config": "[" * 100_000}, {"format": "pt"})
            )
        case 5:
            name = rng.choice(names)
            entry = header.pop(name)
            entry |= rng.choice(
                ({"shape": [1]}, {"shape": entry["shape"][::-1]}, {"dtype": "I32"}, {"data_offsets": [0, 2**40]})
            )
            header[rng.choice((name, name + "/x", "x", "", "vae", "ddpm/" + name, "prior/logits"))] = entry
        case _:
            spoilt = np.frombuffer(body, np.float32).copy()
            spoilt[rng.randrange(len(spoilt))] = rng.choice((np.nan, np.inf, -np.inf))
            body = spoilt.tobytes()
    if path.read_bytes() == data:
        said = json.dumps(header).encode("utf-8", "surrogatepass")
        path.write_bytes(len(said).to_bytes(8, "little") + said + body)
    use = rng.choice((*USES, f"--mode=train --config={folder}/tiny.py --config.vae.checkpoint={path}", "export"))
    if use == "export":
        return ["--mode=export", f"--from={path}", f"--out={folder}/out.pt"]
    if "train" in use:
        return [*use.split(), f"--workdir={folder}/new"]
    return [*use.split(), f"--workdir={folder}/new", f"--config.sample.weights={path}"]


def prior(rng: Random, folder: Path) -> list[str]:
    """Return a command on a damaged prior."""
    path = folder / "prior.npz"
    path.write_bytes(rng.choice((arrays, damaged))(rng, path.read_bytes()))
    use = rng.choice((USES[0], USES[3], USES[4]))
    return [*use.split(), f"--workdir={folder}/run", f"--config.sample.prior={path}"]


def published(rng: Random, folder: Path) -> list[str]:
    """Return a command that imports a published checkpoint with a changed pickle."""
    path = folder / "published.ckpt"
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries["archive/data.pkl"] = opcodes(rng, entries["archive/data.pkl"], folder)
    if rng.random() < 0.1:
        name = rng.choice(sorted(entries))
        entries[name] = damaged(rng, entries[name])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if rng.random() < 0.95 else zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    if rng.random() < 0.15:
        path.write_bytes(damaged(rng, path.read_bytes()))
    return [
        "--mode=import",
        f"--from={path}",
        f"--out={folder}/out.safetensors",
        *rng.choice(([], [f"--config={folder}/tiny.py"])),
    ]


def opcodes(rng: Random, pickled: bytes, folder: Path) -> bytes:
    """Return a pickle with opcodes removed, repeated, exchanged, replaced or inserted."""
    places = [place for _, _, place in pickletools.genops(pickled)] + [len(pickled)]
    ops = [pickled[a:b] for a, b in pairwise(places)]
    payload = f"cos\nsystem\n(X{len(command := f'touch {folder}/ran'):c}\0\0\0{command}tR".encode("latin-1")
    others = (
        payload, b"0", b"(", b")", b"}", b"]", b"N", b"R", b"b", b"u", b"s", b"e", b"t", b"\x85", b"\x86", b"\x8f",
        b"\x90", b"\x81", b"Q", b"o", b"r\xff\xff\xff\x0f", b"r\xff\xff\xff\xff", b"j\xff\xff\xff\x7f", b"h\x00",
        b"J" + b"\xff" * 4, b"\x8a\xff" + bytes(255), b"\x8b\xff\xff\xff\x7f", b"X\xff\xff\xff\x7f", b"I1\n",
        b"\x8e" + b"\xff" * 8, b"L9999L\n", b"F1e400\n", b"\x85" * 50_000, b"(" * 50_000, b"]" * 50_000,
        b")" + b"\x85" * 50_000 + b"Ns",
        b"2" * 1000, b".", b"c__builtin__\neval\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"ctorch\nSize\n",
        b"\x80\x05", b"\x95" + b"\xff" * 8, pickle.dumps(rng.choice((*ODD_NUMBERS, *ODD_FLOATS, "a")), 2)[2:-1],
    )  # fmt: skip
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(ops))
        match rng.randrange(5):
            case 0:
                del ops[at]
            case 1:
                ops.insert(at, rng.choice(ops))
            case 2:
                other = rng.randrange(len(ops))
                ops[at], ops[other] = ops[other], ops[at]
            case 3:
                ops[at] = rng.choice(others)
            case _:
                ops.insert(at, rng.choice(others))
    return b"".join(ops)


def untouched(rng: Random, folder: Path) -> list[str]:
    """Return a command on sound input, which must succeed."""
    use = rng.choice((*USES[:2], *USES[3:], "--mode=train", "import", "export"))
    if use in ("import", "export"):
        source, out = ("published.ckpt", "out.safetensors") if use == "import" else ("run", "out.pt")
        config = [f"--config={folder}/published.py"] if use == "import" else []
        return [f"--mode={use}", f"--from={folder}/{source}", f"--out={folder}/{out}", *config]
    return [*use.split(), f"--workdir={folder}/run"]


KINDS: dict[str, Kind] = {f.__name__: f for f in (settings, configuration, images, run, weights, prior, published)}
KINDS["untouched"] = untouched
SHARES = dict(settings=12, configuration=5, images=4, run=4, weights=7, prior=1, published=8, untouched=1)  # the odds
