"""Sampling: from a seed to images.

`networks` joins the networks of a model to the diffusion process, `generation` has the compiled functions, `engine`
calls them batch by batch with the parameters of a model, and `inputs` checks what they are given.
"""
