"""A VAE that generates and a diffusion model that refines (arXiv 2201.00308), as a pipeline of diffusers.

pipeline = DiffusionPipeline.from_pretrained("FOLDER", trust_remote_code=True)
images = pipeline(batch_size=4, num_inference_steps=50).images
"""

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from torch.nn.functional import pixel_shuffle, pixel_unshuffle


class VAEDMPipeline(DiffusionPipeline):
    """Draw z, decode it to x_hat, and refine x_hat by DDIM. Without a VAE, the diffusion model generates alone."""

    _optional_components = ("vae",)

    def __init__(self, unet, scheduler, vae=None, variant="uncond", prediction="eps", sigma_r=0, sigma_data=0, patch=1):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, vae=vae)
        self.register_to_config(
            variant=variant, prediction=prediction, sigma_r=sigma_r, sigma_data=sigma_data, patch=patch
        )

    def predict(self, u, t, x_hat):
        """Return what the scheduler takes at step t: eps, v, or for the prediction `residual` the clean image."""
        alpha_bar = self.scheduler.alphas_cumprod[t].to(u)
        a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        centre = 0 if x_hat is None else x_hat
        sigma = self.config.sigma_data if x_hat is None else self.config.sigma_r
        r = (s**2 + (a * sigma) ** 2).sqrt()
        residual = self.config.prediction == "residual"
        w = (u - a * centre) / r if residual else u + centre if self.config.variant == "form2" else u
        shown = w if x_hat is None else torch.cat([w, x_hat], dim=1)
        output = pixel_shuffle(self.unet(pixel_unshuffle(shown, self.config.patch), t).sample, self.config.patch)
        return centre + sigma * (a * sigma * w + s * output) / r if residual else output

    @torch.no_grad()
    def __call__(
        self, batch_size=1, num_inference_steps=50, eta=0.0, generator=None, z=None, x_T=None, output_type="pil"
    ):
        """Return images. z [B, D] and the noise x_T [B, 3, H, W] are drawn unless they are given, as tensors."""
        batch_size = next((len(given) for given in (z, x_T) if given is not None), batch_size)

        def draw(*shape):
            device = generator.device if generator else self.device
            return torch.randn(batch_size, *shape, generator=generator, device=device).to(self.device, self.unet.dtype)

        x_hat = None
        if self.vae is not None:
            x_hat = 2 * self.vae.decode(draw(self.vae.z_dim) if z is None else z) - 1
        side = self.unet.config.sample_size * self.config.patch
        u = draw(3, side, side) if x_T is None else x_T
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.progress_bar(self.scheduler.timesteps):
            step = {"eta": eta, "generator": generator, "use_clipped_model_output": True}
            u = self.scheduler.step(self.predict(u, t, x_hat), t, u, **step).prev_sample
        images = (u / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()
        return ImagePipelineOutput(images=self.numpy_to_pil(images) if output_type == "pil" else images)
