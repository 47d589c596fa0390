"""The diffusion process: pure functions of arrays and of a callable `predict(u_t, level)`.

One chain serves the unconditional DDPM and both formulations of VAEDM. For t >= 1 it runs on u_t = x_t - s, where s
is x_hat in Formulation 2 and 0 otherwise; u_0 = x_0 (eq. 14 adds x_hat at t = 1, not before). Then
q(u_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I) in all three, and the shift enters in one place only:
the network is shown u_t + s. The paper counts t from 1; the code counts from 0.

Names, as in the paper: beta_t, alpha_t = 1 - beta_t, alpha_bar_t their running product, T the number of steps, eps
the noise, x_0 the clean image, x_hat the VAE's image, z its latent. Images are [B, H, W, C] in [-1, 1] here.

To read it with the paper, take the files in this order:

- `schedule`: beta, alpha_bar, and the variance and the coefficients of the posterior (eq. 17 and 18).
- `process`: the three variants, and the forward process q(u_t | x_0) (eq. 15).
- `prediction`: what the network predicts, and x_0 and eps that follow from it (eq. 18).
- `loss`: the losses that training minimises (Algorithm 1).
- `reverse`: the loop that runs every sampler (Algorithm 2). A sampler is a table of coefficients.
- `samplers` and `solvers`: these tables. `learnt` fits one to data.
- `spacing`: which of the T steps a chain visits. `chain` puts sampler, spacing and start together.
- `bound`: the bound on log p(x_0) (eq. 12).
"""
