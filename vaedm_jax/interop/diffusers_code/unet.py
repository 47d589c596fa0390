"""A UNet2DModel whose first convolution is narrower than its first level."""

from diffusers import UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from torch import nn


class NarrowUNet2DModel(UNet2DModel):
    """A UNet2DModel whose first convolution and sinusoidal embedding have `channels` channels."""

    @register_to_config
    def __init__(
        self,
        channels,
        sample_size,
        in_channels,
        out_channels,
        block_out_channels,
        down_block_types,
        up_block_types,
        layers_per_block,
        attention_head_dim,
        downsample_padding,
        freq_shift,
        norm_eps,
        resnet_time_scale_shift,
        dropout=0.0,
        flip_sin_to_cos=True,
        attn_norm_num_groups=32,
    ):
        super().__init__(
            sample_size=sample_size,
            in_channels=in_channels,
            out_channels=out_channels,
            time_embedding_dim=4 * channels,
            block_out_channels=block_out_channels,
            down_block_types=down_block_types,
            up_block_types=up_block_types,
            layers_per_block=layers_per_block,
            attention_head_dim=attention_head_dim,
            downsample_padding=downsample_padding,
            freq_shift=freq_shift,
            flip_sin_to_cos=flip_sin_to_cos,
            norm_eps=norm_eps,
            resnet_time_scale_shift=resnet_time_scale_shift,
            dropout=dropout,
            attn_norm_num_groups=attn_norm_num_groups,
        )
        first = block_out_channels[0]
        settings = {"out_channels": first, "temb_channels": 4 * channels, "eps": norm_eps, "dropout": dropout}
        settings["time_embedding_norm"] = resnet_time_scale_shift
        self.conv_in = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.time_proj = Timesteps(channels, flip_sin_to_cos, freq_shift)
        self.time_embedding = TimestepEmbedding(channels, 4 * channels)
        self.down_blocks[0].resnets[0] = ResnetBlock2D(in_channels=channels, **settings)
        self.up_blocks[-1].resnets[-1] = ResnetBlock2D(in_channels=first + channels, **settings)
