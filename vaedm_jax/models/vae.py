"""The VAE of stage 1: residual bottleneck blocks without normalisation, one layer of latents z (1 x 1 x D)."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaedm_jax.models.blocks import parse_blocks, parse_channels
from vaedm_jax.models.patches import Conv, depth_to_space, space_to_depth

# PyTorch's default for convolutions. Without normalisation the smaller start matters: with variance 1 / fan_in the
# sixty residual blocks of the CIFAR-10 network blow the activations up.
init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
gelu = partial(nn.gelu, approximate=False)
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


class Blocks(nn.Module):
    """The layers that a block string describes; layer i carries the name `block_i`.

    A picture of a size in `packed` lies in 2x2 patches, at the ends too.
    """

    blocks: str
    channels: str
    remat: bool = False
    packed: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        block = nn.remat(Bottleneck) if self.remat else Bottleneck
        widths = parse_channels(self.channels)
        for i, (kind, size, arg) in enumerate(parse_blocks(self.blocks)):
            if kind == "t":
                x = conv(widths[arg], 1, f"block_{i}", use_bias=False, patch=self.patch(arg))(x)
                continue
            if kind in "xd":
                x = block(self.patch(size), name=f"block_{i}")(x)
            if kind in "du":  # XLA sees that patches need not be taken apart for this
                x = depth_to_space(x, self.patch(size))
                x = pool(x, arg) if kind == "d" else x.repeat(arg, axis=1).repeat(arg, axis=2)
                x = space_to_depth(x, self.patch(size // arg if kind == "d" else size * arg))
        return x

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
    def z_dim(self) -> int:
        return parse_channels(self.channels)[1]

    def setup(self) -> None:
        size, widths = parse_blocks(self.enc_block)[0].size, parse_channels(self.channels)
        dec_channels = self.dec_channels or self.channels
        packed_in, packed_out = (narrow(text) if self.packed else () for text in (self.channels, dec_channels))
        self.patch_in, self.patch_out = (2 if size in packed else 1 for packed in (packed_in, packed_out))
        self.conv_in = conv(widths[size], 3, None, use_bias=False, patch=self.patch_in)
        self.encoder = Blocks(self.enc_block, self.channels, self.remat, packed_in)
        self.mu = conv(self.z_dim, 1, None, use_bias=False)
        self.logvar = conv(self.z_dim, 1, None, use_bias=False)
        self.decoder = Blocks(self.dec_block, dec_channels, self.remat, packed_out)
        self.conv_out = conv(self.image_channels, 3, None, patch=self.patch_out)

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images [B, H, W, C] in [0, 1] to the mean and log-variance of z, [B, D] each."""
        h = self.encoder(self.conv_in(space_to_depth(x.astype(self.precision), self.patch_in)))
        return self.full(self.mu(h)[:, 0, 0]), self.full(self.logvar(h)[:, 0, 0])

    def decode(self, z: jax.Array) -> jax.Array:
        """Latents [B, D] to images [B, H, W, C] in [0, 1]."""
        h = self.conv_out(self.decoder(z[:, None, None, :].astype(self.precision)))
        return nn.sigmoid(self.full(depth_to_space(h, self.patch_out)))

    def full(self, x: jax.Array) -> jax.Array:
        """In float32 at least."""
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The reconstruction at the mean, the mean and the log-variance. It serves to make the parameters."""
        mu, logvar = self.encode(x)
        return self.decode(mu), mu, logvar


def reparameterize(mu: jax.Array, logvar: jax.Array, noise: jax.Array) -> jax.Array:
    """z = mu + exp(logvar / 2) * noise, all [B, D]."""
    return mu + jnp.exp(0.5 * logvar) * noise


def kl_divergence(mu: jax.Array, logvar: jax.Array) -> jax.Array:
    """KL(q(z | x) || N(0, I)) of each image in nats, [B]."""
    return 0.5 * jnp.sum(jnp.exp(logvar) + mu**2 - 1 - logvar, axis=-1)
