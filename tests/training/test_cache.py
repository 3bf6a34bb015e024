"""The cache of decoded folders: nothing is decoded twice, and the right pixels come of it."""

import errno
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lrtune.core.errors import DataError
from lrtune.training.native.data.datasets import cache, folder, load_dataset
from lrtune.training.native.data.rows import Rows


@pytest.fixture
def root(tmp_path):
    """Random images of two classes, 12 x 12: 20 to train on and 6 for validation."""
    generator = np.random.default_rng(0)
    for name, count in {"train/cat": 12, "train/dog": 8, "val/cat": 3, "val/dog": 3}.items():
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(256, size=(12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path / "images"


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The cache's folder; sets of any size are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "MIN_BYTES", 0)
    return tmp_path / "cache" / "lrtune" / "decoded"


@pytest.fixture
def num_decoded(monkeypatch):
    """How many images were decoded since it was asked for last."""
    decoded, decode = [], folder.decode
    monkeypatch.setattr(
        folder, "decode", lambda path, **how: decoded.append(path) or decode(path, **how)
    )

    def count():
        number = len(decoded)
        decoded.clear()
        return number

    return count


def load(root, **options):
    return load_dataset(f"folder:{root}", **options)


def uncached(root, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "MIN_BYTES", 10**12)
        return load(root, **options)


def assert_same(one, other):
    """To the last bit."""
    for split, twin in ((one.train, other.train), (one.validation, other.validation)):
        assert torch.equal(split.images[:], twin.images[:])
        assert torch.equal(split.labels, twin.labels)
        assert (split.mean, split.std) == (twin.mean, twin.std)


@pytest.mark.parametrize("options", [{}, {"image_size": 7}, {"train_size": 9, "val_size": 4}])
def test_the_second_time_nothing_is_decoded(root, kept, num_decoded, options):
    first = load(root, **options)
    assert num_decoded() == 26
    second = load(root, **options)
    assert num_decoded() == 0
    assert len(list(kept.iterdir())) == 2
    for splits in (first, second):
        assert_same(splits, uncached(root, **options))


def test_a_folder_without_splits_of_its_own_is_kept_whole(root, kept, num_decoded):
    whole = root / "train"
    one, other = load(whole), load(whole, val_size=5)
    assert num_decoded() == 20
    assert (len(one.validation), len(other.validation)) == (2, 5)
    assert_same(one, uncached(whole))
    assert_same(other, uncached(whole, val_size=5))


def test_what_is_kept_is_mapped_once_for_all_splits(root, kept):
    splits = load(root / "train")
    assert isinstance(splits.train.images, Rows)
    assert splits.train.images.base.data_ptr() == splits.validation.images.base.data_ptr()


def _time(path):
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))


def _size(path):
    stat = path.stat()
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _name(path):
    path.rename(path.with_name("renamed.png"))


def _number(path):
    shutil.copy2(path, path.with_name("copy.png"))


def _pixels(path):
    Image.new("RGB", (12, 12), (1, 2, 3)).save(path)


@pytest.mark.parametrize("change", [_time, _size, _name, _number, _pixels])
def test_a_folder_that_changed_is_decoded_again(root, kept, num_decoded, change):
    load(root)
    num_decoded()
    change(root / "train" / "dog" / "3.png")
    splits = load(root)
    assert num_decoded() == len(splits.train)  # and the validation images are as they were
    assert_same(splits, uncached(root))


def test_sizes_and_decoders_do_not_mix(root, kept, num_decoded, monkeypatch):
    for size in (6, 7):
        assert load(root, image_size=size).train.images.shape[2:] == (size, size)
        assert num_decoded() == 26
    monkeypatch.setattr(folder, "DECODING", folder.DECODING + 1)
    load(root, image_size=6)
    assert num_decoded() == 26


def test_a_copy_of_a_folder_is_not_decoded_again(root, kept, num_decoded):
    load(root)
    num_decoded()
    copy = shutil.copytree(root, root.with_name("copy"))
    splits = load(copy)
    assert num_decoded() == 0
    assert_same(splits, uncached(copy))


def _npy(array):
    def write(path):
        with path.open("wb") as file:
            np.save(file, array, allow_pickle=True)

    return write


class Poison:
    """Its unpickling would leave a trace."""

    def __reduce__(self):
        return Path.touch, (Path("unpickled"),)


SHAPE = (20, 3, 12, 12)

# what happened to a file of the cache
DAMAGES = [
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(path.read_bytes()[:-1]),
    lambda path: path.write_bytes(path.read_bytes()[:60]),
    lambda path: path.write_bytes(path.read_bytes()[:10] + b"{[(" + path.read_bytes()[13:]),
    lambda path: path.write_bytes(pickle.dumps(Poison())),
    _npy(np.array([Poison()], dtype=object)),
    _npy(np.zeros((19, 3, 12, 12), np.uint8)),
    _npy(np.zeros(SHAPE, np.int8)),
    _npy(np.zeros(SHAPE[::-1], np.uint8).T),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_not_used_but_replaced(
    root, kept, num_decoded, damage, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    load(root / "train")
    num_decoded()
    (path,) = kept.iterdir()
    damage(path)
    assert_same(load(root / "train"), uncached(root / "train"))
    assert num_decoded() == 40
    load(root / "train")
    assert num_decoded() == 0
    assert not (tmp_path / "unpickled").exists()


def _a_file_in_the_way(kept, monkeypatch):
    kept.parent.parent.write_text("no folder")


def _full_disk(kept, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0))


def _disk_that_fills(kept, monkeypatch):
    def no_space(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)


def _no_home(kept, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)


@pytest.mark.parametrize("obstacle", [_a_file_in_the_way, _full_disk, _disk_that_fills, _no_home])
def test_where_nothing_can_be_kept_all_is_decoded_each_time(
    root, kept, num_decoded, monkeypatch, obstacle
):
    obstacle(kept, monkeypatch)
    assert_same(load(root / "train"), uncached(root / "train"))
    num_decoded()
    load(root / "train")
    assert num_decoded() >= 20
    assert not kept.is_dir() or list(kept.iterdir()) == []


@pytest.mark.parametrize(
    "damage", [lambda path: path.write_bytes(b"no image"), lambda path: path.unlink()]
)
def test_of_a_damaged_image_nothing_is_kept(root, kept, damage):
    path = root / "train" / "dog" / "7.png"
    path.with_name("8.png").symlink_to(path)
    damage(path)
    with pytest.raises(DataError, match=r"(?s)may be unreadable, but got [12]\..*8\.png: "):
        load(root, image_size=12)
    assert list(kept.glob("**/*.npy")) == []


def test_small_folders_are_not_kept(root, kept, monkeypatch):
    monkeypatch.setattr(cache, "MIN_BYTES", 20 * 3 * 12 * 12 + 1)
    load(root)
    assert not kept.exists()
    monkeypatch.setattr(cache, "MIN_BYTES", 20 * 3 * 12 * 12)
    load(root)
    assert len(list(kept.iterdir())) == 1  # the training images


def test_without_a_cache_folder_of_its_own_it_lies_below_home(root, kept, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    load(root)
    assert len(list((tmp_path / "home" / ".cache" / "lrtune" / "decoded").iterdir())) == 2
