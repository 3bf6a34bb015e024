"""Exports to Keras: `fit` uses the LRs of the schedule, in double precision."""

import os

import pytest

from lrtune.core.errors import InputError
from lrtune.core.recipe import (
    OPTIMIZERS,
    Constant,
    Cosine,
    Exponential,
    Linear,
    Polynomial,
    Recipe,
    StepDecay,
)
from tests.peers.cases import (
    DECAYS,
    EPOCHS,
    FINAL_FRACS,
    PEAK_LR,
    PLATEAUS,
    STEPS_PER_EPOCH,
    TOP1S,
    VAL_LOSSES,
    WARMUPS_EPOCHS,
    deviation,
    exported,
)

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
pytestmark = pytest.mark.peers


@pytest.fixture(autouse=True)
def _double_precision():
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(before)


class Metrics(keras.callbacks.Callback):
    """Puts the metrics of the tests into the logs, before the callbacks after it read them."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"], logs["val_accuracy"] = VAL_LOSSES[epoch], TOP1S[epoch] / 100


class Recorder(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.used = []

    def on_train_batch_begin(self, batch, logs=None):
        self.used.append(float(self.model.optimizer.learning_rate))


def trained(recipe):
    import numpy as np

    found = {}
    exec(exported(recipe, "keras").text, found)
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(optimizer=found["optimizer"], loss="mse", run_eagerly=True)
    recorder = Recorder()
    plateau = [found["Plateau"]()] if "Plateau" in found else []
    x = np.ones((STEPS_PER_EPOCH, 1))
    model.fit(
        x, x, batch_size=1, epochs=EPOCHS, verbose=0, callbacks=[Metrics(), *plateau, recorder]
    )
    return recorder.used


@pytest.mark.parametrize("final_frac", FINAL_FRACS)
@pytest.mark.parametrize("warmup_epochs", WARMUPS_EPOCHS)
@pytest.mark.parametrize("decay", DECAYS + PLATEAUS, ids=str)
def test_code_has_the_lrs_of_the_schedule(decay, warmup_epochs, final_frac):
    recipe = Recipe(
        peak_lr=PEAK_LR, warmup_epochs=warmup_epochs, decay=decay, final_frac=final_frac
    )
    assert exported(recipe, "keras").exact
    assert deviation(trained(recipe), recipe) <= 1e-9


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rmsprop", "adam", "adamw"])
def test_every_optimizer_that_keras_has_is_built(optimizer):
    recipe = Recipe(optimizer=optimizer, peak_lr=PEAK_LR, warmup_epochs=1, weight_decay=0.01)
    assert deviation(trained(recipe), recipe) <= 1e-9


@pytest.mark.parametrize(
    "optimizer", sorted(set(OPTIMIZERS) - {"sgd", "adagrad", "rmsprop", "adam", "adamw"})
)
def test_other_optimizers_are_refused(optimizer):
    with pytest.raises(InputError, match=r"Keras has .*use `--to torch`"):
        exported(Recipe(optimizer=optimizer), "keras")


@pytest.mark.parametrize(
    ("decay", "built_in"),
    [
        (Constant(), "learning_rate = 0.1\n"),
        (Cosine(), "schedules.CosineDecay("),
        (Linear(), "schedules.PolynomialDecay("),
        (Polynomial(), "schedules.PolynomialDecay("),
        (Exponential(), "schedules.ExponentialDecay("),
        (StepDecay(every_epochs=3), "class Schedule("),
    ],
)
def test_kerass_own_schedule_where_it_is_the_same(decay, built_in):
    assert built_in in exported(Recipe(decay=decay), "keras").text
    assert "class Schedule(" in exported(Recipe(decay=decay, warmup_epochs=1), "keras").text


def test_a_saved_model_can_be_loaded_where_the_code_is(tmp_path):
    found = {}
    exec(exported(Recipe(warmup_epochs=1), "keras").text, found)
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(optimizer=found["optimizer"], loss="mse")
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert float(again.optimizer.learning_rate) == pytest.approx(0.1 / STEPS_PER_EPOCH)
