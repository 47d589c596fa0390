"""The VAE architectures that the authors of the method published, by data set.

Source: https://github.com/kpandey008/DiffuseVAE, main/configs.
"""

from typing import NamedTuple


class PublishedVAE(NamedTuple):
    """A published VAE.

    Attributes:
      blocks: the block string of the encoder, that of the decoder, and the widths, as `models.blocks` reads them.
      data: settings of the section `data` that say where the images are.
    """

    blocks: tuple[str, str, str]
    data: dict[str, str]


VAES = {
    "cifar10": PublishedVAE(
        (
            "32x7,32d2,32t16,16x4,16d2,16t8,8x4,8d2,8t4,4x3,4d4,4t1,1x3",
            "1x1,1u4,1t4,4x2,4u2,4t8,8x3,8u2,8t16,16x7,16u2,16t32,32x15",
            "32:64,16:128,8:256,4:256,1:512",
        ),
        {"source": "cifar10"},
    ),
    "celeba64": PublishedVAE(
        (
            "64x7,64d2,64t32,32x4,32d2,32t16,16x7,16d2,16t8,8x3,8d2,8t4,4x3,4d4,4t1,1x2",
            "1x1,1u4,1t4,4x2,4u2,4t8,8x3,8u2,8t16,16x7,16u2,16t32,32x8,32u2,32t64,64x10",
            "64:64,32:128,16:256,8:256,4:256,1:512",
        ),
        {"path": "img_align_celeba"},
    ),
    "celebamaskhq128": PublishedVAE(  # also the VAE for FFHQ at 128 x 128
        (
            "128x1,128d2,128t64,64x3,64d2,64t32,32x3,32d2,32t16,16x7,16d2,16t8,8x3,8d2,8t4,4x3,4d4,4t1,1x2",
            "1x1,1u4,1t4,4x2,4u2,4t8,8x2,8u2,8t16,16x6,16u2,16t32,32x2,32u2,32t64,64x2,64u2,64t128,128x1",
            "128:64,64:64,32:128,16:128,8:256,4:512,1:1024",
        ),
        {"path": "CelebAMask-HQ"},
    ),
    "celebahq256": PublishedVAE(  # also the VAE for AFHQ at 256 x 256
        (
            "256x3,256d2,256t128,128x3,128d2,128t64,64x5,64d2,64t32,32x7,32d2,32t16,16x9,16d2,16t8,8x7,8d2,"
            "8t4,4x5,4d4,4t1,1x2",
            "1x2,1u4,1t4,4x4,4u2,4t8,8x6,8u2,8t16,16x8,16u2,16t32,32x5,32u2,32t64,64x4,64u2,64t128,128x2,"
            "128u2,128t256,256x2",
            "256:64,128:64,64:64,32:128,16:128,8:256,4:512,1:1024",
        ),
        {"path": "CelebAMask-HQ"},
    ),
}
