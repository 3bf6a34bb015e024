"""Streams: epochs of a fixed number of steps, and whether an epoch is a function of its seed."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lrtune.core.decays import Constant
from lrtune.core.errors import InputError
from lrtune.core.recipe import Recipe
from lrtune.core.study import TrainSettings
from lrtune.training.native.data.batches import evaluation_batches, training_batches
from lrtune.training.native.loop import NativeTraining
from lrtune.training.task import Task, change_settings
from tests.studies import full_run
from tests.training.runs import timeless, train


def batch_of(number):
    generator = torch.Generator().manual_seed(number)
    inputs = torch.randn(8, 4, generator=generator)
    return inputs, (inputs.sum(1) > 0).long()


def function(seed, epoch):
    """A stream without an end for each epoch of each seed."""
    return (batch_of(1000 * seed + 100 * epoch + index) for index in itertools.count())


class Numbered:
    """Seven batches, again and again the same ones."""

    def __iter__(self):
        return (batch_of(index) for index in range(7))


class WithEpochs(IterableDataset):
    """Examples that depend on the number that it is told."""

    number = 0

    def set_epoch(self, number):
        self.number = number

    def __iter__(self):
        for index in itertools.count():
            inputs, labels = batch_of(self.number + index)
            yield inputs[0], labels[0]


VALIDATION = TensorDataset(*batch_of(-1))


def opened(stream, steps_per_epoch=5, **settings):
    task = Task(
        model=lambda: nn.Linear(4, 2), train=stream, validation=VALIDATION, num_classes=2,
        steps_per_epoch=steps_per_epoch,
    )  # fmt: skip
    return NativeTraining(task, TrainSettings(batch_size=8, device="cpu", **settings))


# a stream, and whether it can be positioned
STREAMS = {
    "a function": (lambda: function, True),
    "a data set with set_epoch": (WithEpochs, True),
    "its loader": (lambda: DataLoader(WithEpochs(), batch_size=8), True),
    "an iterable": (Numbered, False),
}


@pytest.mark.parametrize(("build", "is_positioned"), STREAMS.values(), ids=STREAMS)
def test_a_stream_trains_repeats_and_resumes_if_it_can(build, is_positioned):
    training = opened(build())
    facts = training.facts
    assert facts.steps_per_epoch == 5
    assert ("resume" in facts.abilities) == is_positioned
    run = full_run(Recipe(peak_lr=0.1, decay=Constant()), 4, seed=3)
    measurements, states = train(training, run)
    assert [m.step for m in measurements] == [5, 10, 15, 20]
    assert all(m.examples_per_s > 0 for m in measurements)
    again, _ = train(training, run)
    assert timeless(again) == timeless(measurements)
    if is_positioned:
        rest, _ = train(opened(build()), run, history=measurements[:2], state=states[1])
        assert timeless(rest) == timeless(measurements[2:])


@pytest.mark.parametrize("accumulate", [1, 3])
def test_an_epoch_has_so_many_steps_whatever_is_accumulated(accumulate):
    settings = TrainSettings(batch_size=24, accumulate=accumulate, device="cpu")
    training = NativeTraining(opened(function).task.task, settings)
    assert training.task.batches.num_batches == 5 * accumulate
    (m,), _ = train(training, full_run(Recipe(), 1))
    assert m.step == 5


def first_inputs(batches, seed, epoch):
    return [inputs[0, 0].item() for inputs, _ in batches.epoch(seed, epoch)]


def batches_of(stream, num_batches=5):
    return training_batches(
        stream, batch_size=8, augment=False, device="cpu", num_batches=num_batches
    )


def test_a_function_is_given_seed_and_epoch():
    batches = batches_of(function)
    for seed, epoch in ((0, 0), (2, 0), (0, 3)):
        expected = [batch_of(1000 * seed + 100 * epoch + i)[0][0, 0].item() for i in range(5)]
        assert first_inputs(batches, seed, epoch) == expected


def test_a_stream_that_is_told_its_epoch_differs_by_seed_and_epoch():
    batches = batches_of(WithEpochs())
    drawn = [first_inputs(batches, *key) for key in ((0, 0), (0, 1), (1, 0))]
    assert first_inputs(batches, 0, 0) == drawn[0]
    assert len({tuple(values) for values in drawn}) == 3


def test_any_other_stream_is_read_on_and_begins_again_where_it_ends():
    batches = batches_of(Numbered())
    values = [batch_of(index)[0][0, 0].item() for index in range(7)]
    endless = [value for _ in range(3) for value in values]
    for _ in range(2):  # a run, and another
        drawn = [first_inputs(batches, 0, epoch) for epoch in range(4)]
        assert list(itertools.chain(*drawn)) == endless[:20]


def test_a_stream_without_batches_is_refused():
    empty = type("Empty", (), {"__iter__": lambda self: iter(())})()
    with pytest.raises(InputError, match="must give batches each time they are read"):
        opened(empty).sweep(Recipe(), seed=0)


def test_a_validation_stream_is_read_to_its_end():
    batches = evaluation_batches(Numbered(), batch_size=8, device="cpu")
    assert [first_inputs(batches, 0, 0) for _ in range(2)] == [
        [batch_of(index)[0][0, 0].item() for index in range(7)]
    ] * 2
    assert batches.num_examples == 56


def test_a_stream_needs_the_length_of_an_epoch():
    with pytest.raises(
        InputError, match=r"`task\.steps_per_epoch` must be given where .* function"
    ):
        opened(function, steps_per_epoch=None)


def test_a_stream_that_can_be_read_only_once_is_refused():
    with pytest.raises(InputError, match="a generator can be read only once: give a function"):
        opened(function(0, 0))


def test_a_stream_has_its_own_batch_size():
    with pytest.raises(InputError, match="`batch_size` must be left to the task's own data"):
        change_settings(opened(function).task.task, {"batch_size": 4})
    assert change_settings(opened(WithEpochs()).task.task, {"batch_size": 4}).batch_size == 4
