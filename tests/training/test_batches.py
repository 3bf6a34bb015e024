"""Batches: what an epoch holds, that (seed, epoch) alone decides it, and augmentation."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
)

from lrtune.core.errors import InputError, TaskError
from lrtune.training.native.data.batches import evaluation_batches, training_batches
from lrtune.training.native.data.images import Draws, Images
from lrtune.training.native.data.loaders import LoaderBatches
from lrtune.training.native.randomness import derive_seed


def numbered(num_images, *, channels=1, side=8, flips=False):
    """Images that can be told apart: every pixel is drawn, and the label is the image's number."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        1, 256, (num_images, channels, side, side), dtype=torch.uint8, generator=generator
    )
    mean, std = (0.25,) * channels, (0.5,) * channels
    return Images(images=images, labels=torch.arange(num_images), mean=mean, std=std, flips=flips)


def epoch_of(source, seed=0, epoch=0, *, batch_size=4, augment=False):
    batches = training_batches(source, batch_size=batch_size, augment=augment, device="cpu")
    return [(inputs.clone(), labels.clone()) for inputs, labels in batches.epoch(seed, epoch)]


def labels_of(pairs):
    return torch.cat([labels for _, labels in pairs]).tolist()


def same(one, other):
    return all(
        torch.equal(a, b)
        for left, right in zip(one, other, strict=True)
        for a, b in zip(left, right, strict=True)
    )


class Squares(Dataset):
    """A map-style dataset of a user; its input is the square of its label."""

    def __init__(self, length=10):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.tensor([float(index**2)]), index


class Stream(IterableDataset):
    def __iter__(self):
        return iter(Squares())


class SizedStream(Stream):
    def __len__(self):
        return 10


# images, batch size: batches and images of a training epoch; of an evaluation
COUNTS = [
    (10, 4, (2, 8), (3, 10)),
    (8, 4, (2, 8), (2, 8)),
    (3, 4, (1, 3), (1, 3)),
    (1, 1, (1, 1), (1, 1)),
]


@pytest.mark.parametrize(("num_images", "batch_size", "training", "evaluation"), COUNTS)
@pytest.mark.parametrize("kind", [numbered, Squares])
def test_an_epoch_holds_what_it_announces(kind, num_images, batch_size, training, evaluation):
    source = kind(num_images)
    for batches, expected in [
        (training_batches(source, batch_size=batch_size, augment=True, device="cpu"), training),
        (evaluation_batches(source, batch_size=batch_size, device="cpu"), evaluation),
    ]:
        given = list(batches.epoch(0, 0))
        assert (batches.num_batches, batches.num_examples) == expected
        assert (len(given), len(labels_of(given))) == expected
        assert len(set(labels_of(given))) == batches.num_examples


@pytest.mark.parametrize(
    "source", [numbered(32, flips=True), Squares(32)], ids=["resident", "dataset"]
)
def test_an_epoch_is_a_function_of_seed_and_epoch(source):
    first = epoch_of(source, 0, 0, augment=True)
    assert same(first, epoch_of(source, 0, 0, augment=True))
    assert labels_of(first) != sorted(labels_of(first))
    others = [
        labels_of(epoch_of(source, seed, epoch, augment=True))
        for seed, epoch in [(0, 1), (1, 0), (1, 1)]
    ]
    assert len({tuple(order) for order in [labels_of(first), *others]}) == 4


def test_epochs_may_be_asked_for_in_any_order():
    batches = training_batches(numbered(32), batch_size=4, augment=True, device="cpu")
    forward = {epoch: list(batches.epoch(7, epoch)) for epoch in (0, 1, 2)}
    for epoch in (2, 0, 1):
        assert same(forward[epoch], list(batches.epoch(7, epoch)))


@pytest.mark.parametrize(
    "source", [numbered(12, flips=True), Squares(12)], ids=["resident", "dataset"]
)
def test_the_global_generator_is_left_alone(source):
    before = torch.get_rng_state()
    epoch_of(source, augment=True)
    list(evaluation_batches(source, batch_size=4, device="cpu").epoch(0, 0))
    assert torch.equal(before, torch.get_rng_state())


def test_evaluation_is_in_order_and_normalised_by_the_textbook():
    images = numbered(10, channels=3)
    given = list(evaluation_batches(images, batch_size=4, device="cpu").epoch(5, 5))
    assert labels_of(given) == list(range(10))
    expected = (images.images.double() / 255 - 0.25) / 0.5
    inputs = torch.cat([inputs for inputs, _ in given])
    assert inputs.dtype == torch.float32
    torch.testing.assert_close(inputs.double(), expected, rtol=0, atol=1e-6)


def test_without_augmentation_the_images_are_as_they_are():
    images = numbered(8, flips=True)
    plain = torch.cat(
        [inputs for inputs, _ in evaluation_batches(images, batch_size=8, device="cpu").epoch(0, 0)]
    )
    for inputs, labels in epoch_of(images):
        assert torch.equal(inputs, plain[labels])


# side in pixels: the largest shift of a crop
PADDINGS = [(8, 1), (16, 2), (28, 4), (32, 4)]


@pytest.mark.parametrize(("side", "padding"), PADDINGS)
@pytest.mark.parametrize("flips", [False, True])
def test_augmentation_is_a_crop_and_a_mirror_image_of_the_original(side, padding, flips):
    images = numbered(100, side=side, flips=flips)
    bordered = torch.nn.functional.pad(images.images, (padding,) * 4)
    candidates = {
        (down, right, mirrored): window.flip(3) if mirrored else window
        for down in range(2 * padding + 1)
        for right in range(2 * padding + 1)
        for window in [bordered[:, :, down : down + side, right : right + side]]
        for mirrored in (False, True)
    }
    seen = []
    [(inputs, labels)] = epoch_of(images, batch_size=100, augment=True)
    pixels = ((inputs * 0.5 + 0.25) * 255).round().to(torch.uint8)
    for how, candidate in candidates.items():
        seen += [how] * int((pixels == candidate[labels]).flatten(1).all(1).sum())
    assert len(seen) == len(images)
    downs, rights, mirrored = (set(values) for values in zip(*seen, strict=True))
    assert downs == rights == set(range(2 * padding + 1))
    assert mirrored == ({False, True} if flips else {False})


def test_flips_do_not_move_the_order_or_the_crops():
    with_flips, without = (
        epoch_of(numbered(40, flips=flips), augment=True) for flips in (True, False)
    )
    assert labels_of(with_flips) == labels_of(without) == labels_of(epoch_of(numbered(40)))
    for (one, _), (other, _) in zip(with_flips, without, strict=True):
        assert all(
            torch.equal(a, b) or torch.equal(a.flip(2), b) for a, b in zip(one, other, strict=True)
        )


def test_the_draws_are_those_of_earlier_versions():
    draws = Draws.of(3, 1, 6, padding=1, sides=(8, 8))
    assert draws.order.tolist() == [3, 5, 0, 1, 4, 2]
    assert draws.shifts.tolist() == [[1, 2], [2, 1], [0, 0], [0, 0], [1, 1], [2, 0]]
    assert draws.mirrored.tolist() == [False, True, True, False, True, True]


@pytest.mark.parametrize("cutout", [1, 3, 4, 8])
def test_a_square_is_cut_out_and_nothing_else_changes(cutout):
    images = numbered(300, channels=2, side=8, flips=True)
    images = replace(
        images, images=torch.cat([images.images, images.images[:, :, :, :4]], dim=3)
    )  # 8 x 12
    whole, cut = (
        training_batches(images, batch_size=300, augment=True, device="cpu", cutout=side)
        for side in (0, cutout)
    )
    [(before, labels)], [(after, same_labels)] = list(whole.epoch(2, 5)), list(cut.epoch(2, 5))
    assert torch.equal(labels, same_labels)
    assert before.all()  # by the mean and std of `numbered`, no pixel becomes 0 by itself
    centres = cut.draw(2, 5).holes
    assert {tuple(centre) for centre in centres.tolist()} >= {(0, 0), (0, 11), (7, 0), (7, 11)}
    for image, original, (down, right) in zip(after, before, centres.tolist(), strict=True):
        top, left = down - cutout // 2, right - cutout // 2
        expected = original.clone()
        expected[:, max(0, top) : top + cutout, max(0, left) : left + cutout] = 0
        assert torch.equal(image, expected)


@pytest.mark.parametrize("cutout", [-1, 9])
def test_an_impossible_hole_is_refused(cutout):
    with pytest.raises(
        InputError, match=f"`0 <= cutout <= 8` must hold, the side of the images, but got {cutout}"
    ):
        training_batches(numbered(4), batch_size=2, augment=False, device="cpu", cutout=cutout)


def test_what_is_for_images_only_is_refused_of_a_users_own_data():
    for source in (Squares(), DataLoader(Squares())):
        with pytest.raises(InputError) as caught:
            training_batches(
                source, batch_size=4, augment=True, device="cpu", data_on_device="yes", cutout=2
            )
        kind = type(source).__name__
        assert list(caught.value.problems) == [
            f"`data_on_device` can be yes for `Images` only, but the data are a {kind}.",
            f"`cutout` is for `Images` only, but the data are a {kind}.",
        ]
        with pytest.raises(InputError, match="`data_on_device` can be yes for `Images` only"):
            evaluation_batches(source, batch_size=4, device="cpu", data_on_device="yes")
        for batches in (
            training_batches(source, batch_size=4, augment=True, device="cpu", data_on_device="no"),
            evaluation_batches(source, batch_size=4, device="cpu", data_on_device="no"),
        ):
            assert isinstance(batches, LoaderBatches)


def test_a_loader_with_a_generator_is_seeded_by_the_epoch():
    loader = DataLoader(Squares(), batch_size=4, shuffle=True, generator=torch.Generator())
    batches = training_batches(loader, batch_size=999, augment=True, device="cpu")
    orders = [labels_of(batches.epoch(0, epoch)) for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == list(range(10))


def test_a_loader_without_a_generator_follows_the_global_one():
    batches = training_batches(
        DataLoader(Squares(), batch_size=4, shuffle=True), batch_size=4, augment=False, device="cpu"
    )
    orders = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        orders.append(labels_of(batches.epoch(0, 0)))
    assert orders[0] == orders[2] != orders[1]


def test_a_generator_of_the_sampler_is_seeded_too():
    sampler = SubsetRandomSampler(range(3, 9), generator=torch.Generator())
    batches = training_batches(
        DataLoader(Squares(), batch_size=4, sampler=sampler),
        batch_size=4,
        augment=False,
        device="cpu",
    )
    assert batches.num_examples == 6
    orders = [labels_of(batches.epoch(0, epoch)) for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]


# loader: batches, images
LOADERS = [
    (DataLoader(Squares(), batch_size=4), 3, 10),
    (DataLoader(Squares(), batch_size=4, drop_last=True), 2, 8),
    (DataLoader(Squares(), batch_sampler=[[0, 1], [2, 3, 4]]), 2, 10),
    (DataLoader(SizedStream(), batch_size=5), 2, 10),
]


@pytest.mark.parametrize(("loader", "num_batches", "num_images"), LOADERS)
def test_a_loader_is_counted(loader, num_batches, num_images):
    batches = evaluation_batches(loader, batch_size=1, device="cpu")
    assert (batches.num_batches, batches.num_examples) == (num_batches, num_images)


def test_batches_of_a_loader_land_on_the_device():
    for inputs, labels in training_batches(
        Squares(), batch_size=4, augment=False, device="meta"
    ).epoch(0, 0):
        assert inputs.device.type == labels.device.type == "meta"


@pytest.mark.gpu
def test_an_epoch_is_the_same_on_every_device():
    images = numbered(40, channels=3, side=32, flips=True)
    on_gpu = training_batches(images, batch_size=8, augment=True, device="cuda")
    for (inputs, labels), (on_cpu, on_cpu_labels) in zip(
        on_gpu.epoch(3, 1), epoch_of(images, 3, 1, batch_size=8, augment=True), strict=True
    ):
        assert inputs.device.type == labels.device.type == "cuda"
        assert torch.equal(labels.cpu(), on_cpu_labels)
        torch.testing.assert_close(inputs.cpu(), on_cpu)


@pytest.mark.parametrize(
    ("source", "batch_size", "message"),
    [
        (numbered(4), 0, "`1 <= batch_size` must hold, but got 0."),
        (Squares(), 0, "`1 <= batch_size` must hold, but got 0."),
        (Squares(0), 4, "a dataset must have at least 1 example, but this Squares has none."),
        (
            7,
            4,
            "data must be `Images`, a map-style `Dataset`, a `DataLoader` or a stream of batches, "
            "but got int.",
        ),
        (
            DataLoader(Squares(3), batch_size=4, drop_last=True),
            4,
            "a `DataLoader` must give at least 1 batch, but this one has none.",
        ),
    ],
)
def test_impossible_sources_are_refused(source, batch_size, message):
    for build in (evaluation_batches, lambda *a, **k: training_batches(*a, augment=True, **k)):
        with pytest.raises(InputError) as caught:
            build(source, batch_size=batch_size, device="cpu")
        assert str(caught.value) == message


class Ending(Squares):
    """It stops Python's iteration where an image is missing."""

    def __getitem__(self, index):
        if index >= 5:
            raise StopIteration
        return super().__getitem__(index)


@pytest.mark.parametrize("source", [Ending(12), DataLoader(Ending(12), batch_size=4)])
def test_data_that_stop_early_are_refused(source):
    batches = evaluation_batches(source, batch_size=4, device="cpu")
    with pytest.raises(
        TaskError, match="the data ended after 1 of 3 batches: the `__getitem__` of Ending raised"
    ):
        list(batches.epoch(0, 0))


GOOD = {
    "images": torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
    "labels": torch.zeros(2, dtype=torch.int64),
}


@pytest.mark.parametrize(
    ("changed", "problems"),
    [
        ({"images": torch.zeros(2, 1, 4, 4)}, ["torch.float32 (2, 1, 4, 4)"]),
        ({"images": torch.zeros(0, 1, 4, 4, dtype=torch.uint8)}, ["torch.uint8 (0, 1, 4, 4)"]),
        (
            {"labels": torch.zeros(3, dtype=torch.int64), "mean": (), "std": (0.0,)},
            ["`labels`", "`mean`", "`std`"],
        ),
        ({"labels": torch.zeros(2)}, ["torch.float32 (2,)"]),
    ],
)
def test_impossible_images_are_refused_with_all_that_is_wrong(changed, problems):
    with pytest.raises(InputError) as caught:
        Images(**(GOOD | {"mean": (0.5,), "std": (0.5,)} | changed))
    assert len(caught.value.problems) == len(problems)
    assert all(part in whole for part, whole in zip(problems, caught.value.problems, strict=True))


def test_seeds_are_derived_alike_in_every_process():
    code = (
        "from lrtune.training.native.randomness import derive_seed\n"
        "print(derive_seed(3, 'batches', 5))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) == derive_seed(3, "batches", 5)


def test_derived_seeds_are_far_apart_and_fit_a_generator():
    seeds = [
        derive_seed(*words)
        for words in [(0,), (1,), (0, 1), (1, 0), (0, "1"), (0, "a", "b"), (0, "ab")]
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
