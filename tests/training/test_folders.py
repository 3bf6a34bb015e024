"""Folders of images: what is taken for what, which pixels come of it, and what is left out."""

import os
import re
import struct
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, features

from lrtune.core.errors import DataError, InputError
from lrtune.core.sources import NamedTask
from lrtune.training.native.data.datasets import cache, load_dataset
from lrtune.training.native.data.datasets.listing import list_images, splits_of
from lrtune.training.native.data.datasets.pixels import formats, suffixes
from lrtune.training.task import describe_source, source_from

RED = (200, 30, 30)


def picture(path, colour=RED, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def pictures(root, counts):
    """So many images of each folder; returns the root."""
    for number, (folder, count) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            picture(root / folder / f"{index:03}.png", (10 * number, index % 256, 0))
    return root


def load(root, **options):
    return load_dataset(f"folder:{root}", **options)


def per_class(listing):
    """How many images each split has of each class."""
    return {
        split: Counter(listing.classes[label] for _, label in files)
        for split, files in listing.files.items()
    }


def left_out(root):
    """Of each reason, the names."""
    return {
        reason: sorted(path.relative_to(root).as_posix() for path in paths)
        for reason, paths in list_images(root).left_out.items()
    }


# --- the names of splits

# folders side by side: what each of them is, `t` for train, `v` for validation, `e` for test and
# `-` for none
NAMES = [
    ("train val test", "tve"),
    ("TRAIN Valid TESTING", "tve"),
    ("Training Validation Eval", "tve"),
    ("training dev evaluation", "tve"),
    ("seg_train seg_test", "te"),
    ("seg_train seg_test seg_pred", "te-"),
    ("train2017 val2017", "tv"),
    ("training_set test_set", "te"),
    ("trainset testset devset", "tev"),
    ("TrainImages TestImages", "te"),
    ("ILSVRC2012_img_train ILSVRC2012_img_val", "tv"),
    ("my-data.train my-data.dev", "tv"),
    ("01_train 02_val 03_test", "tve"),
    ("train_set test_images", "te"),
    ("train_set test_images notes", "---"),
    ("training_data", "t"),
    ("train annotations", "t-"),
    ("cat dog", "--"),
    ("car train bus", "-t-"),
    ("test_tube beaker flask", "---"),
    ("test_tube train_station airport", "---"),
    ("trainers testers sandals", "---"),
    ("contest festival", "--"),
    ("train_cats train_dogs", "--"),
    ("train_cats train_dogs test_cats test_dogs", "ttee"),
    ("trainA trainB testA testB", "ttee"),
    ("strained attested", "--"),
    ("", ""),
]


@pytest.mark.parametrize(("names", "kinds"), NAMES)
def test_splits_are_known_by_their_names(names, kinds):
    words = {"t": "train", "v": "validation", "e": "test"}
    expected = {
        name: words[kind] for name, kind in zip(names.split(), kinds, strict=True) if kind != "-"
    }
    assert splits_of(names.split()) == expected


# --- what lies where

# images of each folder: images of each split and class that are found
LAYOUTS = {
    "splits": (
        {"train/a": 3, "train/b": 2, "val/a": 1, "test/b": 1},
        {"train": {"a": 3, "b": 2}, "validation": {"a": 1}, "test": {"b": 1}},
    ),
    "splits with a common prefix": (
        {"seg_train/a": 2, "seg_train/b": 2, "seg_test/a": 1, "seg_test/b": 1, "seg_pred": 4},
        {"train": {"a": 2, "b": 2}, "test": {"a": 1, "b": 1}},
    ),
    "splits in folders of their own names": (
        {"seg_train/seg_train/a": 2, "seg_train/seg_train/b": 2, "seg_test/seg_test/a": 1},
        {"train": {"a": 2, "b": 2}, "test": {"a": 1}},
    ),
    "capitals": (
        {"Training/A": 2, "Training/b": 2, "VALIDATION/A": 1},
        {"train": {"A": 2, "b": 2}, "validation": {"A": 1}},
    ),
    "training images alone": ({"train/a": 2, "train/b": 2}, {"train": {"a": 2, "b": 2}}),
    "classes": ({"a": 2, "b": 3}, {"train": {"a": 2, "b": 3}}),
    "a class called train": (
        {"car": 2, "train": 3, "bus": 1}, {"train": {"bus": 1, "car": 2, "train": 3}},
    ),
    "a class called test": ({"pill": 2, "test": 3}, {"train": {"pill": 2, "test": 3}}),
    "folders within classes": (
        {"a/x/y": 2, "a/z": 1, "a": 1, "b/x": 3}, {"train": {"a": 4, "b": 3}},
    ),
    "blanks and letters of all kinds": (
        {"die Möwe": 2, "a  b": 1, "猫": 3}, {"train": {"a  b": 1, "die Möwe": 2, "猫": 3}},
    ),
    "test images without labels": (
        {"train/a": 2, "train/b": 2, "test": 5}, {"train": {"a": 2, "b": 2}},
    ),
    "a class without validation images": (
        {"train/a": 2, "train/b": 2, "val/a": 2, "val/b": 0},
        {"train": {"a": 2, "b": 2}, "validation": {"a": 2}},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("counts", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_images_are_found_where_people_have_them(tmp_path, counts, expected):
    listing = list_images(pictures(tmp_path, counts))
    assert per_class(listing) == expected
    assert listing.classes == tuple(sorted(expected["train"]))


# images of each folder: what is said
REFUSED = {
    "no training images": (
        {"val/a": 1, "val/b": 1, "test/a": 1},
        "{root} must hold a folder for training (train, training) beside test, val, but it holds "
        "none.",
    ),
    "classes beside a split of them": (
        {"a": 2, "b": 2, "val/a": 1, "val/b": 1},
        "{root} must hold a folder for training (train, training) beside val, but it holds none.",
    ),
    "two for one split": (
        {"train/a": 1, "train/b": 1, "val/a": 1, "valid/a": 1},
        "{root} must hold one folder for validation, but it holds 2: val, valid.",
    ),
    "splits of classes": (
        {"train_cats": 2, "train_dogs": 2, "test_cats": 1, "test_dogs": 1},
        "{root} must hold one folder for train, but it holds 2: train_cats, train_dogs.\n"
        "{root} must hold one folder for test, but it holds 2: test_cats, test_dogs.",
    ),
    "splits within classes": (
        {"a/train": 2, "a/test": 2, "b/train": 2, "b/test": 2},
        "{root}/a must hold classes or their images, as in PATH/train/CLASS/*, but it holds only "
        "splits: test, train.\n"
        "{root}/b must hold classes or their images, as in PATH/train/CLASS/*, but it holds only "
        "splits: test, train.",
    ),
    "splits within a split": (
        {"train/train/a": 2, "train/val/a": 2, "test/a": 1},
        "{root}/train must hold classes or their images, as in PATH/train/CLASS/*, but it holds "
        "only splits: train, val.",
    ),
    "training images in no class": (
        {"train": 5, "test": 5},
        "{root}/train must hold a folder for each of 2 classes or more, but it holds 0.",
    ),
    "one folder within": (
        {"archive/train/a": 2, "archive/train/b": 2},
        "{root} must hold a folder for each of 2 classes or more, but it holds 1: archive.",
    ),
    "classes of validation alone": (
        {"train/a": 2, "train/b": 2, "val/a": 1, "val/z": 1, "test/y": 1},
        "{root}/val must hold classes of train, but got ['z'].\n"
        "{root}/test must hold classes of train, but got ['y'].",
    ),
    "empty classes": (
        {"train/a": 2, "train/b": 0, "train/c": 0, "val/a": 0},
        "{root}/train must hold images (by a suffix that Pillow reads) in each folder, but some "
        "have none of their own: b, c.\n"
        "{root}/val must hold images (by a suffix that Pillow reads) in each folder, but some have "
        "none of their own: a.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("counts", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_missing_is_said(tmp_path, counts, message):
    with pytest.raises(DataError) as caught:
        list_images(pictures(tmp_path, counts))
    assert str(caught.value) == message.format(root=tmp_path)


def test_what_is_hidden_is_skipped_at_every_level(tmp_path):
    pictures(tmp_path, {"train/a": 2, "train/b/deep": 2, "val/a": 1})
    for hidden in (
        ".git/a", "__MACOSX/train/a", "train/.ipynb_checkpoints", "train/b/.thumbs",
        "train/b/deep/@eaDir", "val/.cache",
    ):  # fmt: skip
        picture(tmp_path / hidden / "x.png")
    picture(tmp_path / "train/b/deep/._000.png")
    assert per_class(list_images(tmp_path)) == {"train": {"a": 2, "b": 2}, "validation": {"a": 1}}
    assert left_out(tmp_path) == {
        "hidden": sorted([
            ".git", "__MACOSX", "train/.ipynb_checkpoints", "train/b/.thumbs",
            "train/b/deep/@eaDir", "train/b/deep/._000.png", "val/.cache",
        ])
    }  # fmt: skip


def test_a_hidden_folder_that_is_named_is_read(tmp_path):
    listing = list_images(pictures(tmp_path / ".data" / "pictures", {"a": 2, "b": 1}))
    assert per_class(listing) == {"train": {"a": 2, "b": 1}}


def test_a_folder_with_the_name_of_an_image_is_a_folder(tmp_path):
    pictures(tmp_path, {"a": 1, "b": 1, "a/cat.jpg": 2, "b.png": 3})
    assert per_class(list_images(tmp_path)) == {"train": {"a": 3, "b": 1, "b.png": 3}}
    assert len(load(tmp_path).train) + len(load(tmp_path).validation) == 7


def test_what_is_no_image_or_in_no_class_is_left_out(tmp_path):
    pictures(tmp_path, {"train/a": 2, "train/b": 2, "test": 1, "extra": 4})
    picture(tmp_path / "train" / "loose.png")
    (tmp_path / "train" / "a" / "notes.txt").write_text("notes")
    (tmp_path / "train" / "b" / "film.mpg").write_bytes(b"film")
    (tmp_path / "train" / "b" / "Makefile").write_text("all:")
    assert left_out(tmp_path) == {
        "beside the splits": ["extra"],
        "without class folders": ["test"],
        "in no class folder": ["test/000.png", "train/loose.png"],
        "without the suffix of an image": [
            "train/a/notes.txt", "train/b/Makefile", "train/b/film.mpg",
        ],
    }  # fmt: skip


# --- links


def test_linked_folders_are_followed_once(tmp_path):
    root = pictures(tmp_path / "root", {"a": 2, "b/deep": 3, "c": 1})
    elsewhere = pictures(tmp_path / "elsewhere", {"inner": 4})
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "a" / "theirs").symlink_to(root / "b" / "deep")
    (root / "c" / "more").symlink_to(elsewhere)
    (root / "c" / "again").symlink_to(elsewhere / "inner")
    (elsewhere / "back").symlink_to(root / "c")
    (root / "a" / "ring.png").symlink_to("ring.png")
    assert per_class(list_images(root)) == {"train": {"a": 3, "b": 3, "c": 5}}
    linked = left_out(root)["linked to what is read already"]
    assert linked == ["a/loop", "a/self", "a/theirs", "c/more/back", "c/more/inner"]


def test_splits_and_classes_may_be_links(tmp_path):
    elsewhere = pictures(tmp_path / "elsewhere", {"one": 3, "two": 2, "held_out/a": 2})
    root = tmp_path / "root"
    (root / "train").mkdir(parents=True)
    (root / "train" / "a").symlink_to(elsewhere / "one")
    (root / "train" / "b").symlink_to(elsewhere / "two")
    (root / "val").symlink_to(elsewhere / "held_out")
    assert per_class(list_images(root)) == {"train": {"a": 3, "b": 2}, "validation": {"a": 2}}
    splits = load(tmp_path / "root")
    assert (len(splits.train), len(splits.validation)) == (5, 2)
    linked = tmp_path / "linked"
    linked.symlink_to(root)
    assert len(load(linked).train) == 5


def test_the_training_images_are_not_taken_for_another_split(tmp_path):
    pictures(tmp_path, {"train/a": 2, "train/b": 2})
    (tmp_path / "val").symlink_to(tmp_path / "train")
    assert per_class(list_images(tmp_path)) == {"train": {"a": 2, "b": 2}}
    assert left_out(tmp_path) == {"linked to what is read already": ["val"]}


def test_the_folder_itself_is_not_one_of_its_splits(tmp_path):
    pictures(tmp_path, {"val/a": 2, "val/b": 2})
    (tmp_path / "train").symlink_to(tmp_path)
    with pytest.raises(
        DataError, match=r"train must hold .*, but it holds only splits: train, val"
    ):
        list_images(tmp_path)


def test_one_folder_is_not_two_classes(tmp_path):
    pictures(tmp_path, {"b": 2})
    (tmp_path / "a").symlink_to(tmp_path / "b")
    with pytest.raises(DataError, match="some have none of their own: a"):
        list_images(tmp_path)


def test_a_study_goes_on_with_the_same_images_alone(tmp_path):
    pictures(tmp_path, {"a": 2, "b": 2})
    source = NamedTask(data=f"folder:{tmp_path}", strict=True)
    described = describe_source(source)
    (tmp_path / ".hidden").mkdir()
    picture(tmp_path / ".hidden" / "x.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert source_from(described) == NamedTask(data=f"folder:{tmp_path}")
    (tmp_path / "a" / "broken.png").symlink_to(tmp_path / "nothing")
    with pytest.raises(InputError, match="has changed since the study began"):
        source_from(described)


# --- formats and pixels

FORMATS = {
    "gif": "GIF", "jfif": "JPEG", "JPG": "JPEG", "jpe": "JPEG", "tif": "TIFF", "TIFF": "TIFF",
    "webp": "WEBP", "avif": "AVIF", "jp2": "JPEG2000", "j2k": "JPEG2000", "bmp": "BMP",
    "ppm": "PPM", "png": "PNG", "apng": "PNG", "tga": "TGA", "ico": "ICO", "pcx": "PCX",
}  # fmt: skip


@pytest.mark.parametrize("suffix", FORMATS)
def test_images_of_all_formats_are_read(tmp_path, suffix):
    name = FORMATS[suffix]
    if not features.check(
        {"AVIF": "avif", "WEBP": "webp", "JPEG2000": "jpg_2000"}.get(name, "pil")
    ):
        pytest.skip(f"this Pillow has no {name}")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for number in range(2):
            Image.new("RGB", (16, 16), RED).save(tmp_path / folder / f"{number}.{suffix}", name)
    splits = load(tmp_path)
    assert (len(splits.train), len(splits.validation)) == (3, 1)
    assert splits.train.images.shape[1:] == (3, 16, 16)
    difference = splits.train.images.float() - torch.tensor(RED)[:, None, None]
    assert difference.abs().max() <= 6  # of the lossy ones


def test_what_pillow_opens_by_other_programs_is_no_image():
    known = suffixes(formats())
    assert known >= {".png", ".jpg", ".gif", ".jfif", ".tif"}
    assert not known & {".eps", ".ps", ".pdf", ".mpg", ".h5", ".wmf", ".txt"}


def test_the_suffix_need_not_be_that_of_the_format(tmp_path):
    picture(tmp_path / "a" / "0.png").rename(tmp_path / "a" / "0.jpg")
    picture(tmp_path / "b" / "0.png")
    assert len(load(tmp_path).train) == 1


def unsigned_32(path, values):
    """A TIFF of unsigned whole numbers, which Pillow reads and does not write."""
    Image.fromarray(values.astype(np.uint32).view(np.int32)).save(path)
    content = bytearray(path.read_bytes())
    place = content.index(struct.pack("<HHI", 339, 3, 1))  # SampleFormat, 1 short
    content[place + 8 : place + 10] = struct.pack("<H", 1)
    path.write_bytes(content)


def row(dtype, *values):
    """An image of one row and as many equal ones as there are values."""
    return np.tile(np.array(values, dtype), (len(values), 1))


def save(suffix, mode=None, **options):
    """Saves an array as an image of this format."""

    def write(path, array):
        image = Image.fromarray(array)
        if mode is not None:
            image = image.convert(mode)
        image.save(path.with_suffix(suffix), **options)

    return write


def big_endian(path, array):
    size = (array.shape[1], array.shape[0])
    Image.frombytes("I;16B", size, array.astype(">u2").tobytes()).save(path.with_suffix(".tif"))


def palette_with_transparency(path, array):
    image = Image.fromarray(array, "L").convert("P")
    image.putpalette([9, 9, 9, 200, 30, 30, 0, 0, 255, 0, 255, 0])
    image.save(path.with_suffix(".png"), transparency=bytes([0, 255, 0, 255]))


def palette_with_one_transparent(path, array):
    image = Image.fromarray(array, "L").convert("P")
    image.putpalette([9, 9, 9, 200, 30, 30, 0, 0, 255, 0, 255, 0])
    image.save(path.with_suffix(".gif"), transparency=2)


def alpha(mode, *pixels):
    def write(path, _):
        image = Image.new(mode, (len(pixels), len(pixels)))
        for x, pixel in enumerate(pixels):
            image.paste(pixel, (x, 0, x + 1, len(pixels)))
        image.save(path.with_suffix(".png"))

    return write


def frames(suffix):
    """An animation whose first frame is red."""

    def write(path, _):
        first, second = (Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 0, 255)))
        path = path.with_suffix(suffix)
        first.save(path, save_all=True, append_images=[second], lossless=True)

    return write


def cmyk(path, _):
    Image.new("CMYK", (4, 4), (255, 0, 0, 0)).save(path.with_suffix(".tif"))


# what is written, and how: the first row of pixels that comes of it, grey or (R, G, B)
PIXELS = {
    "16 bits": (row(np.uint16, 0, 257, 32896, 65535), save(".png"), [0, 1, 128, 255]),
    "16 bits, dark": (row(np.uint16, 0, 300, 4095, 4096), save(".png"), [0, 1, 16, 16]),
    "16 bits as TIFF": (row(np.uint16, 0, 257, 32896, 65535), save(".tif"), [0, 1, 128, 255]),
    "16 bits, big end first": (row(np.uint16, 0, 257, 32896, 65535), big_endian, [0, 1, 128, 255]),
    "16 bits as PGM": (row(np.uint16, 0, 257, 32896, 65535), save(".pgm"), [0, 1, 128, 255]),
    "16 bits as JPEG 2000": (row(np.uint16, 0, 257, 32896, 65535), save(".jp2"), [0, 1, 128, 255]),
    "16 bits, one transparent": (
        row(np.uint16, 0, 257, 32896, 65535), save(".png", transparency=257), [0, 255, 128, 255],
    ),
    "32 bits, signed": (
        row(np.int32, -(2**31), 0, 2**30, 2**31 - 1), save(".tif"), [0, 128, 191, 255],
    ),
    "32 bits, unsigned": (
        row(np.uint32, 0, 2**24, 2**31, 2**32 - 1),
        lambda path, array: unsigned_32(path.with_suffix(".tif"), array), [0, 1, 128, 255],
    ),
    "floats within 0 and 1": (row(np.float32, 0, 0.2, 0.6, 1), save(".tif"), [0, 51, 153, 255]),
    "dark floats": (row(np.float32, 0, 0.1, 0.2, 0.3), save(".tif"), [0, 26, 51, 76]),
    "floats as PFM": (row(np.float32, 0, 0.2, 0.6, 1), save(".pfm"), [0, 51, 153, 255]),
    "8 bits": (row(np.uint8, 0, 1, 128, 255), save(".png"), [0, 1, 128, 255]),
    "1 bit": (row(np.uint8, 0, 255, 0, 255), save(".png", "1"), [0, 255, 0, 255]),
    "CMYK": (None, cmyk, [(0, 255, 255)] * 4),
    "LA": (None, alpha("LA", (0, 0), (0, 255), (0, 128), (90, 255)), [255, 0, 127, 90]),
    "RGBA": (
        None, alpha("RGBA", (0, 0, 0, 0), (*RED, 255), (0, 0, 255, 51), (1, 2, 3, 255)),
        [(255, 255, 255), RED, (204, 204, 255), (1, 2, 3)],
    ),
    "palette": (
        row(np.uint8, 0, 1, 2, 3), palette_with_transparency,
        [(255, 255, 255), RED, (255, 255, 255), (0, 255, 0)],
    ),
    "palette of a GIF": (
        row(np.uint8, 0, 1, 2, 3), palette_with_one_transparent,
        [(9, 9, 9), RED, (255, 255, 255), (0, 255, 0)],
    ),
    "RGB with a transparent colour": (
        np.tile(np.array([RED, (0, 0, 0), RED, (1, 1, 1)], np.uint8), (4, 1, 1)),
        save(".png", transparency=(0, 0, 0)), [RED, (255, 255, 255), RED, (1, 1, 1)],
    ),
    "animated GIF": (None, frames(".gif"), [RED] * 4),
    "animated WebP": (None, frames(".webp"), [RED] * 4),
    "animated PNG": (None, frames(".png"), [RED] * 4),
    "turned by EXIF": (
        row(np.uint8, 10, 20, 30, 40).T, save(".png", exif=bytes.fromhex(
            "4d4d002a00000008000101120003000000010008000000000000"
        )), [10, 20, 30, 40],
    ),
    "16 bits, turned by EXIF": (
        row(np.uint16, 257, 514, 771, 1028).T, save(".png", exif=bytes.fromhex(
            "4d4d002a00000008000101120003000000010008000000000000"
        )), [1, 2, 3, 4],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("array", "write", "expected"), PIXELS.values(), ids=PIXELS)
def test_nothing_of_a_pixel_is_cut_off(tmp_path, array, write, expected):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "image", array)
    splits = load(tmp_path)
    assert splits.train.images.shape == (1, 3, 4, 4)
    pixels = splits.train.images[0][:, 1].T.tolist()  # those of a row
    wanted = [[value] * 3 if isinstance(value, int) else list(value) for value in expected]
    assert np.abs(np.array(pixels) - wanted).max() <= 1, (pixels, wanted)


def test_floats_have_one_range_for_the_whole_set(tmp_path):
    values = {"train/a": (-1, 0, 1), "train/b": (0, 0.5, 1), "val/a": (3, 3, 2)}
    for folder, numbers in values.items():
        (tmp_path / folder).mkdir(parents=True)
        save(".tif")(tmp_path / folder / "image", row(np.float32, *numbers))
    picture(tmp_path / "train" / "b" / "plain.png", (7, 7, 7), size=(3, 3))
    splits = load(tmp_path)
    rows = [image[0, 0].tolist() for image in splits.train.images]
    assert sorted(rows) == [[0, 64, 128], [7, 7, 7], [64, 96, 128]]
    assert splits.validation.images[0, 0, 0].tolist() == [255, 255, 191]
    assert splits.facts["Range of the floating-point images"] == "-1 to 3, scaled to 0 to 255"
    splits = load(tmp_path / "train")
    assert splits.facts["Range of the floating-point images"] == "-1 to 1, scaled to 0 to 255"


def test_floats_within_0_and_1_are_taken_as_they_are(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save(".tif")(tmp_path / folder / "image", row(np.float32, 0.2, 0.4, 0.6))
    splits = load(tmp_path)
    assert splits.train.images[0, 0, 0].tolist() == [51, 102, 153]
    assert "Range of the floating-point images" not in splits.facts


def test_images_of_mixed_sizes_get_one(tmp_path):
    for number, size in enumerate([(8, 20), (12, 12), (40, 30), (12, 13)]):
        picture(tmp_path / "ab"[number % 2] / f"{number}.png", size=size)
    splits = load(tmp_path)
    assert splits.train.images.shape[1:] == (3, 12, 12)
    assert splits.facts["Image size"] == "12 x 12 pixels"


# --- images that cannot be read


def truncated(path):
    picture(path, size=(64, 64))
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])


def not_finite(path):
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(path, "TIFF")


UNREADABLE = {
    "truncated PNG": ("x.png", truncated),
    "truncated JPEG": ("x.jpg", truncated),
    "empty": ("x.jpg", lambda path: path.write_bytes(b"")),
    "text": ("x.png", lambda path: path.write_text("no image")),
    "another kind of file": ("x.jpg", lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")),
    "link to nothing": ("x.png", lambda path: path.symlink_to("nothing")),
    "floats that are not finite": ("x.tif", not_finite),
}


@pytest.fixture
def hundred(tmp_path):
    """100 images of two classes and two splits, one of which is to be spoilt."""
    return pictures(tmp_path / "pictures", {"train/a": 50, "train/b": 30, "val/a": 10, "val/b": 10})


@pytest.mark.parametrize("image_size", [None, 8])
@pytest.mark.parametrize(("name", "spoil"), UNREADABLE.values(), ids=UNREADABLE)
def test_one_image_that_cannot_be_read_is_left_out(hundred, name, spoil, image_size):
    spoil(hundred / "train" / "b" / name)
    splits = load(hundred, image_size=image_size)
    assert torch.bincount(splits.train.labels).tolist() == [50, 30]
    assert len(splits.validation) == 20
    assert splits.facts["Left out"] == f"1 unreadable (train/b/{name})"
    colours = splits.train.images[:, :, 0, 0].tolist()
    expected = [[0, i, 0] for i in range(50)] + [[10, i, 0] for i in range(30)]
    assert sorted(colours) == sorted(expected)
    labels = splits.train.labels.tolist()
    assert all(colour[0] == 10 * label for colour, label in zip(colours, labels, strict=True))


@pytest.mark.parametrize("image_size", [None, 8])
def test_strict_refuses_it_at_once(hundred, image_size):
    path = hundred / "train" / "b" / "x.png"
    path.write_text("no image")
    with pytest.raises(DataError) as caught:
        load(hundred, image_size=image_size, strict=True)
    first, *rest = str(caught.value).splitlines()
    assert first == f"{hundred}: with `strict` no image may be unreadable, but got one."
    assert rest[0] == "Unreadable are:"
    assert rest[1].startswith(f"  {path}: cannot identify image file")


@pytest.mark.parametrize("image_size", [None, 8])
def test_more_than_one_in_a_hundred_is_refused(hundred, image_size):
    for number in range(12):
        (hundred / "val" / "a" / f"x{number:02}.png").write_text("no image")
    with pytest.raises(DataError) as caught:
        load(hundred, image_size=image_size)
    lines = str(caught.value).splitlines()
    rule = "at most 1 % of the 112 images may be unreadable, but got 12."
    assert lines[0] == f"{hundred}: {rule}"
    names = [re.search(r"/(x\d+\.png): ", line)[1] for line in lines[2:12]]
    assert names == [f"x{number:02}.png" for number in range(10)]
    assert lines[12:] == ["  and 2 more."]


def test_a_class_or_a_split_that_cannot_be_read_is_refused(hundred):
    picture(hundred / "train" / "c" / "x.jpg").write_text("no image")
    pictures(hundred, {"train/b": 60})
    with pytest.raises(DataError, match=r"each class must have a readable image .*got none of c"):
        load(hundred)
    picture(hundred / "train" / "c" / "x.jpg")
    (hundred / "test" / "a").mkdir(parents=True)
    (hundred / "test" / "a" / "x.jpg").write_text("no image")
    with pytest.raises(DataError, match="a split must have a readable image, but got none for tes"):
        load(hundred)


def test_what_cannot_be_read_is_kept_out_of_the_cache(hundred, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "MIN_BYTES", 0)
    path, whole = hundred / "train" / "a" / "007.png", (hundred / "train/a/007.png").read_bytes()
    path.write_bytes(whole[:20] + b"\0" * (len(whole) - 20))
    first = load(hundred)
    monkeypatch.setattr(cache, "_write", None)  # nothing is decoded again
    second = load(hundred)
    for splits in (first, second):
        assert len(splits.train) == 79
        assert splits.facts["Left out"] == "1 unreadable (train/a/007.png)"
    assert torch.equal(first.train.images[:], second.train.images[:])
    assert torch.equal(first.train.labels, second.train.labels)


def test_an_image_that_was_out_of_reach_is_read_once_it_is_back(hundred, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "MIN_BYTES", 0)
    opened, path = Image.open, hundred / "train" / "a" / "007.png"

    def out_of_reach(file, **how):
        if file == path:
            raise PermissionError(13, "Permission denied")
        return opened(file, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "open", out_of_reach)
        assert len(load(hundred).train) == 79
    assert len(load(hundred).train) == 80
    assert load(hundred).facts["Left out"] == "nothing"


# --- what is said


def test_what_was_taken_for_what_is_stated(tmp_path):
    counts = {"seg_train/a b": 10, "seg_train/c": 10, "seg_test/c": 3, "seg_pred": 2}
    root = pictures(tmp_path / "pictures", counts)
    (root / "seg_train" / "c" / "list.csv").write_text("")
    assert load(root, train_size=12).facts == {
        "Classes": "2: a b, c",
        "Images for training": f"12 of {root}/seg_train",
        "Images for validation": "2, split off the training images",
        "Images for testing": f"3 of {root}/seg_test",
        "Image size": "8 x 8 pixels",
        "Left out": "1 beside the splits (seg_pred); 1 without the suffix of an image "
        "(seg_train/c/list.csv)",
    }
    assert load_dataset("digits").facts == {}


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no such names")
def test_names_that_are_no_text_can_be_reported(tmp_path):
    for name in (b"caf\xe9", b"th\xe9"):
        picture(tmp_path / os.fsdecode(name) / "0.png")
    assert load(tmp_path).facts["Classes"] == r"2: caf\udce9, th\udce9"


def test_strict_is_for_folders():
    with pytest.raises(InputError, match="`strict=` has no effect with `data=digits`"):
        NamedTask(data="digits", strict=True)


COMMANDS = {
    "search": "search --budget 1 --epochs 2 --confirm 0 --pruner none --seeds 1 --jobs 1",
    "find": "find --steps 20 --seeds 1",
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_command_prints_what_was_taken_for_what(tmp_path, command):
    pictures(tmp_path / "pictures", {"seg_train/cat": 60, "seg_train/dog": 60, "seg_test/cat": 4})
    (tmp_path / "pictures" / "seg_train" / "cat" / "x.png").write_bytes(b"")
    words = [sys.executable, "-m", "lrtune", *command.split(), "--data", "folder:pictures"]
    run = [*words, "--model", "mlp"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr  # 1: a range test without a signal
    for line in (
        "Classes: 2: cat, dog",
        "Images for training: 108 of pictures/seg_train",
        "Images for validation: 12, split off the training images",
        "Images for testing: 4 of pictures/seg_test",
        "Image size: 8 x 8 pixels",
        "Left out: 1 unreadable (seg_train/cat/x.png)",
    ):
        assert line in done.stderr.splitlines()
    reports = list((tmp_path / "reports").glob("*/report.md"))
    assert all("seg_train/cat/x.png" in report.read_text() for report in reports)
    assert len(reports) == command.startswith("search")
