"""Streaming: the epochs of a set on the device bit for bit, threads, which sets are streamed."""

import itertools
import threading
import time

import pytest
import torch

from lrtune.training.native.data import images as images_module
from lrtune.training.native.data.batches import evaluation_batches, training_batches
from lrtune.training.native.data.images import (
    EvaluationBatches,
    Images,
    ResidentBatches,
    StreamedBatches,
)
from lrtune.training.native.data.rows import NUM_AHEAD, Rows, ahead


def drawn(num_images, *, as_rows=False):
    """Images of random pixels; as rows, every second one of a larger set, in another order."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (2 * num_images, 3, 8, 8), dtype=torch.uint8, generator=generator)
    rows = 2 * torch.randperm(num_images, generator=generator)
    images = Rows(pixels, rows) if as_rows else pixels[rows]
    return Images(
        images=images, labels=torch.arange(num_images), mean=(0.4,) * 3, std=(0.2,) * 3, flips=True
    )


def built(source, kind, choice, *, device="cpu", batch_size=4):
    if kind == "evaluation":
        return evaluation_batches(
            source, batch_size=batch_size, device=device, data_on_device=choice
        )
    options = {
        "augmented": {"augment": True},
        "plain": {"augment": False},
        "cut": {"augment": True, "cutout": 3},
    }
    return training_batches(
        source, batch_size=batch_size, device=device, data_on_device=choice, **options[kind]
    )


def threads_at_work():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def assert_that_threads_end():
    for thread in threads_at_work():
        thread.join(10)
    assert threads_at_work() == []


KINDS = ["augmented", "plain", "cut", "evaluation"]


@pytest.mark.parametrize("num_images", [1, 3, 8, 50])
@pytest.mark.parametrize("kind", KINDS)
def test_a_streamed_epoch_is_a_resident_one(kind, num_images, identical):
    resident = built(drawn(num_images), kind, "yes")
    assert not isinstance(resident, StreamedBatches)
    for as_rows in (False, True):
        streamed = built(drawn(num_images, as_rows=as_rows), kind, "no")
        assert isinstance(streamed, StreamedBatches)
        assert (streamed.num_batches, streamed.num_examples) == (
            resident.num_batches,
            resident.num_examples,
        )
        for seed, epoch in itertools.product((0, 7), (0, 1, 2)):
            assert identical(list(streamed.epoch(seed, epoch)), list(resident.epoch(seed, epoch)))
    assert_that_threads_end()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_on_a_cpu_give_the_epoch_of_their_copy(kind, identical):
    rows, copied = (built(drawn(30, as_rows=as_rows), kind, "auto") for as_rows in (True, False))
    assert identical(list(rows.epoch(1, 2)), list(copied.epoch(1, 2)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_consumer_may_stop_half_way(kind):
    streamed = built(drawn(400), kind, "no")
    for epoch in range(3):
        pairs = streamed.epoch(0, epoch)
        next(pairs)
        if epoch:
            pairs.close()
        else:
            del pairs
        assert_that_threads_end()


def test_an_error_in_a_thread_reaches_the_consumer(monkeypatch):
    def gather(images, chosen, *, pinned):
        if len(chosen) == 2:  # the last batch
            raise OSError("the disk is gone")
        return images[chosen]

    monkeypatch.setattr(images_module, "gather", gather)
    pairs = built(drawn(10), "evaluation", "no").epoch(0, 0)
    assert [len(labels) for _, labels in itertools.islice(pairs, 2)] == [4, 4]
    with pytest.raises(OSError, match="the disk is gone"):
        next(pairs)
    assert_that_threads_end()


def test_no_more_is_begun_than_was_said():
    begun = []
    results = ahead(lambda item: begun.append(item) or item, itertools.count())
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    deadline = time.monotonic() + 10
    while len(begun) < 3 + NUM_AHEAD and time.monotonic() < deadline:
        time.sleep(0.001)
    assert sorted(begun) == list(range(3 + NUM_AHEAD))
    results.close()
    assert_that_threads_end()


def test_rows_are_the_tensor_that_they_stand_for():
    rows, copied = drawn(20, as_rows=True).images, drawn(20).images
    assert (rows.shape, rows.dtype, rows.nbytes, len(rows)) == (
        copied.shape,
        copied.dtype,
        copied.nbytes,
        20,
    )
    for places in (3, -1, slice(5, 9), torch.tensor([4, 4, 0]), slice(None)):
        assert torch.equal(rows[places], copied[places])
    chosen = torch.tensor([7, 2])
    assert torch.equal(rows.select(chosen)[:], copied[chosen])
    assert rows.select(chosen).base.data_ptr() == rows.base.data_ptr()


def test_what_was_gathered_may_be_written_to():
    rows = drawn(4, as_rows=True).images
    before = rows[:]
    for places in (1, slice(1, 2), torch.tensor([1])):
        rows[places].zero_()
    assert torch.equal(rows[:], before)


# choice, free bytes of the GPU for a set of 3 x 8 x 8 x 10 = 1,920: whether it is streamed
PLACES = [
    ("auto", 3839, True),
    ("auto", 3840, False),
    ("yes", 0, False),
    ("no", 10**12, True),
]


@pytest.mark.parametrize(("choice", "free_bytes", "streamed"), PLACES)
@pytest.mark.parametrize("as_rows", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_set_lies_on_a_gpu_where_it_takes_half_of_what_is_free(
    kind, as_rows, choice, free_bytes, streamed, monkeypatch
):
    moved = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free_bytes, 10**12))
    monkeypatch.setattr(Images, "to", lambda images, device: moved.append(device) or images)
    batches = built(drawn(10, as_rows=as_rows), kind, choice, device="cuda")
    assert isinstance(batches, StreamedBatches) == streamed
    assert moved == ([] if streamed else ["cuda"])


@pytest.mark.parametrize("as_rows", [False, True])
def test_on_a_cpu_a_set_is_used_where_it_lies(as_rows):
    source = drawn(10, as_rows=as_rows)
    for kind, wanted in (("plain", ResidentBatches), ("evaluation", EvaluationBatches)):
        batches = built(source, kind, "auto")
        assert isinstance(batches, wanted)
        assert batches.images.images is source.images


@pytest.mark.gpu
@pytest.mark.parametrize("as_rows", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu_a_streamed_epoch_is_a_resident_one(kind, as_rows, identical):
    streamed, resident = (
        built(drawn(3000, as_rows=as_rows), kind, choice, device="cuda", batch_size=64)
        for choice in ("no", "yes")
    )
    assert isinstance(streamed, StreamedBatches)
    assert resident.images.images.device.type == "cuda"
    for epoch in range(2):
        assert identical(list(streamed.epoch(0, epoch)), list(resident.epoch(0, epoch)))
