"""Makes torch_fidelity.npz with torch-fidelity's own code: pip install torch torch-fidelity==0.4.0, then

python tests/golden_scores/make.py
"""

from pathlib import Path

import numpy as np
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric


def main() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((12, 12))
    a = (rng.standard_normal((300, 12)) @ mixing).astype(np.float32)
    b = (rng.standard_normal((400, 12)) @ mixing * 0.8 + 0.5).astype(np.float32)
    logits = (3 * rng.standard_normal((200, 7))).astype(np.float32)
    one, two = torch.from_numpy(a), torch.from_numpy(b)
    statistics = [fid_features_to_statistics(x.double()) for x in (one, two)]
    found = {
        **fid_statistics_to_metric(*statistics, verbose=False),
        **kid_features_to_metric(one.double(), two.double(), kid_subsets=20, kid_subset_size=100, verbose=False),
        **prc_features_to_metric(one.double(), two.double(), verbose=False),
        **isc_features_to_metric(torch.from_numpy(logits)),
    }
    out = Path(__file__).with_name("torch_fidelity.npz")
    np.savez_compressed(out, a=a, b=b, logits=logits, **{k: np.float64(v) for k, v in found.items()})
    print(out, found)


if __name__ == "__main__":
    main()
