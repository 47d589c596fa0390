"""The VAE of stage 1: residual bottleneck blocks without normalisation, one layer of latents z (1 x 1 x D), or more.

Of a ladder (arXiv 1602.02282) z are the numbers that its layers are made by: of z_1 = mu(z_2) + sigma(z_2) eps it has
eps. So z is N(0, I) under the prior, and whoever decodes it need not know how many layers there are.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from types import MappingProxyType

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaedm_jax.models.blocks import latents, parse_blocks, parse_channels
from vaedm_jax.models.patches import Conv, depth_to_space, space_to_depth

# PyTorch's default for convolutions. Without normalisation the smaller start matters: with variance 1 / fan_in the
# sixty residual blocks of the CIFAR-10 network blow the activations up.
init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
gelu = partial(nn.gelu, approximate=False)
Drawn = tuple[jax.Array, jax.Array, jax.Array]  # z, its mean and its log-variance
NARROW = 64  # channels, half of them inside a block: a TPU works on 128 at once


def conv(features: int, kernel: int, name: str | None, use_bias: bool = True, patch: int = 1) -> Conv:
    return Conv(features, kernel, use_bias, init, patch, name=name)


def narrow(channels: str) -> tuple[int, ...]:
    """The sizes of narrow pictures, which can lie in 2x2 patches."""
    return tuple(size for size, width in parse_channels(channels).items() if width <= NARROW and size % 2 == 0)


class Bottleneck(nn.Module):
    """x + conv1x1(conv3x3(conv3x3(conv1x1(x)))), half the width inside, GELU before each; 1x1 only at size 1."""

    patch: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width, kernel = x.shape[-1] // self.patch**2, 3 if x.shape[1] * self.patch > 1 else 1
        h = conv(width // 2, 1, "conv_1", patch=self.patch)(gelu(x))
        h = conv(width // 2, kernel, "conv_2", patch=self.patch)(gelu(h))
        h = conv(width // 2, kernel, "conv_3", patch=self.patch)(gelu(h))
        return x + conv(width, 1, "conv_4", patch=self.patch)(gelu(h))


class Latents(nn.Module):
    """A layer of latents inside the decoder: x + f(mu + sigma z), where x gives mu and sigma.

    What the encoder has seen gives N(mu_e, sigma_e^2), and q(z | x) is the product of the two normal distributions, as
    one of z: sigma_q^2 = r / (1 + r), mu_q = (mu_e - mu) / (sigma (1 + r)) with r = (sigma_e / sigma)^2.
    """

    channels: int
    patch: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, given: jax.Array, seen: jax.Array | None = None) -> tuple[jax.Array, Drawn]:
        """`given` is z [B, H, W, C]; or the noise that z is drawn by, where `seen` is there."""
        mu, logvar = self.normal(depth_to_space(x, self.patch), "prior")
        drawn = (given, given, jnp.zeros_like(given))
        if seen is not None:
            mu_e, logvar_e = self.normal(seen, "posterior")
            log_r = logvar_e - logvar
            mu_q = (mu_e - mu) * jnp.exp(-0.5 * logvar) * nn.sigmoid(-log_r)
            logvar_q = nn.log_sigmoid(log_r)
            drawn = (reparameterize(mu_q, logvar_q, given), mu_q, logvar_q)
        h = space_to_depth(reparameterize(mu, logvar, drawn[0]).astype(x.dtype), self.patch)
        return x + conv(x.shape[-1] // self.patch**2, 1, "out", patch=self.patch)(h), drawn

    def normal(self, x: jax.Array, name: str) -> tuple[jax.Array, jax.Array]:
        """Mean and log-variance, in float32 at least."""
        return tuple(jnp.split(full(conv(2 * self.channels, 1, name)(gelu(x))), 2, axis=-1))


class Blocks(nn.Module):
    """The layers that a block string describes; layer i carries the name `block_i`.

    A picture of a size in `packed` lies in 2x2 patches, at the ends too.
    """

    blocks: str
    channels: str
    remat: bool = False
    packed: tuple[int, ...] = ()

    @nn.compact
    def __call__(
        self, x: jax.Array, given: Sequence[jax.Array] = (), seen: dict[int, jax.Array] = MappingProxyType({})
    ) -> tuple[jax.Array, dict[int, jax.Array], list[Drawn]]:
        """The result; what there was before each pooling, by its size; and what each layer of latents has drawn.

        Args:
          given, seen: for each layer of latents, and by size; see `Latents`.
        """
        block = nn.remat(Bottleneck) if self.remat else Bottleneck
        widths, pooled, drawn = parse_channels(self.channels), {}, []
        for i, (kind, size, arg) in enumerate(parse_blocks(self.blocks)):
            if kind == "t":
                x = conv(widths[arg], 1, f"block_{i}", use_bias=False, patch=self.patch(arg))(x)
                continue
            if kind == "z":
                x, found = Latents(arg, self.patch(size), name=f"block_{i}")(x, given[len(drawn)], seen.get(size))
                drawn.append(found)
                continue
            if kind in "xd":
                x = block(self.patch(size), name=f"block_{i}")(x)
            if kind in "du":  # XLA sees that patches need not be taken apart for this
                x = depth_to_space(x, self.patch(size))
                if kind == "d":
                    pooled[size] = x
                x = pool(x, arg) if kind == "d" else x.repeat(arg, axis=1).repeat(arg, axis=2)
                x = space_to_depth(x, self.patch(size // arg if kind == "d" else size * arg))
        return x, pooled, drawn

    def patch(self, size: int) -> int:
        return 2 if size in self.packed else 1


def pool(x: jax.Array, factor: int) -> jax.Array:
    """Means of squares."""
    x = space_to_depth(x, factor)
    return x.reshape(*x.shape[:3], factor**2, -1).mean(axis=3)


class VAE(nn.Module):
    """q(z | x) and p(x | z).

    Attributes:
      enc_block, dec_block: block strings of encoder and decoder.
      channels: widths at each resolution; that of resolution 1 is D, the number of latents.
      dec_channels: widths of the decoder where they differ.
      image_channels: channels of the images.
      precision: what it computes in; see `models.apply`. remat: blocks are computed anew for the gradient, not kept.
      packed: pictures of at most NARROW channels lie in 2x2 patches, for the same results; see `config.py`.
    """

    enc_block: str
    dec_block: str
    channels: str
    dec_channels: str = ""
    image_channels: int = 3
    precision: str = "float32"
    remat: bool = False
    packed: bool = False

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Those of the layers of latents, of which z has all numbers, from the one that the decoder begins with on."""
        return [(1, 1, parse_channels(self.channels)[1]), *((s, s, c) for s, c in latents(self.dec_block))]

    @property
    def z_dim(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)

    def setup(self) -> None:
        size, widths = parse_blocks(self.enc_block)[0].size, parse_channels(self.channels)
        dec_channels = self.dec_channels or self.channels
        packed_in, packed_out = (narrow(text) if self.packed else () for text in (self.channels, dec_channels))
        self.patch_in, self.patch_out = (2 if size in packed else 1 for packed in (packed_in, packed_out))
        self.conv_in = conv(widths[size], 3, None, use_bias=False, patch=self.patch_in)
        self.encoder = Blocks(self.enc_block, self.channels, self.remat, packed_in)
        D = self.shapes[0][-1]
        self.mu = conv(D, 1, None, use_bias=False)
        self.logvar = conv(D, 1, None, use_bias=False)
        self.decoder = Blocks(self.dec_block, dec_channels, self.remat, packed_out)
        self.conv_out = conv(self.image_channels, 3, None, patch=self.patch_out)

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images [B, H, W, C] in [0, 1] to the mean and log-variance of z, [B, D] each.

        Those of an inner layer of latents are the ones where the layers before it are at their means.
        """
        return self.reconstruct(x, jnp.zeros((len(x), self.z_dim)))[2:]

    def decode(self, z: jax.Array) -> jax.Array:
        """Latents [B, D] to images [B, H, W, C] in [0, 1]."""
        first, *others = self.layers(z)
        return self.picture(self.decoder(first.astype(self.precision), others)[0])

    def reconstruct(self, x: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Images [B, H, W, C] in [0, 1], given back by a z that noise [B, D] draws: x_hat, z, its mean and logvar."""
        h, seen, _ = self.encoder(self.conv_in(space_to_depth(x.astype(self.precision), self.patch_in)))
        noise, *others = self.layers(noise)
        mu, logvar = full(self.mu(h)), full(self.logvar(h))
        z = reparameterize(mu, logvar, noise)
        h, _, drawn = self.decoder(z.astype(self.precision), others, seen)
        of_all = zip((z, mu, logvar), *drawn, strict=True)
        return self.picture(h), *(jnp.concatenate([a.reshape(len(x), -1) for a in found], axis=1) for found in of_all)

    def layers(self, z: jax.Array) -> list[jax.Array]:
        """The numbers of z [B, D] as the layers of latents."""
        sizes = [math.prod(shape) for shape in self.shapes]
        parts = jnp.split(z, list(accumulate(sizes))[:-1], axis=1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def picture(self, h: jax.Array) -> jax.Array:
        return nn.sigmoid(full(depth_to_space(self.conv_out(h), self.patch_out)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """The reconstruction at the mean. It serves to make the parameters."""
        return self.reconstruct(x, jnp.zeros((len(x), self.z_dim)))[0]


def full(x: jax.Array) -> jax.Array:
    """In float32 at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def reparameterize(mu: jax.Array, logvar: jax.Array, noise: jax.Array) -> jax.Array:
    """z = mu + exp(logvar / 2) * noise, all [B, D]."""
    return mu + jnp.exp(0.5 * logvar) * noise


def kl_divergence(mu: jax.Array, logvar: jax.Array) -> jax.Array:
    """KL(q(z | x) || N(0, I)) of each image in nats, [B]."""
    return 0.5 * jnp.sum(jnp.exp(logvar) + mu**2 - 1 - logvar, axis=-1)
