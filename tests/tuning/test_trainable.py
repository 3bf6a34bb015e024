"""What a worker of a cluster hands in, without a cluster."""

from functools import partial
from itertools import islice

import pytest

from lrtune.core.errors import InputError, TaskError, TrialError
from lrtune.core.recipe import Recipe
from lrtune.core.run import Assignment
from tests.studies import full_run
from tests.tuning.fake_objective import measurement

pytest.importorskip("ray")
from lrtune.tuning.trainable import RunTrainable

EPOCHS = 4
RUN = full_run(Recipe(), EPOCHS)


@pytest.fixture
def make_worker():
    def make(train, *, num_recorded=0):
        worker = object.__new__(RunTrainable)  # Tune's own beginnings write files
        config = {"assignment": Assignment(run=RUN, num_recorded=num_recorded, known=())}
        worker.setup(config, open_training=lambda: train, timeout_s=0)
        return worker

    return make


def training(assignment, *, error=None):
    """Three epochs, and then an error, or one epoch more."""
    epochs = (measurement(assignment.run, epoch) for epoch in range(1, EPOCHS + 1))
    yield from islice(epochs, 3)
    if error:
        raise error
    yield from epochs


def test_a_step_is_an_epoch_that_is_not_recorded(make_worker):
    worker = make_worker(training, num_recorded=2)
    assert [worker.step()["measurement"].epoch for _ in range(2)] == [3, 4]
    assert str(worker.step()["failure"]) == "the training ended before its last epoch"


@pytest.mark.parametrize(
    "error", [TrialError("out of memory"), TaskError("its loss failed"), InputError("no schedule")]
)
def test_what_ends_a_run_is_handed_in_and_ends_no_worker(make_worker, error):
    worker = make_worker(partial(training, error=error), num_recorded=2)
    assert worker.step()["measurement"].epoch == 3
    assert worker.step() == {"failure": error}
    assert worker.reset_config({"assignment": Assignment(run=RUN, num_recorded=0, known=())})
    assert worker.step()["measurement"].epoch == 1
    worker.cleanup()
