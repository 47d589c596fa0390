"""The architecture of the VAE as text: block strings `32x7,32d2,32t16,...` with the widths `32:64,16:128,...`.

The entries of a block string are:

- `RxN`: N residual blocks at resolution R.
- `RdK`: a residual block at resolution R, then average pooling by K.
- `RuK`: nearest-neighbour upsampling by K, from resolution R.
- `RtS`: a 1x1 convolution from the width of resolution R to the width of resolution S.
- `RzK`, in the decoder only: a layer of latents with K channels at resolution R. It makes the VAE a ladder VAE.
"""

import re
from typing import NamedTuple

from vaedm_jax.errors import UserError, brief, check_range

MOST_BLOCKS, WHY_BLOCKS = 1000, "each block is a part of the network with its own parameters"
MOST_SIDE, WHY_SIDE = 8192, "no image has more pixels per side"
MOST_WIDTH, WHY_WIDTH = 2**16, "no device can hold a wider network"


class Block(NamedTuple):
    """One entry of a block string.

    Attributes:
      kind: `x`, `d`, `u`, `t` or `z`.
      size: the resolution in the entry.
      arg: 1 for `x`, the rate of `d` and `u`, the target resolution of `t`, or the channels of `z`.
    """

    kind: str
    size: int
    arg: int


def parse_channels(text: str) -> dict[int, int]:
    """Return a string of widths, such as `32:64,16:128`, as {resolution: width}.

    Raises:
      UserError: an entry cannot be read, a number is out of its range, or a resolution has two widths.
    """
    widths = {}
    for entry in text.split(","):
        if not (match := re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", entry.strip())):
            raise UserError(f"channels '{brief(text)}': every entry must read RESOLUTION:WIDTH, like 32:64")
        size, width = map(int, match.groups())
        where = f"channels, entry '{entry.strip()}'"
        check_range(f"{where}: the resolution", size, 1, MOST_SIDE, WHY_SIDE)
        check_range(f"{where}: the width", width, 1, MOST_WIDTH, WHY_WIDTH)
        if size in widths:
            raise UserError(f"{where}: resolution {size} has a width already, {widths[size]}; it must have only one")
        widths[size] = width
    return widths


def parse_blocks(text: str) -> list[Block]:
    """Return the blocks of a block string; `RxN` becomes N of them.

    Raises:
      UserError: an entry cannot be read, a number is out of its range, or there are too many blocks.
    """
    blocks = []
    for entry in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})([xdutz])([0-9]{1,9})", entry.strip())
        if not match:
            raise UserError(f"block string: cannot read '{brief(entry)}'; entries are like 32x7, 32d2, 4u2, 32t16, 8z2")
        size, kind, number = int(match[1]), match[2], int(match[3])
        where = f"block string, entry '{entry.strip()}': "
        if not size * number:
            raise UserError(f"{where}both numbers must be 1 or more")
        check_range(f"{where}the resolution", size, 1, MOST_SIDE, WHY_SIDE)
        if kind == "x":
            check_range(f"{where}the number of blocks up to here", len(blocks) + number, 1, MOST_BLOCKS, WHY_BLOCKS)
        elif kind == "z":
            check_range(f"{where}the number of channels", number, 1, MOST_WIDTH, WHY_WIDTH)
        else:
            check_range(f"{where}the second number", number, 1, MOST_SIDE, WHY_SIDE)
        blocks += [Block("x", size, 1)] * number if kind == "x" else [Block(kind, size, number)]
    check_range("block string: the number of blocks", len(blocks), 1, MOST_BLOCKS, WHY_BLOCKS)
    return blocks


def latent_layers(text: str) -> list[tuple[int, int]]:
    """Return (resolution, channels) of each layer of latents in a block string."""
    return [(block.size, block.arg) for block in parse_blocks(text) if block.kind == "z"]


def check_ladder(enc_block: str, dec_block: str) -> None:
    """Check that layers of latents are in the decoder, at resolutions that the encoder pools.

    Raises:
      UserError: a layer of latents is elsewhere.
    """
    if latent_layers(enc_block):
        raise UserError(f"block string '{brief(enc_block)}': layers of latents (z) belong to the decoder")
    seen = {block.size for block in parse_blocks(enc_block) if block.kind == "d"}
    for size, channels in latent_layers(dec_block):
        if size not in seen:
            raise UserError(
                f"block string '{brief(dec_block)}', entry {size}z{channels}: latents need a resolution that the "
                f"encoder pools: {', '.join(map(str, sorted(seen)))}"
            )


def check_blocks(text: str, channels: str, start: int, end: int) -> None:
    """Check that a block string leads from resolution `start` to `end`, and that its widths fit.

    Raises:
      UserError: names the first entry that does not fit.
    """
    widths, size, width = parse_channels(channels), start, None
    for kind, written, arg in parse_blocks(text):
        where = f"block string '{brief(text)}', entry {written}{kind}{arg}"
        for needed in (written, arg) if kind == "t" else (written,):
            if needed not in widths:
                raise UserError(f"{where}: channels '{brief(channels)}' has no width for resolution {needed}")
        width = width or widths[written]
        if kind == "t" and arg != size:
            raise UserError(f"{where}: the features are {size}x{size} here, so it should be {written}t{size}")
        if kind != "t" and written != size:
            raise UserError(
                f"{where}: the features are {size}x{size} here, not {written}x{written}; images of {max(start, end)} "
                f"pixels need a block string for {max(start, end)}"
            )
        if widths[written] != width:
            raise UserError(f"{where}: the features have {width} channels here, not {widths[written]}")
        if kind in "xd" and width < 2:
            raise UserError(f"{where}: a residual block has half of its channels inside, so it needs 2 or more, not 1")
        if kind == "d" and size % arg:
            raise UserError(f"{where}: {size} pixels cannot be pooled by {arg}")
        size = size // arg if kind == "d" else size * arg if kind == "u" else size
        width = widths[arg] if kind == "t" else width
    if size != end:
        raise UserError(f"block string '{brief(text)}' ends at {size}x{size}; it should end at {end}x{end}")
