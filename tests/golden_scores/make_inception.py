"""Makes inception.npz with torch-fidelity's own network on random weights: pip install as for make.py, then

python -m tests.golden_scores.make_inception
"""

import json
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torch_fidelity.metric_isc import isc_features_to_metric

from tests.golden_scores import weights

COUNTED = "num_batches_tracked"


def network() -> FeatureExtractorInceptionV3:
    """With the weights that it has before it loads any."""
    with tempfile.NamedTemporaryFile() as file, mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"):
        torch.save({}, file.name)
        return FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], file.name)


def pictures(rng: np.random.RandomState, height: int, width: int) -> np.ndarray:
    """Four images of coarse patterns and noise, each with its own colours and contrast; uint8 [4, H, W, 3]."""
    found = []
    for _ in range(4):
        cells = rng.randint(1, 24)
        coarse = rng.uniform(0, 255, (height // cells + 1, width // cells + 1, 3))
        image = coarse.repeat(cells, axis=0).repeat(cells, axis=1)[:height, :width]
        found.append(image * rng.uniform(0, 1, 3) + rng.uniform(-20, 20, image.shape))
    return np.clip(found, 0, 255).astype(np.uint8)


def main() -> None:
    torch.set_num_threads(2)
    model, rng = network(), np.random.RandomState(1)
    state = model.state_dict()
    shapes = {name: tuple(array.shape) for name, array in state.items() if not name.endswith(COUNTED)}
    model.load_state_dict(state | {k: torch.from_numpy(v) for k, v in weights.random(shapes).items()})
    images = {"square": pictures(rng, 32, 32), "oblong": pictures(rng, 37, 53)}
    outputs, resized = [], {}
    for kind, batch in images.items():
        batch = torch.from_numpy(batch.transpose(0, 3, 1, 2))
        outputs.append(model(batch))
        whole = interpolate_bilinear_2d_like_tensorflow1x(batch.float(), size=(299, 299), align_corners=False)
        resized[f"{kind}_resized"] = whole[:2, :, ::13, ::17].permute(0, 2, 3, 1).numpy()
    features, logits = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    score = isc_features_to_metric(logits, splits=2)
    out = Path(__file__).with_name("inception.npz")
    arrays = dict(features=features.numpy(), logits=logits.numpy()) | images | resized
    np.savez_compressed(out, shapes=json.dumps(shapes), **arrays, **score)
    spread = features - features.mean(dim=0)
    print(out, out.stat().st_size, score, features.mean(), features.std(), spread.std(), (features > 0).float().mean())


if __name__ == "__main__":
    main()
