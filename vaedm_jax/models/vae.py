"""The VAE of stage 1: residual bottleneck blocks without normalisation, and one or more layers of latents.

A plain VAE has one layer of latents, 1 x 1 x D. A ladder VAE (arXiv 1602.02282) has more. Its z holds the standardised
latents of all layers: for the layer z_1 = mu(z_2) + sigma(z_2) eps it holds eps. So z is N(0, I) under the prior, and
code that decodes z need not know the number of layers.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from types import MappingProxyType

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaedm_jax.models.blocks import latent_layers, parse_blocks, parse_channels
from vaedm_jax.models.patches import Conv, depth_to_space, space_to_depth

# PyTorch's default for convolutions. Since there is no normalisation, the small initial weights matter: with variance
# 1 / fan_in the activations would explode in the sixty residual blocks of the CIFAR-10 network.
init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
Drawn = tuple[jax.Array, jax.Array, jax.Array]  # z, its mean and its log-variance
NARROW = 64  # the most channels of features that are packed: a TPU works on 128, and a block has half as many inside


def gelu(x: jax.Array) -> jax.Array:
    """Return x Phi(x). On a CPU a train step takes a tenth less time with erf than with erfc, as in `nn.gelu`."""
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def conv(features: int, kernel: int, name: str | None, use_bias: bool = True, patch: int = 1) -> Conv:
    """Return a convolution with the initialisation of this network."""
    return Conv(features, kernel, use_bias, init, patch, name=name)


def narrow_sizes(channels: str) -> tuple[int, ...]:
    """Return the even resolutions with at most NARROW channels, at which features can be stored as 2x2 patches."""
    return tuple(size for size, width in parse_channels(channels).items() if width <= NARROW and size % 2 == 0)


class Bottleneck(nn.Module):
    """The block x + conv1x1(conv3x3(conv3x3(conv1x1(x)))), with GELU before each convolution.

    The inner convolutions have half the width. At resolution 1 all kernels are 1x1.
    """

    patch: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width, kernel = x.shape[-1] // self.patch**2, 3 if x.shape[1] * self.patch > 1 else 1
        h = conv(width // 2, 1, "conv_1", patch=self.patch)(gelu(x))
        h = conv(width // 2, kernel, "conv_2", patch=self.patch)(gelu(h))
        h = conv(width // 2, kernel, "conv_3", patch=self.patch)(gelu(h))
        return x + conv(width, 1, "conv_4", patch=self.patch)(gelu(h))


class Latents(nn.Module):
    """A layer of latents inside the decoder: x + f(mu + sigma z), with mu and sigma computed from x.

    The features of the encoder give N(mu_e, sigma_e^2). The posterior is proportional to its product with the prior
    N(mu, sigma^2). As a distribution of z, with r = (sigma_e / sigma)^2, it has

        sigma_q^2 = r / (1 + r),  mu_q = (mu_e - mu) / (sigma (1 + r))
    """

    channels: int
    patch: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, given: jax.Array, seen: jax.Array | None = None) -> tuple[jax.Array, Drawn]:
        """Return the features after the layer, and z with its mean and log-variance.

        Args:
          x: the features of the decoder, stored as patches of `patch`.
          given: z [B, H, W, C], or the noise to draw z with if `seen` is given.
          seen: the features of the encoder at this resolution, not stored as patches.
        """
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
        """Return the mean and the log-variance that follow from features x, in float32 at least."""
        return tuple(jnp.split(widen(conv(2 * self.channels, 1, name)(gelu(x))), 2, axis=-1))


class Blocks(nn.Module):
    """The layers that a block string describes; layer i has the name `block_i`.

    Features at a resolution in `packed` are stored as 2x2 patches, also at the input and at the output.
    """

    blocks: str
    channels: str
    remat: bool = False
    packed: tuple[int, ...] = ()

    @nn.compact
    def __call__(
        self, x: jax.Array, given: Sequence[jax.Array] = (), seen: dict[int, jax.Array] = MappingProxyType({})
    ) -> tuple[jax.Array, dict[int, jax.Array], list[Drawn]]:
        """Return the output, the features before each pooling by resolution, and what each layer of latents has drawn.

        Args:
          given: `given` of each layer of latents; see `Latents`.
          seen: `seen` of the layers of latents, by resolution.
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
            if kind in "du":  # XLA recognises that this needs no conversion from patches
                x = depth_to_space(x, self.patch(size))
                if kind == "d":
                    pooled[size] = x
                x = pool(x, arg) if kind == "d" else x.repeat(arg, axis=1).repeat(arg, axis=2)
                x = space_to_depth(x, self.patch(size // arg if kind == "d" else size * arg))
        return x, pooled, drawn

    def patch(self, size: int) -> int:
        """Return the size of the patches as which features at a resolution are stored."""
        return 2 if size in self.packed else 1


def pool(x: jax.Array, factor: int) -> jax.Array:
    """Average-pool by `factor`."""
    x = space_to_depth(x, factor)
    return x.reshape(*x.shape[:3], factor**2, -1).mean(axis=3)


class VAE(nn.Module):
    """The VAE: the encoder q(z | x) and the decoder p(x | z).

    Attributes:
      enc_block, dec_block: the block strings of the encoder and the decoder.
      channels: the width at each resolution; at resolution 1 it is the number of latents of the first layer.
      dec_channels: the widths of the decoder, if they differ.
      image_channels: the number of channels of the images.
      precision: the dtype of the computation; see `models.apply`.
      remat: recompute the blocks for the gradient instead of keeping their intermediate results.
      packed: store features with at most NARROW channels as 2x2 patches. It gives the same results, faster on a TPU and
        slower on a CPU.
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
        """Shapes (H, W, C) of the layers of latents in z, in the order of the decoder."""
        return [(1, 1, parse_channels(self.channels)[1]), *((s, s, c) for s, c in latent_layers(self.dec_block))]

    @property
    def z_dim(self) -> int:
        """The number of latents in z, of all layers together."""
        return sum(math.prod(shape) for shape in self.shapes)

    def setup(self) -> None:
        """Create the layers."""
        size, widths = parse_blocks(self.enc_block)[0].size, parse_channels(self.channels)
        dec_channels = self.dec_channels or self.channels
        packed_in, packed_out = (narrow_sizes(text) if self.packed else () for text in (self.channels, dec_channels))
        self.patch_in, self.patch_out = (2 if size in packed else 1 for packed in (packed_in, packed_out))
        self.conv_in = conv(widths[size], 3, None, use_bias=False, patch=self.patch_in)
        self.encoder = Blocks(self.enc_block, self.channels, self.remat, packed_in)
        D = self.shapes[0][-1]
        self.mu = conv(D, 1, None, use_bias=False)
        self.logvar = conv(D, 1, None, use_bias=False)
        self.decoder = Blocks(self.dec_block, dec_channels, self.remat, packed_out)
        self.conv_out = conv(self.image_channels, 3, None, patch=self.patch_out)

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Encode images [B, H, W, C] in [0, 1]: return the mean and the log-variance of z, [B, D] each.

        In a ladder VAE those of a layer depend on the layers before it, which are at their means.
        """
        return self.reconstruct(x, jnp.zeros((len(x), self.z_dim)))[2:]

    def decode(self, z: jax.Array) -> jax.Array:
        """Decode latents z [B, D] to images [B, H, W, C] in [0, 1]."""
        first, *others = self.split(z)
        return self.image(self.decoder(first.astype(self.precision), others)[0])

    def reconstruct(self, x: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Encode images, draw z and decode it: return x_hat, z, and the mean and log-variance of z.

        Args:
          x: images [B, H, W, C] in [0, 1].
          noise: [B, D], to draw z with.
        """
        h, seen, _ = self.encoder(self.conv_in(space_to_depth(x.astype(self.precision), self.patch_in)))
        noise, *others = self.split(noise)
        mu, logvar = widen(self.mu(h)), widen(self.logvar(h))
        z = reparameterize(mu, logvar, noise)
        h, _, drawn = self.decoder(z.astype(self.precision), others, seen)
        of_all = zip((z, mu, logvar), *drawn, strict=True)
        return self.image(h), *(jnp.concatenate([a.reshape(len(x), -1) for a in found], axis=1) for found in of_all)

    def split(self, z: jax.Array) -> list[jax.Array]:
        """Split z [B, D] into the layers of latents [B, H, W, C]."""
        sizes = [math.prod(shape) for shape in self.shapes]
        parts = jnp.split(z, list(accumulate(sizes))[:-1], axis=1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def image(self, h: jax.Array) -> jax.Array:
        """Return the images [B, H, W, C] in [0, 1] that follow from the features of the decoder."""
        return nn.sigmoid(widen(depth_to_space(self.conv_out(h), self.patch_out)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the reconstruction from the mean of z. It is called to initialise the parameters."""
        return self.reconstruct(x, jnp.zeros((len(x), self.z_dim)))[0]


def widen(x: jax.Array) -> jax.Array:
    """Convert to float32, unless the dtype is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def reparameterize(mu: jax.Array, logvar: jax.Array, noise: jax.Array) -> jax.Array:
    """Return z = mu + exp(logvar / 2) * noise; all have the same shape."""
    return mu + jnp.exp(0.5 * logvar) * noise


def kl_divergence(mu: jax.Array, logvar: jax.Array) -> jax.Array:
    """Return KL(q(z | x) || N(0, I)) of each image, in nats: [B]."""
    return 0.5 * jnp.sum(jnp.exp(logvar) + mu**2 - 1 - logvar, axis=-1)
