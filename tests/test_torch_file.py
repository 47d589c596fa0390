"""Files of torch.save: PyTorch's own in both formats, and hand-made files that are harmful or truncated."""

import os
import pickle
import resource
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vaedm_jax.errors import UserError
from vaedm_jax.interop import pickles, torch_file
from vaedm_jax.interop.pickles import Placeholder

GOLDEN = Path(__file__).parent / "golden_torch"
FORMATS = ("zip", "legacy")
BYTES = np.arange(4, dtype="<f4").tobytes()  # the storage "0" of the hand-made files


def write(path, pickled, form, little=True, keys=("0",), compression=zipfile.ZIP_STORED):
    """Write a file of torch.save from the opcodes that push its object, and return its path."""
    pickled = b"\x80\x02" + pickled + b"."
    if form == "zip":
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("archive/data.pkl", pickled)
            archive.writestr("archive/byteorder", "little" if little else "big")
            for key in keys:
                archive.writestr(f"archive/data/{key}", BYTES)
    else:
        header = [torch_file.MAGIC, torch_file.PROTOCOL, {"little_endian": little}]
        storages = [(4).to_bytes(8, "little") + BYTES for _ in keys]
        path.write_bytes(b"".join([*map(dump, header), pickled, dump(list(keys)), *storages]))
    return path


def dump(x):
    return pickle.dumps(x, 2)


def value(x):
    """Return the opcodes that push x."""
    return dump(x)[2:-1]


def name(full):
    return "c{0}\n{2}\n".format(*full.rpartition(".")).encode()


def call(function, *arguments):
    return name(function) + b"(" + b"".join(arguments) + b"tR"


def tensor(offset=0, size=(4,), stride=(1,), numel=4, kind="FloatStorage"):
    storage = b"(" + value("storage") + name(f"torch.{kind}") + value("0") + value("cpu") + value(numel) + b"tQ"
    numbers = map(value, (offset, size, stride, False))
    return call("torch._utils._rebuild_tensor_v2", storage, *numbers, call("collections.OrderedDict"))


def error(path):
    with pytest.raises(UserError) as caught:
        torch_file.read(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


@pytest.mark.parametrize("form", FORMATS)
def test_tensors_of_pytorch_are_read_as_arrays(form):
    found = torch_file.read(GOLDEN / f"{form}.pth")
    assert len(found["dtypes"]) == 12
    for dtype, array in found["dtypes"].items():
        assert array.dtype.name == dtype
        want = np.arange(12) % 5 - 2 * (dtype != "uint8")
        np.testing.assert_array_equal(array.astype(complex), want.astype(bool) if dtype == "bool" else want)
    grid = np.arange(12, dtype=np.float32).reshape(3, 4)
    for key, want in {
        "grid": grid,
        "transposed": grid.T,
        "every_other": grid[1:, ::2],
        "expanded": np.repeat(grid[:, :1], 5, axis=1),
        "scalar": np.float32(2.5),
        "empty": np.empty((0, 7), np.float32),
        "parameter": grid,
    }.items():
        np.testing.assert_array_equal(found[key], want, strict=True)
        assert not found[key].flags.writeable
    assert np.shares_memory(found["grid"], found["transposed"])


@pytest.mark.parametrize("form", FORMATS)
def test_containers_are_read_and_other_objects_become_placeholders(form):
    found = torch_file.read(GOLDEN / f"{form}.pth")
    assert found["ordered"] == {"b": [1, (2.5, None, True)], "a": {"text", 3}} and list(found["ordered"]) == ["b", "a"]
    assert found["size"] == (3, 4)
    assert list(found["state_dict"]) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert found["optimizer"]["param_groups"][0]["lr"] == 0.5
    assert isinstance(found["device"], Placeholder) and isinstance(found["counter"], Placeholder)
    assert issubclass(found["dtype"], Placeholder) and found["dtype"].__name__ == "float32"
    assert found[type(found["counter"])] == {"a class": "as a key"}


class Touches:
    """An object that calls `function` when its pickle is loaded."""

    def __init__(self, function, *arguments):
        self.how = function, arguments

    def __reduce__(self):
        return self.how


class Wakes:
    """An object whose __setstate__ creates a file at `path` when its pickle is loaded."""

    def __init__(self, path):
        self.path = path

    def __setstate__(self, state):
        Path(state["path"]).touch()


@pytest.mark.parametrize("form", FORMATS)
def test_no_code_in_a_file_is_run(tmp_path, form):
    mark = tmp_path / "mark"
    for harm in (
        value(Touches(os.system, f"touch {mark}")),
        value(Touches(eval, f"open({str(mark)!r}, 'w')")),
        value(Touches(Path.touch, mark)),
        value(Wakes(str(mark))),
        b"(" + name("functools.partial") + name("os.system") + value(f"touch {mark}") + b"o)R",
    ):
        pickle.loads(b"\x80\x02" + harm + b".")
        assert mark.exists()
        mark.unlink()
        assert isinstance(torch_file.read(write(tmp_path / "file", harm, form, keys=())), Placeholder)
        assert not mark.exists()


def test_placeholders_accept_every_operation_of_a_pickle(tmp_path):
    made = call("omegaconf.DictConfig", value({"lr": 1}))
    done = value("k") + value("v") + b"s" + b"(" + value(1) + value(2) + b"e" + value({"state": 0}) + b"b"
    key = call("this.Enum", value(3))
    found = torch_file.read(write(tmp_path / "file", b"}" + key + made + done + b"s", "zip"))
    ((key, config),) = found.items()
    assert repr(type(key)) == "<class 'this.Enum'>" and "this" not in sys.modules
    assert isinstance(config, Placeholder)


@pytest.mark.parametrize("form", FORMATS)
def test_tensors_of_absurd_sizes_or_beyond_their_storage_are_refused(tmp_path, form):
    def file(**changes):
        return write(tmp_path / "file", tensor(**changes), form)

    np.testing.assert_array_equal(torch_file.read(file(offset=1, size=(2,), stride=(2,))), [1, 3])
    for beyond in (
        dict(offset=1),
        dict(size=(5,)),
        dict(stride=(2,)),
        dict(size=(2, 2), stride=(3, 1)),
        dict(size=(3, 5), stride=(2**62, 1)),
    ):
        assert "reaches beyond its storage" in error(file(**beyond))
    for absurd in (
        dict(offset=-1),
        dict(offset=3, stride=(-1,)),
        dict(size=(-4,)),
        dict(size=(10**6,), stride=(0,)),
    ):
        assert "a tensor has the size" in error(file(**absurd))
    assert "larger than the file" in error(file(numel=10**12))
    assert "larger than the file" in error(file(numel=-1))
    assert "storage 0" in error(file(numel=8))
    assert "QInt8Storage" in error(file(kind="QInt8Storage"))
    error(file(size=(2, 2)))  # two sizes, but one stride
    error(file(size=("4",)))


def test_a_pickle_cannot_change_the_state_of_an_array(tmp_path):
    objects = call("numpy.dtype", value("O8"), value(False), value(True))
    state = b"(" + value(1) + value((4,)) + objects + value(False) + value([1, 2, 3, 4]) + b"t"
    error(write(tmp_path / "file", tensor() + state + b"b", "zip"))


@pytest.mark.parametrize("form", FORMATS)
def test_truncated_files_are_refused_wherever_they_end(tmp_path, form):
    whole, path = (GOLDEN / f"{form}.pth").read_bytes(), tmp_path / "file"
    for n in [*range(0, len(whole), 101), len(whole) - 1]:
        path.write_bytes(whole[:n])
        error(path)


def test_other_files_are_refused_in_one_line_that_names_them(tmp_path):
    path = tmp_path / "file"
    assert "no such file" in error(path)
    error(tmp_path)
    for content in (b"", b"some text\nof two lines\n", pickle.dumps({"a": 1}), b"PK\x03\x04 no zip", bytes(1000)):
        path.write_bytes(content)
        error(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.jpg", b"")
    error(path)
    for form in FORMATS:
        assert "big-endian" in error(write(path, value(1), form, little=False))
        error(write(path, tensor(), form, keys=()))
    assert "compressed" in error(write(path, value(1), "zip", compression=zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("module", torch_file.LIGHTNING)
def test_hyper_parameters_of_lightning_are_a_dict(tmp_path, module):
    opcodes = name(f"{module}.AttributeDict") + b")\x81" + b"(" + value("lr") + value(3) + b"u"
    found = torch_file.read(write(tmp_path / "a.ckpt", opcodes, "zip"))
    assert found == {"lr": 3} and type(found) is pickles.OpenDict


def nested(n: int, kind: str = "tuple") -> bytes:
    """Return the opcodes of tuples, lists or dicts that are nested n deep."""
    if kind == "tuple":
        return b"N" + b"\x85" * n
    return {"list": b"]" * n + b"a" * (n - 1), "dict": b"}" + b"K\x01}" * (n - 1) + b"s" * (n - 1)}[kind]


def doubled(n: int) -> bytes:
    """Return the opcodes of n nested lists. Each holds the next one twice, so a walk over them takes 2^n steps."""
    return b"]" + b"".join(b"q%c](h%ch%ce" % (i, i, i) for i in range(n))


DEEP = 20_000
STORAGE = b"(" + value("storage") + name("torch.FloatStorage") + value("0") + b"NK\x04tQ"
HARMFUL = {
    "tuples as a key": b"}" + nested(DEEP) + b"Ns",
    "tuples in a set": b"\x8f(" + nested(DEEP) + b"\x90",
    "tuples in a frozen set": b"(" + nested(DEEP) + b"\x91",
    "tuples in a set that is called": call("builtins.set", b"(" + nested(DEEP) + b"l"),
    "tuples in an OrderedDict": call("collections.OrderedDict", b"((" + nested(DEEP) + b"NtN\x86l"),
    "a key of pairs of pairs": b"}N\x85" + b"2\x86" * 60 + b"Ns",
    "deep tuples": nested(DEEP),
    "deep lists": nested(DEEP, "list"),
    "deep dicts": nested(DEEP, "dict"),
    "a deep storage": b"(" + nested(DEEP) + b"tQ",
    "a deep size": call("torch._utils._rebuild_tensor_v2", STORAGE, b"K\x00", nested(DEEP), nested(DEEP)),
    "a list that holds itself": b"]q\x00h\x00a",
    "shared lists": doubled(60),
    "a storage of shared lists": b"(" + doubled(60) + b"tQ",
    "a text longer than the file": b"\x8d" + (2**62).to_bytes(8, "little") + b"text",
    "bytes longer than the file": b"\x8e" + (2**40).to_bytes(8, "little") + b"text",
    "a buffer longer than the file": b"\x96" + (2**33).to_bytes(8, "little") + b"text",
    "a number of many digits": b"\x8b" + (10**5).to_bytes(4, "little") + b"\x7f" * 10**5,
    "a line without end": b"c" + b"a" * 10**6,
    "classes without end": b"".join(b"cm\nn%d\n0" % i for i in range(20_000)) + b"N",
    "lists without end": b"]0" * 30_000 + b"N",
    "sets without end": b"\x8f" * 30_000,
    "opcodes without end": b"N0" * 60_000 + b"N",
    "an extension": b"\x82\x01",
    "a call of a text": value("text") + b")R",
    "a call of a list": b"])R",
    "a call without arguments": name("collections.OrderedDict") + b"NR",
    "an attribute of a list": b"]}b",
    "a list as a key": b"}]Ns",
    "a key without a value": b"(Nd",
    "an empty memo": b"h\x05",
    "an empty stack": b"0",
}  # fmt: skip


def test_files_that_would_exhaust_the_process_are_refused_in_little_time_and_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "MOST_OPCODES", 100_000)
    monkeypatch.setattr(pickles, "MOST_OBJECTS", 25_000)
    for what, harm in HARMFUL.items():
        for form in FORMATS if len(harm) < 2**20 else FORMATS[:1]:
            message = error(write(tmp_path / "file", harm, form))
            assert "cannot be read as a file of torch.save" in message and len(message) < 500, what


def test_deep_nesting_is_found_if_the_innermost_list_comes_first(tmp_path):
    chain = b"](]q\x00" + b"".join(b"]q%c(h%ce" % (i + 1, i) for i in range(150)) + b"e"
    assert "nested" in error(write(tmp_path / "file", chain, "zip"))


def test_a_memo_with_large_indices_takes_little_memory(tmp_path):
    opcodes = b"".join(b"K%cr%s0" % (i, struct.pack("<I", 2**31 - 1 - i)) for i in range(40))
    opcodes += b"j" + struct.pack("<I", 2**31 - 4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert torch_file.read(write(tmp_path / "file", opcodes, "zip", keys=())) == 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KB


def test_texts_of_python_2_and_numbers_of_all_kinds_are_read(tmp_path):
    numbers = b"I01\nI-5\nL99L\nF2.5\nG" + struct.pack(">d", 0.25) + b"J\xff\xff\xff\xff"
    opcodes = b"(U\x06na\xc3\xafve" + numbers + b"S'text'\nV\\u00e9\nt"
    found = torch_file.read(write(tmp_path / "file", opcodes, "zip", keys=()))
    assert found == ("naïve", True, -5, 99, 2.5, 0.25, -1, "text", "é")


def test_plain_values_that_python_pickles_are_read(tmp_path):
    shared = [1, 2]
    plain = {"a": (1, 2.5, None, True), 3: [b"bytes", {"x", "y"}, 2**70], (1, "b"): {"deep": [[[shared]]]}, "c": shared}
    for protocol in range(3, 6):
        opcodes = pickle.dumps(plain, protocol)[2:-1]
        assert torch_file.read(write(tmp_path / "file", opcodes, "zip", keys=())) == plain
