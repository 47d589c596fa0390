"""Writing of a state dict in the zip format of torch.save, without PyTorch."""

import io
import pickle
import zipfile

import numpy as np


def _value(x: object) -> bytes:
    """Return the opcodes that push a number, a string or a tuple of these."""
    return pickle.dumps(x, 2)[2:-1]


def _named(module: str, name: str) -> bytes:
    """Return the opcode that pushes a class or a function."""
    return f"c{module}\n{name}\n".encode()


_EMPTY = _named("collections", "OrderedDict") + b")R"  # OrderedDict()


def _tensor(array: np.ndarray, key: str) -> bytes:
    """Return the opcodes that push a float32 tensor; `key` is the name of its storage."""
    strides = np.cumprod((1, *array.shape[:0:-1]))[::-1].tolist() if array.ndim else []
    storage = b"(" + _value("storage") + _named("torch", "FloatStorage") + _value(key) + _value("cpu")
    storage += _value(array.size) + b"tQ"
    facts = _value(0) + _value(tuple(array.shape)) + _value(tuple(strides)) + _value(False)
    return _named("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + facts + _EMPTY + b"tR"


def encode(state: dict[str, np.ndarray]) -> bytes:
    """Return the bytes of a file that torch.load reads as an OrderedDict of float32 tensors."""
    arrays = {name: np.ascontiguousarray(a, "<f4").reshape(np.shape(a)) for name, a in state.items()}
    items = b"".join(_value(name) + _tensor(a, str(i)) for i, (name, a) in enumerate(arrays.items()))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + _EMPTY + b"(" + items + b"u.")
        archive.writestr("archive/byteorder", b"little")
        for i, array in enumerate(arrays.values()):
            archive.writestr(f"archive/data/{i}", array.tobytes())
        archive.writestr("archive/version", b"3\n")
    return file.getvalue()
