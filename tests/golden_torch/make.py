"""Makes zip.pth and legacy.pth, both formats of torch.save with the same content: pip install torch, then

python tests/golden_torch/make.py
"""

from collections import Counter, OrderedDict
from pathlib import Path

import torch

DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128".split()


def main() -> None:
    count = torch.arange(12)
    grid = count.reshape(3, 4).float()
    layer = torch.nn.BatchNorm1d(3)
    content = {
        "dtypes": {name: (count % 5 - 2 * (name != "uint8")).to(getattr(torch, name)) for name in DTYPES},
        "grid": grid,
        "transposed": grid.T,
        "every_other": grid[1:, ::2],
        "expanded": grid[:, :1].expand(3, 5),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 7),
        "parameter": torch.nn.Parameter(grid),
        "ordered": OrderedDict(b=[1, (2.5, None, True)], a={"text", 3}),
        "size": grid.shape,
        "state_dict": layer.state_dict(),
        "optimizer": torch.optim.SGD(layer.parameters(), lr=0.5).state_dict(),
        Counter: {"a class": "as a key"},
        "device": grid.device,
        "dtype": grid.dtype,
        "counter": Counter("aab"),
    }
    for name, zipped in (("zip", True), ("legacy", False)):
        torch.save(content, Path(__file__).with_name(f"{name}.pth"), _use_new_zipfile_serialization=zipped)


if __name__ == "__main__":
    main()
