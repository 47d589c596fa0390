"""The VAE: residual blocks that strings describe, such as `32x7,32d2,32t16`, between images and z."""

import re

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn.functional import avg_pool2d, gelu


class Bottleneck(nn.Module):
    """The residual block x + c4(c3(c2(c1(x)))), with GELU before each convolution; then average pooling."""

    def __init__(self, width, kernel, pool=1):
        super().__init__()
        inner, self.pool = width // 2, pool
        self.c1, self.c4 = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)
        self.c2, self.c3 = (nn.Conv2d(inner, inner, kernel, padding=kernel // 2) for _ in range(2))

    def forward(self, x):
        """Return the features [B, C, H / pool, W / pool]."""
        h = x
        for conv in (self.c1, self.c2, self.c3, self.c4):
            h = conv(gelu(h))
        return avg_pool2d(x + h, self.pool)


def stack(text, widths):
    """Return the layers of a block string, whose entries are RxN, RdK, RuK and RtS for the resolution R."""
    layers = []
    for entry in text.split(","):
        size, kind, number = re.fullmatch(r"\s*(\d+)([xdut])(\d+)\s*", entry).groups()
        size, number = int(size), int(number)
        kernel = 3 if size > 1 else 1
        if kind == "u":
            layers.append(nn.Upsample(scale_factor=number))
        elif kind == "t":
            layers.append(nn.Conv2d(widths[size], widths[number], 1, bias=False))
        else:
            pool, count = (number, 1) if kind == "d" else (1, number)
            layers += [Bottleneck(widths[size], kernel, pool) for _ in range(count)]
    return nn.Sequential(*layers)


class VAEDMVAE(ModelMixin, ConfigMixin):
    """The encoder q(z | x) and the decoder of images in [0, 1]."""

    @register_to_config
    def __init__(self, enc_block, dec_block, channels):
        super().__init__()
        widths = {int(size): int(width) for size, width in (entry.split(":") for entry in channels.split(","))}
        width, self.z_dim = widths[int(re.match(r"\s*\d+", enc_block)[0])], widths[1]
        self.enc, self.dec = nn.Module(), nn.Module()
        self.enc.in_conv = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.enc.block_mod = stack(enc_block, widths)
        self.enc.mu, self.enc.logvar = (nn.Conv2d(self.z_dim, self.z_dim, 1, bias=False) for _ in range(2))
        self.dec.block_mod = stack(dec_block, widths)
        self.dec.last_conv = nn.Conv2d(width, 3, 3, padding=1)

    def encode(self, x):
        """Return the mean and the log-variance of z, [B, D] both, for images [B, 3, H, W] in [0, 1]."""
        h = self.enc.block_mod(self.enc.in_conv(x))
        return self.enc.mu(h).flatten(1), self.enc.logvar(h).flatten(1)

    def decode(self, z):
        """Return images [B, 3, H, W] in [0, 1] of z [B, D]."""
        return torch.sigmoid(self.dec.last_conv(self.dec.block_mod(z[:, :, None, None])))

    def forward(self, x):
        """Return the images decoded from the means of z."""
        return self.decode(self.encode(x)[0])
