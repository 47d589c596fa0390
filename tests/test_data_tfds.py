"""Data sets of tfds are read as they were prepared. If one is not prepared, the error says how to prepare it."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tests.loading import data_config, load_error
from tests.pictures import noise
from vaedm_jax import data


def prepare(root: Path, features: dict, splits: dict[str, list[dict]]) -> None:
    """Prepare a data set named 'tiny_set' under `root`."""

    class TinySet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        code_path = None

        def _info(self):
            features_dict = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features_dict, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {name: enumerate(examples) for name, examples in splits.items()}

        def _generate_examples(self): ...

    TinySet(data_dir=root, file_format="array_record").download_and_prepare()


PNG = {"image": tfds.features.Image(encoding_format="png")}


def png_examples(count: int, size: int = 8) -> list[dict]:
    return [{"image": noise(size, i)} for i in range(count)]


@pytest.mark.parametrize("held_out_split", ["test", "validation"])
def test_a_test_or_validation_split_is_held_out(tmp_path, held_out_split):
    prepare(tmp_path, PNG, {"train": png_examples(6), held_out_split: png_examples(2)})
    dataset = data.load(data_config(source="tiny_set", tfds_dir=str(tmp_path), image_size=8))
    assert dataset.name == "tiny_set"
    assert (len(dataset.train), len(dataset.test)) == (6, 2)
    np.testing.assert_array_equal(dataset.train[5], noise(8, 5))


def test_a_share_of_train_is_held_out_if_it_is_the_only_split(tmp_path):
    prepare(tmp_path, PNG, {"train": png_examples(40)})
    dataset = data.load(data_config(source="tiny_set", tfds_dir=str(tmp_path), image_size=8, held_out=0.25))
    sides = [{image.tobytes() for image in side} for side in (dataset.train, dataset.test)]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == {noise(8, i).tobytes() for i in range(40)}
    assert 3 <= len(sides[1]) <= 20


def test_images_of_tfds_may_have_any_size_and_be_grey(tmp_path):
    grey = {"image": tfds.features.Image(shape=(None, None, 1), encoding_format="png")}
    examples = [{"image": Image.new("L", (10 + i, 30), 60 + i)} for i in range(4)]
    prepare(tmp_path, grey, {"train": examples, "test": examples})
    dataset = data.load(data_config(source="tiny_set", tfds_dir=str(tmp_path), image_size=8))
    for i in range(4):
        np.testing.assert_array_equal(dataset.train[i], np.full((8, 8, 3), 60 + i))


def test_a_data_set_without_images_is_an_error_that_names_its_features(tmp_path):
    features = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}
    prepare(tmp_path, features, {"train": [{"text": "a", "label": 0}]})
    message = load_error(source="tiny_set", tfds_dir=str(tmp_path))
    assert "no feature 'image'" in message and "text" in message and "label" in message


def test_a_feature_image_of_another_type_is_an_error(tmp_path):
    features = {"image": tfds.features.Tensor(shape=(2,), dtype=np.int64)}
    prepare(tmp_path, features, {"train": [{"image": np.zeros(2, np.int64)}]})
    assert "Tensor" in load_error(source="tiny_set", tfds_dir=str(tmp_path))


def test_a_data_set_without_a_train_split_is_an_error(tmp_path):
    prepare(tmp_path, PNG, {"test": png_examples(2)})
    assert "no split 'train', only test" in load_error(source="tiny_set", tfds_dir=str(tmp_path))


def test_a_data_set_without_random_access_is_an_error_that_says_how_to_prepare_it(tmp_path):
    prepare(tmp_path, PNG, {"train": png_examples(2)})
    for path in tmp_path.glob("tiny_set/1.0.0/*"):  # renamed, since only TensorFlow can write tfrecord files
        if path.name == "dataset_info.json":
            path.write_text(path.read_text().replace("array_record", "tfrecord"))
        path.rename(path.with_name(path.name.replace("array_record", "tfrecord")))
    message = load_error(source="tiny_set", tfds_dir=str(tmp_path))
    assert "--file_format=array_record" in message


def test_a_data_set_that_is_not_prepared_is_an_error_that_says_how_to_prepare_it(tmp_path):
    message = load_error(source="mnist", tfds_dir=str(tmp_path))
    assert "not prepared" in message and "tfds build mnist --file_format=array_record" in message


@pytest.mark.parametrize("name", ["no_such_set", "mnist:9.9.9", "mnist/no_such_config", "!", ""])
def test_an_unknown_name_is_an_error_that_says_what_to_give(tmp_path, name):
    message = load_error(source=name, tfds_dir=str(tmp_path))
    assert repr(name) in message and "data.path" in message


def foreign(root: Path, change) -> Path:
    """Prepare a data set, rewrite its features.json by `change`, and return its folder."""
    prepare(root, PNG, {"train": png_examples(6)})
    (folder,) = root.glob("tiny_set/*")
    file = folder / "features.json"
    file.write_text(change(file.read_text()))
    return folder


def test_code_named_in_the_files_of_a_data_set_is_not_run(tmp_path, monkeypatch):
    (tmp_path / "payload_of_files.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    image = "tensorflow_datasets.core.features.image_feature.Image"
    folder = foreign(tmp_path / "sets", lambda text: text.replace(image, "payload_of_files.Image"))
    for settings in ({"path": str(folder)}, {"source": "tiny_set", "tfds_dir": str(tmp_path / "sets")}):
        message = load_error(**settings, image_size=8)
        assert "payload_of_files.Image" in message and not (tmp_path / "ran").exists()


def test_records_on_the_network_are_not_fetched(tmp_path):
    folder = foreign(tmp_path, lambda text: text)
    info = folder / "dataset_info.json"
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    assert template in info.read_text()
    info.write_text(info.read_text().replace(template, "/gs/bucket/" + template))
    assert "elsewhere (gs://bucket" in load_error(path=str(folder), image_size=8)


def test_a_user_without_a_home_is_asked_for_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vaedm_jax.data.tfds_sets.DEFAULT_DIR", "~nobody_of_this_name/tensorflow_datasets")
    assert "data.tfds_dir: ~nobody_of_this_name" in load_error(source="mnist", tfds_dir="")
    assert not list(tmp_path.iterdir())
