"""What a worker of a cluster hands in, without a cluster."""

from dataclasses import replace
from functools import partial

import pytest

from lrtune.core.errors import InputError, TaskError, TrialError
from lrtune.core.recipe import Recipe
from lrtune.core.run import Assignment
from lrtune.core.training import Devices
from tests.studies import full_run
from tests.tuning.fake_objective import FakeTraining, train

pytest.importorskip("ray")
from lrtune.tuning.trainable import RunTrainable, statements, with_training

EPOCHS = 4
RUN = full_run(Recipe(), EPOCHS)


@pytest.fixture
def make_worker():
    def make(epochs, *, num_recorded=0):
        worker = object.__new__(RunTrainable)  # Tune's own beginnings write files
        config = {"assignment": Assignment(run=RUN, num_recorded=num_recorded, known=())}
        opened = []

        def open_training(devices):
            opened.append(devices)
            return FakeTraining(epochs)

        worker.setup(config, open_training=open_training, states=None, timeout_s=0)
        assert opened == [Devices()]
        return worker

    return make


def three(run, first, *, error=None):
    """Three epochs, and then an error, or one epoch more."""
    for measured in train(run, first):
        if measured.epoch == EPOCHS and error:
            raise error
        yield measured


def test_a_step_is_an_epoch_that_is_not_recorded(make_worker):
    worker = make_worker(three, num_recorded=2)
    assert [worker.step()["measurement"].epoch for _ in range(2)] == [3, 4]
    assert str(worker.step()["failure"]) == "the training ended before its last epoch"


@pytest.mark.parametrize(
    "error", [TrialError("out of memory"), TaskError("its loss failed"), InputError("no schedule")]
)
def test_what_ends_a_run_is_handed_in_and_ends_no_worker(make_worker, error):
    worker = make_worker(partial(three, error=error), num_recorded=2)
    assert worker.step()["measurement"].epoch == 3
    assert worker.step() == {"failure": error}
    assert worker.reset_config({"assignment": Assignment(run=RUN, num_recorded=0, known=())})
    assert worker.step()["measurement"].epoch == 1
    worker.cleanup()


def test_what_a_training_says_of_itself_is_asked_once_for_all_optimizers():
    answers = with_training(lambda devices: FakeTraining(), statements)
    assert answers.facts == FakeTraining().facts
    assert answers.environments["lamb"] == {"Device": "made up", "optimizer": "lamb"}
    assert answers.identities.keys() == answers.environments.keys() >= {"sgd", "adamw"}


def test_a_training_with_an_optimizer_of_its_own_is_asked_for_that_alone():
    training = FakeTraining()
    training.facts = replace(training.facts, optimizers=("own",))
    answers = statements(training)
    assert answers.identities.keys() == answers.environments.keys() == {"own"}
