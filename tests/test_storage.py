"""What is read from disk has the expected form, or is refused by one error, in little time and memory."""

import io
import json
import os
import struct
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from vaedm_jax.reporting import save_png
from vaedm_jax.storage import Array, Damaged, parse_json, read_arrays, read_json, read_png, read_tensors
from vaedm_jax.storage.writing import replacing

GOOD_JSON = {"name": "a", "numbers": [1, 2.5], "inside": {"x": None, "y": 3}}
FORM = {"name": str, "numbers": [float], "inside": {str: (int, None)}, "later?": int}


def file(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "file").write_bytes(data)
    return tmp_path / "file"


def refused(read, *words: str) -> None:
    with pytest.raises(Damaged) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_json_of_the_expected_form_is_read(tmp_path):
    assert read_json(file(tmp_path, json.dumps(GOOD_JSON).encode()), FORM) == GOOD_JSON
    assert read_json(file(tmp_path, b"-9223372036854775808")) == -(2**63)
    assert np.isnan(read_json(file(tmp_path, b'{"a": NaN}'), {"a": float}, nan=True)["a"])


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "JSON"),
        (b'{"name": "a"', "JSON"),
        (b"\xff\xfe\x00", "JSON"),
        (b'"\xed\xa0\x80"', "JSON"),  # half of a surrogate pair, which UTF-8 does not allow
        (b"[" * 100_000 + b"]" * 100_000, "nested"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested"),
        (b"[" * 50 + b"]" * 50, "nested more than 32"),
        (b'{"name": "a", "name": "b"}', "'name' occurs twice"),
        (b"NaN", "finite number"),
        (b"1e999", "finite number"),
        (b"-Infinity", "finite number"),
        (b"9" * 5000, "too large"),
        (b"9223372036854775808", "too large"),
        (b"[]", "an object"),
        (b'{"name": 3, "numbers": [], "inside": {}}', "name should be a string"),
        (b'{"name": "", "numbers": [], "inside": []}', "inside should be an object"),
        (b'{"name": "", "numbers": [true], "inside": {}}', "numbers[0] should be a number"),
        (b'{"name": "", "numbers": [], "inside": {"x": 1.5}}', "inside.x should be a whole number or null"),
        (b'{"name": "", "numbers": []}', "inside is missing"),
        (b'{"name": "", "numbers": [], "inside": {}, "later": "x"}', "later should be a whole number"),
        (b" " * 2**24 + b"{}", "too many"),
    ],
)
def test_json_of_another_form_is_refused(tmp_path, data, words):
    refused(lambda: read_json(file(tmp_path, data), FORM), str(tmp_path / "file"), words)


def test_bad_json_text_raises_one_kind_of_error():
    for text in ("[" * 100_000, "{", "NaN", '{"a": 1, "a": 2}'):
        with pytest.raises(ValueError):
            parse_json(text)


ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones((3, 4), np.uint8), "id": np.array("text")}
FORMS = {"a": Array(np.float32, ("N", 3)), "b": Array(np.uint8, (3, None)), "id": Array(str)}


def npz(**arrays) -> bytes:
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    return data.getvalue()


def npy(descr: str, shape, data: bytes = b"", by_column: bool = False) -> bytes:
    head = f"{{'descr': {descr}, 'fortran_order': {by_column}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


def archive(entries: dict[str, bytes], compression=zipfile.ZIP_DEFLATED) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", compression) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return data.getvalue()


def test_arrays_of_the_expected_form_are_read(tmp_path):
    path = file(tmp_path, npz(**ARRAYS, other=np.zeros(3)))
    found = read_arrays(path, FORMS | {"c": Array(np.uint8, (1,))}, optional=("c",))
    assert found.keys() == ARRAYS.keys() and found["id"] == "text"
    for name in "ab":
        np.testing.assert_array_equal(found[name], ARRAYS[name], strict=True)
    by_column = file(tmp_path, archive({"a.npy": npy("'<f4'", (2, 3), ARRAYS["a"].T.tobytes(), True)}))
    np.testing.assert_array_equal(read_arrays(by_column, {"a": FORMS["a"]})["a"], ARRAYS["a"])


@pytest.mark.parametrize(
    "change, words",
    [
        ({"a": np.zeros((2, 3))}, "'a' is of the type float64, not float32"),
        ({"a": np.zeros((2, 4), np.float32)}, "'a' has the shape (2, 4)"),
        ({"a": np.zeros((2,), np.float32)}, "'a' has the shape (2,)"),
        ({"a": np.float32([[0, np.nan, 0]])}, "'a' has numbers that are not finite"),
        ({"a": np.float32([[0, np.inf, 0]])}, "'a' has numbers that are not finite"),
        ({"a": np.zeros((2, 3), ">f4")}, "'a' is of the type >f4"),
        ({"a": np.zeros((2, 3), [("x", "f4")])}, "'a' is of the type"),
        ({"id": np.array(3)}, "'id' is of the type int64"),
        ({"id": np.array(["x", "y"])}, "'id' has the shape (2,)"),
    ],
)
def test_arrays_of_another_form_are_refused(tmp_path, change, words):
    refused(lambda: read_arrays(file(tmp_path, npz(**ARRAYS | change)), FORMS), str(tmp_path / "file"), words)


def test_a_name_in_shapes_stands_for_one_number(tmp_path):
    square = {"a": Array(np.float32, ("N", "N")), "b": Array(np.float32, ("N",))}
    good = npz(a=np.zeros((2, 2), np.float32), b=np.zeros(2, np.float32))
    assert read_arrays(file(tmp_path, good), square)["b"].shape == (2,)
    refused(lambda: read_arrays(tmp_path / "file", square, sizes={"N": 3}), "'a' has the shape (2, 2), not (3, 3)")
    for a, b in (((2, 3), 2), ((2, 2), 3)):
        bad = npz(a=np.zeros(a, np.float32), b=np.zeros(b, np.float32))
        refused(lambda: read_arrays(file(tmp_path, bad), square), "has the shape")  # noqa: B023


def bombs() -> dict[str, bytes]:
    """Return files of arrays that would need huge memory, would run code, or cannot be read."""
    good = npy("'<f4'", (2, 3), bytes(24))
    encrypted = bytearray(archive({"a.npy": good}))
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[encrypted.index(mark) + place] |= 1
    lying = bytearray(archive({"a.npy": npy("'<f4'", (10**9, 3), bytes(24))}))
    sizes = (lying.index(b"PK\x03\x04") + 22, lying.index(b"PK\x01\x02") + 24)
    for place in sizes:
        lying[place : place + 4] = struct.pack("<I", 2**32 - 2)
    twice = io.BytesIO()
    with pytest.warns(UserWarning), zipfile.ZipFile(twice, "w") as both:
        both.writestr("a.npy", good)
        both.writestr("a.npy", good)
    return {
        "10^12 numbers": archive({"a.npy": npy("'<f4'", (10**12, 3))}),
        "10^12 numbers and a size to match": bytes(lying),
        "zeros without end": archive({"a.npy": npy("'<f4'", (2**20, 3), bytes(2**20 * 12 + 1))}),
        "fewer bytes": archive({"a.npy": npy("'<f4'", (2, 3), bytes(20))}),
        "negative": archive({"a.npy": npy("'<f4'", (-2, 3), bytes(24))}),
        "none by too many": archive({"a.npy": npy("'<f4'", (0, 3), bytes(24))}),
        "objects": archive({"a.npy": npy("'|O'", (2, 3), b"cos\nsystem\n(S'false'\ntR.")}),
        "a deep header": archive({"a.npy": npy("'<f4'", "(" * 9000 + ")" * 9000)}),
        "a long header": archive({"a.npy": npy("'<f4'", "(2,3)" + " " * 60000)}),
        "a header that is a program": archive({"a.npy": npy("__import__('os').system('false')", (2, 3))}),
        "a version to come": archive({"a.npy": b"\x93NUMPY\x09" + good[7:]}),
        "no array": archive({"a.npy": b"text"}),
        "another compression": archive({"a.npy": good}, zipfile.ZIP_LZMA),
        "bzip2": archive({"a.npy": good}, zipfile.ZIP_BZIP2),
        "encrypted": bytes(encrypted),
        "elsewhere": archive({"../a.npy": good, "x/a.npy": good, "/a.npy": good}),
        "twice": twice.getvalue(),
        "no archive": b"PK\x03\x04 no zip",
        "empty": b"",
    }


def test_harmful_files_of_arrays_are_refused(tmp_path):
    for data in bombs().values():
        refused(lambda: read_arrays(file(tmp_path, data), {"a": FORMS["a"]}))  # noqa: B023


def test_damaged_files_of_arrays_are_refused_or_read_correctly(tmp_path):
    whole = npz(**ARRAYS)
    for n in range(0, len(whole), 7):
        refused(lambda: read_arrays(file(tmp_path, whole[:n]), FORMS))  # noqa: B023
    for n in range(0, len(whole), 3):
        flipped = bytearray(whole)
        flipped[n] ^= 1 << (n % 8)
        try:
            found = read_arrays(file(tmp_path, bytes(flipped)), FORMS)
        except Damaged:
            continue
        np.testing.assert_array_equal(found["a"], ARRAYS["a"])


TENSORS = {"net/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "net/bias": np.float16([1, 2])}
WANTED = {name: a.shape for name, a in TENSORS.items()}


def test_tensors_of_the_expected_shapes_are_read_as_float32(tmp_path):
    found = read_tensors(file(tmp_path, safetensors.numpy.save(TENSORS, {"config": "{}"})))
    assert found.metadata == {"config": "{}"} and found.shapes == WANTED
    for name, array in found.read(WANTED).items():
        np.testing.assert_array_equal(array, TENSORS[name].astype(np.float32), strict=True)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"net/more": np.zeros(2, np.float32)}, "'net/more' is [2]; there should be none of this name"),
        ({"net/bias": np.zeros(3, np.float32)}, "'net/bias' is [3]; it should be [2]"),
        ({"net/bias": np.float32([1, np.nan])}, "'net/bias' has numbers that are not finite"),
        ({"net/bias": np.float16([1, np.inf])}, "'net/bias' has numbers that are not finite"),
        ({"net/bias": np.zeros(2, np.int64)}, "'net/bias' is of the type I64"),
    ],
)
def test_tensors_of_another_form_are_refused_and_named(tmp_path, change, words):
    path = file(tmp_path, safetensors.numpy.save(TENSORS | change))
    refused(lambda: read_tensors(path).read(WANTED), words)


def test_missing_tensors_and_damaged_files_of_tensors_are_refused(tmp_path):
    path = file(tmp_path, safetensors.numpy.save({"net/bias": TENSORS["net/bias"]}))
    refused(lambda: read_tensors(path).read(WANTED), "'net/kernel' is missing; it should be [2, 3]")
    whole = safetensors.numpy.save(TENSORS)
    deep = b'{"a":' * 50_000 + b"1" + b"}" * 50_000
    for data in (*(whole[:n] for n in range(0, len(whole), 5)), struct.pack("<Q", 2**62) + whole[8:]):
        refused(lambda: read_tensors(file(tmp_path, data)))  # noqa: B023
    refused(lambda: read_tensors(file(tmp_path, struct.pack("<Q", len(deep)) + deep)))


def png(tmp_path: Path) -> bytes:
    save_png(tmp_path / "made.png", Image.new("RGB", (3, 2)), "x̂ of an image")
    return (tmp_path / "made.png").read_bytes()


def test_the_caption_of_a_picture_of_any_size_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)  # Pillow would refuse this picture as too large
    data = png(tmp_path)
    assert read_png(file(tmp_path, data)) == (data, "x̂ of an image")
    for n in range(0, data.index(b"IDAT"), 3):
        refused(lambda: read_png(file(tmp_path, data[:n])))  # noqa: B023


def test_harmful_pictures_are_refused(tmp_path):
    whole = png(tmp_path)
    bomb = b"Description\0\0" + zlib.compress(bytes(2**27))
    chunk = struct.pack(">I", len(bomb)) + b"zTXt" + bomb + struct.pack(">I", zlib.crc32(b"zTXt" + bomb))
    place = whole.index(b"IDAT") - 4
    refused(lambda: read_png(file(tmp_path, whole[:place] + chunk + whole[place:])))
    for other in (b"", b"GIF89a" + bytes(100), b"\x89PNG\r\n\x1a\n" + bytes(50)):
        refused(lambda: read_png(file(tmp_path, other)))  # noqa: B023


def test_a_path_that_is_no_regular_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    readers = [read_json, read_png, read_tensors, lambda path: read_arrays(path, FORMS)]
    done = threading.Event()
    threading.Timer(20, lambda: done.is_set() or os._exit(3)).start()
    for name in ("pipe", "folder", "loop", "nothing", "nothing/below"):
        for read in readers:
            refused(lambda: read(tmp_path / name), str(tmp_path / name))  # noqa: B023
    done.set()


def test_of_several_that_write_one_file_each_writes_a_whole_one(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as on several machines
    with replacing(tmp_path / "a") as first, replacing(tmp_path / "a") as second:
        first.write_text("whole")
        second.write_text("whole")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a") as third:
        third.write_text("half")
        raise KeyboardInterrupt
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "whole")]
