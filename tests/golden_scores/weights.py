"""Weights of Inception for the golden arrays: drawn anew wherever they are needed, as a file would have 95 MB."""

import numpy as np

NORM = {
    ".bn.weight": (0.5, 1.5),
    ".bn.bias": (-0.1, 0.1),
    ".bn.running_mean": (-0.1, 0.1),
    ".bn.running_var": (0.5, 1.5),
}


def random(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """A state dict, float32, of arrays with these names and shapes.

    RandomState draws the same numbers in all versions of NumPy. Kernels have no mean, for what images have in common
    would else outgrow what they differ in; the factors keep features and logits at about one.
    """
    rng, state = np.random.RandomState(seed), {}
    for name, shape in sorted(shapes.items()):
        factor = 1.1 if "conv" in name else 2.0
        reach = factor * np.sqrt(6 / np.prod(shape[1:]))
        low, high = next((ends for part, ends in NORM.items() if name.endswith(part)), (-reach, reach))
        array = rng.uniform(low, high, shape)
        if name.endswith("conv.weight"):
            array -= array.mean(axis=1, keepdims=True)
        state[name] = array.astype(np.float32)
    return state
