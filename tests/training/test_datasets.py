"""Data sets: the splits, the places, the readers on small files, and messages on bad files."""

import gzip
import struct
import tarfile
import urllib.request
from hashlib import sha256
from urllib.error import URLError

import numpy as np
import pytest
import torch

from lrtune.core.errors import DataError, InputError
from lrtune.training.native.data.datasets import archives, embedded, load_dataset
from lrtune.training.native.data.datasets.archives import read_idx

FASHION_MNIST = archives.SYSTEM_DIR / "fashion-mnist"


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """None of the usual places holds anything, and there is no network."""

    def unreachable(request):
        raise URLError("Name or service not known")

    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TORCH_HOME", str(home / "torch"))
    monkeypatch.setattr(archives, "SYSTEM_DIR", home / "system")
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    return home


def idx(array):
    return (
        struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        + array.astype(np.uint8).tobytes()
    )


def write_mnist(folder, *, train=40, test=10, compressed=True):
    """Files in the format of MNIST: image n is n everywhere, and its label n % 10."""
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, length in {"train": train, "t10k": test}.items():
        numbers = np.arange(length)
        images = np.broadcast_to(numbers[:, None, None], (length, 28, 28))
        for name, array in {"images-idx3": images, "labels-idx1": numbers % 10}.items():
            path = folder / f"{prefix}-{name}-ubyte{'.gz' if compressed else ''}"
            path.write_bytes(gzip.compress(idx(array)) if compressed else idx(array))
    return folder


def cifar_records(labels, *, coarse):
    """Records in the format of CIFAR: planes of red n, green 100 and blue 200 for image n."""
    planes = [
        bytes([n]) * 1024 + bytes([100]) * 1024 + bytes([200]) * 1024 for n in range(len(labels))
    ]
    return b"".join(
        b"\x07" * coarse + bytes([label]) + plane
        for label, plane in zip(labels, planes, strict=True)
    )


def write_cifar10(folder):
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (folder / f"{name}.bin").write_bytes(cifar_records(range(10), coarse=False))
    return folder


def write_images(folder, counts, *, size=(20, 20), suffix="png", mode="RGB"):
    """An image folder: `counts` images of each class, of the same colour within a class."""
    from PIL import Image

    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        colour = (40 * label, 100, 200) if mode == "RGB" else 40 * label
        for number in range(count):
            Image.new(mode, size, colour).save(folder / name / f"{number:03}.{suffix}")
    return folder


def labels_in(images):
    return torch.bincount(images.labels).tolist()


# Splits


def test_digits_are_embedded():
    splits = load_dataset("digits")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [
        1197,
        300,
        300,
    ]
    assert splits.num_classes == 10
    assert splits.train.images.shape[1:] == (1, 8, 8)
    assert int(splits.train.images.max()) == 255
    assert not splits.train.flips
    pixels = splits.train.images.double() / 255
    assert splits.train.mean == pytest.approx((pixels.mean().item(),))
    assert splits.train.std == pytest.approx((pixels.std(correction=0).item(),))
    assert splits.validation.mean == splits.test.mean == splits.train.mean


def test_cluttered_digits_are_the_same_on_every_machine():
    splits = load_dataset("cluttered-digits")
    parts = (splits.train, splits.validation, splits.test)
    assert [tuple(part.images.shape) for part in parts] == [(4000, 1, 14, 14)] * 3
    digests = [sha256(part.images.numpy().tobytes()).hexdigest()[:12] for part in parts]
    assert digests == ["7312609d1fa4", "9e3d945c81f4", "a3f58db7e726"]
    assert not splits.train.flips


def test_each_part_of_cluttered_digits_has_handwriting_of_its_own(monkeypatch):
    made = {}
    monkeypatch.setattr(embedded, "_cluttered", lambda name, part: made.setdefault(name, part))
    embedded.cluttered_digits()
    assert {name: len(part) for name, part in made.items()} == {
        "train": 1197,
        "validation": 300,
        "test": 300,
    }
    drawn = [image.tobytes() for part in made.values() for image in part.images.numpy()]
    assert len(set(drawn)) == len(drawn) == 1797


def test_a_cluttered_digit_lies_whole_on_its_canvas(monkeypatch):
    monkeypatch.setattr(embedded, "NUM_PIECES", 0)
    monkeypatch.setattr(embedded, "NOISE_RANGE", 1)
    decoded = embedded.cluttered_digits()
    plain = embedded.digits()
    ink = set(plain.train.images.sum((1, 2, 3)).tolist())
    assert set(decoded.train.images.sum((1, 2, 3)).tolist()) <= ink
    places = decoded.train.images[:, 0].amax(2).argmax(1)
    assert len(set(places.tolist())) > 5


def test_splits_share_no_image_and_lose_none(tmp_path):
    splits = load_dataset("mnist", data_dir=write_mnist(tmp_path / "mnist"))
    train, validation = (
        sorted(part.images[:, 0, 0, 0].tolist()) for part in (splits.train, splits.validation)
    )
    assert len(validation) == 4
    assert sorted(train + validation) == list(range(40))
    assert splits.test.images[:, 0, 0, 0].tolist() == splits.test.labels.tolist() == list(range(10))


def test_the_split_is_always_the_same():
    one, other = load_dataset("digits"), load_dataset("digits", train_size=100)
    assert torch.equal(one.validation.images, other.validation.images)
    assert torch.equal(one.test.images, other.test.images)
    assert torch.equal(one.train.images[:100], other.train.images)


@pytest.mark.parametrize("train_size", [10, 100, 1000])
def test_a_part_of_the_training_images_holds_each_class_in_proportion(train_size):
    counts = labels_in(load_dataset("digits", train_size=train_size).train)
    assert sum(counts) == train_size
    assert all(abs(count - train_size / 10) <= 1 + 0.02 * train_size for count in counts)


def test_the_sizes_are_those_asked_for():
    splits = load_dataset("digits", train_size=500, val_size=97)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [500, 97, 300]
    assert len(load_dataset("digits", val_size=1496).train) == 1


# sizes: the rules they break
IMPOSSIBLE_SIZES = [
    ({"val_size": 0}, ["`1 <= val_size <= 1496` must hold for digits, but got 0."]),
    ({"val_size": 1497}, ["`1 <= val_size <= 1496` must hold for digits, but got 1497."]),
    (
        {"train_size": 1198},
        ["`1 <= train_size <= 1197` must hold for digits (validation aside), but got 1198."],
    ),
    (
        {"train_size": -1, "val_size": -1},
        [
            "`1 <= val_size <= 1496` must hold for digits, but got -1.",
            "`1 <= train_size <= 1497` must hold for digits (validation aside), but got -1.",
        ],
    ),
    ({"image_size": 0}, ["`1 <= image_size` must hold, but got 0."]),
]


@pytest.mark.parametrize(("sizes", "problems"), IMPOSSIBLE_SIZES)
def test_impossible_sizes_are_refused(sizes, problems):
    with pytest.raises(InputError) as caught:
        load_dataset("digits", **sizes)
    assert list(caught.value.problems) == problems


@pytest.mark.parametrize("name", ["imagenet", "digits:x", "mnist:", "folder", "folder:", ""])
def test_unknown_names_are_refused(name):
    with pytest.raises(
        InputError, match=r"`data` must be one of cluttered-digits, digits, .*folder:PATH, but got"
    ):
        load_dataset(name)


def test_images_are_scaled_when_asked_for(tmp_path):
    splits = load_dataset("mnist", data_dir=write_mnist(tmp_path / "mnist"), image_size=32)
    assert {part.images.shape[2:] for part in (splits.train, splits.validation, splits.test)} == {
        (32, 32)
    }
    assert torch.equal(splits.test.images[7], torch.full((1, 32, 32), 7, dtype=torch.uint8))


def test_a_channel_without_variation_is_divided_by_one(tmp_path):
    splits = load_dataset("cifar10", data_dir=write_cifar10(tmp_path / "cifar-10-batches-bin"))
    assert splits.train.std[1:] == (1.0, 1.0)
    assert splits.train.mean[1:] == pytest.approx((100 / 255, 200 / 255))


# Places and readers


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    ("below", "given"),
    [
        ("here", "here"),
        ("here/FashionMNIST/raw", "here"),
        ("here/fashion-mnist", "here"),
        ("home/data/FashionMNIST/raw", None),
        ("home/torch/datasets/FashionMNIST/raw", None),
        ("home/system/fashion-mnist", None),
        ("home/system/fashion-mnist", "nowhere"),
    ],
)
def test_files_are_found_where_people_have_them(tmp_path, below, given, compressed):
    write_mnist(tmp_path / below, compressed=compressed)
    splits = load_dataset(
        "fashion-mnist", data_dir=tmp_path / given if given else None, download=False
    )
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (36, 4, 10)
    assert splits.train.flips
    assert splits.train.images.shape[1:] == (1, 28, 28)


def test_the_folder_that_was_given_goes_first(tmp_path):
    write_mnist(tmp_path / "home" / "data" / "MNIST" / "raw", train=20)
    write_mnist(tmp_path / "mine", train=30)
    assert len(load_dataset("mnist", data_dir=tmp_path / "mine").train) == 27


def test_one_of_two_data_sets_with_the_same_file_names_is_not_taken_for_the_other(tmp_path):
    write_mnist(tmp_path / "home" / "data" / "FashionMNIST" / "raw")
    with pytest.raises(DataError, match="mnist was not found"):
        load_dataset("mnist", download=False)


@pytest.mark.skipif(
    not FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)
def test_debians_fashion_mnist_is_read(monkeypatch):
    monkeypatch.setattr(archives, "SYSTEM_DIR", FASHION_MNIST.parent)
    splits = load_dataset("fashion-mnist", train_size=10_000)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (10_000, 6_000, 10_000)
    assert labels_in(splits.train) == [1000] * 10
    assert labels_in(splits.validation) == [600] * 10
    assert splits.train.mean == pytest.approx((0.286,), abs=0.01)
    assert splits.train.std == pytest.approx((0.353,), abs=0.01)


@pytest.mark.parametrize("folder", ["cifar-10-batches-bin", "."])
def test_cifar10_is_read(tmp_path, folder):
    write_cifar10(tmp_path / "given" / folder)
    splits = load_dataset("cifar10", data_dir=tmp_path / "given")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (45, 5, 10)
    assert splits.train.flips
    assert splits.test.labels.tolist() == list(range(10))
    assert splits.test.images[7].float().mean((1, 2)).tolist() == [7, 100, 200]


def test_cifar100_is_read_by_its_fine_labels(tmp_path):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    (folder / "train.bin").write_bytes(cifar_records(range(100), coarse=True))
    (folder / "test.bin").write_bytes(cifar_records([99, 3], coarse=True))
    splits = load_dataset("cifar100", data_dir=tmp_path)
    assert (len(splits.train), len(splits.validation), splits.num_classes) == (90, 10, 100)
    assert splits.test.labels.tolist() == [99, 3]
    assert splits.test.images[1].float().mean((1, 2)).tolist() == [1, 100, 200]


def test_an_archive_that_was_put_there_is_unpacked_without_network(tmp_path, monkeypatch):
    import torchvision

    write_cifar10(tmp_path / "made" / "cifar-10-batches-bin")
    given = tmp_path / "given"
    given.mkdir()
    with tarfile.open(given / "cifar-10-binary.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "made", arcname=".")
    monkeypatch.setattr(torchvision.datasets.utils, "check_md5", lambda path, md5: True)
    assert len(load_dataset("cifar10", data_dir=given).train) == 45


# What is said of files that are missing or no good


def test_what_is_missing_is_named_with_the_places_and_the_way_to_get_it(tmp_path, bare_machine):
    with pytest.raises(DataError) as caught:
        load_dataset("fashion-mnist", data_dir=tmp_path / "mine")
    message = str(caught.value)
    for part in (
        "train-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
        f"  {tmp_path / 'mine' / 'FashionMNIST' / 'raw'}\n",
        f"  {tmp_path / 'mine'}\n",
        f"  {bare_machine / 'data' / 'FashionMNIST' / 'raw'}\n",
        f"  {bare_machine / 'torch' / 'datasets' / 'fashion-mnist'}\n",
        f"  {bare_machine / 'system' / 'fashion-mnist'}\n",
        f"The download into {tmp_path / 'mine'} failed:",
        "Name or service not known",
        "apt install dataset-fashion-mnist",
        "--data-dir",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("mnist", "t10k-images"), ("cifar10", "cifar-10-binary.tar.gz"), ("cifar100", "train.bin")],
)
def test_each_data_set_says_what_is_missing(name, wanted):
    with pytest.raises(DataError, match=wanted) as caught:
        load_dataset(name)
    assert "failed: " in str(caught.value)
    with pytest.raises(DataError, match="It was not downloaded, since that was not wanted"):
        load_dataset(name, download=False)


def test_pickled_cifar_is_not_read_and_that_is_said(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(
        DataError,
        match=r"cifar-10-batches-py is the Python version of it, which is not read: it is pickled",
    ):
        load_dataset("cifar10", data_dir=tmp_path)


GOOD = idx(np.zeros((3, 2, 2)))

# content of an IDX file: what is said
DAMAGED = [
    (b"", "must be an IDX file of bytes and begin with 00 00 08, but it begins with nothing"),
    (b"PK\x03\x04", "but it begins with 50 4b 03"),
    (b"\0\0\x0d\x01" + GOOD[4:], "but it begins with 00 00 0d"),
    (GOOD[:9], "must be an IDX file"),
    (GOOD[:-1], r"must hold 12 values, by its shape \(3, 2, 2\), but it holds 11"),
    (GOOD + b"\0", "but it holds 13"),
]


@pytest.mark.parametrize(("content", "message"), DAMAGED)
def test_damaged_idx_files_are_refused(tmp_path, content, message):
    for path, written in {
        tmp_path / "a": content,
        tmp_path / "a.gz": gzip.compress(content),
    }.items():
        path.write_bytes(written)
        with pytest.raises(DataError, match=message):
            read_idx(path)


DAMAGED_COMPRESSION = {
    "cut off": gzip.compress(GOOD)[:-10],
    "not compressed": GOOD,
    "nonsense": b"\x1f\x8b\x08\0\0\0\0\0\0\3" + b"\xff" * 20,
}


@pytest.mark.parametrize("content", DAMAGED_COMPRESSION.values(), ids=DAMAGED_COMPRESSION)
def test_damaged_compression_is_refused(tmp_path, content):
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.gz cannot be read: "):
        read_idx(tmp_path / "a.gz")


def test_idx_files_are_read(tmp_path):
    array = np.arange(12).reshape(3, 2, 2)
    (tmp_path / "a").write_bytes(idx(array))
    assert np.array_equal(read_idx(tmp_path / "a"), array)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(39), r"as many labels \(N,\), but they hold \(40, 28, 28\) and \(39,\)"),
        (np.full(40, 10), "must hold labels below 10, but it holds 10"),
        (np.zeros((40, 1)), r"but they hold \(40, 28, 28\) and \(40, 1\)"),
    ],
)
def test_labels_that_do_not_fit_the_images_are_refused(tmp_path, labels, message):
    write_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    with pytest.raises(DataError, match=message):
        load_dataset("mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold records of 3073 bytes, but it holds 0 bytes"),
        (b"\0" * 3074, "must hold records of 3073 bytes, but it holds 3074 bytes"),
        (cifar_records([10], coarse=False), "must hold labels below 10, but it holds 10"),
    ],
)
def test_damaged_cifar_files_are_refused(tmp_path, content, message):
    write_cifar10(tmp_path / "cifar")
    (tmp_path / "cifar" / "data_batch_3.bin").write_bytes(content)
    with pytest.raises(DataError, match=f"data_batch_3.bin {message}"):
        load_dataset("cifar10", data_dir=tmp_path / "cifar")


# Image folders


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_folder_of_classes_is_read_and_split(tmp_path, suffix):
    root = write_images(tmp_path / "images", {"cat": 10, "dog": 20}, suffix=suffix)
    splits = load_dataset(f"folder:{root}")
    assert (labels_in(splits.train), labels_in(splits.validation)) == ([9, 18], [1, 2])
    assert splits.test is None
    assert (splits.num_classes, splits.train.flips) == (2, True)
    assert splits.train.images.shape[1:] == (3, 20, 20)
    colours = torch.tensor([[0, 100, 200], [40, 100, 200]])[splits.train.labels]
    assert (splits.train.images.float().mean((2, 3)) - colours).abs().max() < 3


@pytest.mark.parametrize("val", ["val", "validation"])
def test_splits_that_a_folder_has_are_kept(tmp_path, val):
    write_images(tmp_path / "train", {"a": 4, "b": 4, "c": 4})
    write_images(tmp_path / val, {"a": 3, "c": 3})
    write_images(tmp_path / "test", {"b": 2}, size=(50, 30))
    splits = load_dataset(f"folder:{tmp_path}")
    assert labels_in(splits.train) == [4, 4, 4]
    assert labels_in(splits.validation) == [3, 0, 3]
    assert labels_in(splits.test) == [0, 2]
    assert splits.test.images.shape == (2, 3, 20, 20)
    assert labels_in(load_dataset(f"folder:{tmp_path}", val_size=2, train_size=6).validation) == [
        1,
        0,
        1,
    ]
    with pytest.raises(InputError, match="`1 <= val_size <= 6` must hold"):
        load_dataset(f"folder:{tmp_path}", val_size=7)


# sizes of the images (width, height): the side they are decoded to
FOLDER_SIZES = [
    ([(32, 32)], 32),
    ([(64, 48)], 48),
    ([(20, 20), (30, 40), (100, 100)], 30),
    ([(300, 200)], 160),
]


@pytest.mark.parametrize(("sizes", "side"), FOLDER_SIZES)
def test_images_of_a_folder_get_one_size(tmp_path, sizes, side):
    for number, size in enumerate(sizes):
        for name in "ab":
            write_images(tmp_path / "images", {f"{name}/{number}": 2}, size=size)
    assert load_dataset(f"folder:{tmp_path / 'images'}").train.images.shape[2:] == (side, side)
    assert load_dataset(f"folder:{tmp_path / 'images'}", image_size=12).train.images.shape[2:] == (
        12,
        12,
    )


def test_images_are_cut_to_their_centre(tmp_path):
    from PIL import Image

    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 250
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    assert (load_dataset(f"folder:{tmp_path / 'images'}").train.images == 250).all()


def test_grey_images_become_colour(tmp_path):
    root = write_images(tmp_path / "images", {"a": 2, "b": 2}, mode="L")
    images = load_dataset(f"folder:{root}").train.images
    assert images.shape[1] == 3
    assert (images == images[:, :1]).all()


def _missing(root):
    return root / "nothing", "nothing must be a folder of images, .* but it is not there"


def _one_class(root):
    return write_images(
        root, {"a": 3}
    ), "must hold a folder for each of 2 classes or more, but it holds 1"


def _empty_class(root):
    write_images(root, {"a": 3, "b": 3})
    (root / "c").mkdir()
    return root, "must hold images .* in each folder, but some have none of their own: c"


def _other_class(root):
    write_images(root / "train", {"a": 3, "b": 3})
    write_images(root / "val", {"a": 3, "z": 3})
    return root, r"val must hold classes of train, but got \['z'\]"


def _damaged(root):
    write_images(root, {"a": 3, "b": 3})
    (root / "b" / "001.png").write_bytes((root / "b" / "001.png").read_bytes()[:40])
    return root, r"(?s)at most 1 % of the 6 images may be unreadable, but got 1.*b/001\.png: "


def _no_image(root):
    write_images(root, {"a": 3, "b": 3})
    (root / "b" / "notes.jpg").write_text("no image")
    return root, r"(?s)but got 1\..*b/notes\.jpg: cannot identify"


@pytest.mark.parametrize(
    "broken", [_missing, _one_class, _empty_class, _other_class, _damaged, _no_image]
)
def test_folders_that_are_no_good_are_refused(tmp_path, broken):
    root, message = broken(tmp_path / "images")
    with pytest.raises(DataError, match=message):
        load_dataset(f"folder:{root}")


def test_loading_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    load_dataset("digits", train_size=100)
    assert torch.equal(before, torch.get_rng_state())
