"""Lightning's Trainer with the callback: its default interval, its warmup by hand, its plateau."""

import math
import warnings

import pytest
import torch
from torch.optim import lr_scheduler as lrs

pytestmark = pytest.mark.peers
pl = pytest.importorskip("lightning.pytorch")
AuditCallback = pytest.importorskip("lrtune.auditing.lightning").AuditCallback

EPOCHS, STEPS_PER_EPOCH = 4, 10
TOTAL_STEPS = EPOCHS * STEPS_PER_EPOCH
DATA = torch.utils.data.TensorDataset(torch.ones(2 * STEPS_PER_EPOCH, 2))


class Module(pl.LightningModule):
    """A tiny model whose optimizers are given as a function of it."""

    def __init__(self, configure):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.configure = configure

    def training_step(self, batch, index):
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self):
        return self.configure(self)


def sgd(module):
    return torch.optim.SGD(module.parameters(), lr=0.1)


def scheduled(build, **config):
    """What `configure_optimizers` returns for a scheduler built by `build`."""

    def configure(module):
        optimizer = sgd(module)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": build(optimizer), **config}}

    return configure


def fit(module, **changes):
    callback = AuditCallback()
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
        **changes,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, torch.utils.data.DataLoader(DATA, batch_size=2))
    callback.warned = "\n".join(str(warning.message) for warning in caught)
    return callback


def names(callback):
    return [finding.name for audit in callback.audits for finding in audit.findings]


def warmup_and_cosine(optimizer):
    transformers = pytest.importorskip("transformers")
    return transformers.get_cosine_schedule_with_warmup(optimizer, 8, TOTAL_STEPS)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({}, ["warmup-once-an-epoch"]),
        ({"interval": "epoch"}, ["warmup-once-an-epoch"]),
        ({"interval": "step"}, []),
    ],
)
def test_a_warmup_in_steps_at_the_default_interval(config, found):
    callback = fit(Module(scheduled(warmup_and_cosine, **config)))
    assert names(callback) == found
    assert callback.audits[0].lrs.shape == (1, TOTAL_STEPS)
    assert ("warmup-once-an-epoch" in callback.warned) == bool(found)


def test_epochs_are_counted_right_under_accumulation():
    cosine = scheduled(lambda o: lrs.CosineAnnealingLR(o, TOTAL_STEPS // 2), interval="step")
    assert names(fit(Module(cosine), accumulate_grad_batches=2)) == []
    cosine = scheduled(lambda o: lrs.CosineAnnealingLR(o, TOTAL_STEPS), interval="step")
    assert names(fit(Module(cosine), accumulate_grad_batches=2)) == ["cut-short"]


def test_a_cosine_of_epochs_called_each_step():
    assert names(fit(Module(scheduled(lambda o: lrs.CosineAnnealingLR(o, EPOCHS))))) == []
    by_step = scheduled(lambda o: lrs.CosineAnnealingLR(o, EPOCHS), interval="step")
    assert names(fit(Module(by_step))) == ["counted-in-epochs"]


class WarmsByHand(Module):
    """A warmup in `optimizer_step`: after the step, as it is often written, or before it."""

    before = False

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        if self.before:
            self.warm(optimizer, self.trainer.global_step)
        optimizer.step(closure=optimizer_closure)
        if not self.before:
            self.warm(optimizer, self.trainer.global_step - 1)

    def warm(self, optimizer, step):
        if step < 20:
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (step + 1) / 20


class WarmsBeforeTheStep(WarmsByHand):
    before = True


def test_a_warmup_by_hand_after_the_step():
    assert names(fit(WarmsByHand(sgd))) == ["first-step-unwarmed"]
    assert names(fit(WarmsBeforeTheStep(sgd))) == []


def test_a_warmup_by_hand_beside_a_scheduler():
    cosine = scheduled(lambda o: lrs.CosineAnnealingLR(o, TOTAL_STEPS), interval="step")
    assert names(fit(WarmsBeforeTheStep(cosine))) == ["two-writers"]


class Logs(Module):
    """Logs what the plateau is to see, or forgets to."""

    metric: float | None = None

    def on_train_epoch_end(self):
        if self.metric is not None:
            self.log("metric", self.metric / (1 + self.current_epoch))


@pytest.mark.parametrize(
    ("metric", "found"),
    [(1.0, []), (math.nan, ["plateau-without-metric"]), (None, ["plateau-without-metric"])],
)
def test_a_plateau_whose_metric_is_not_logged(metric, found):
    module = Logs(
        scheduled(lambda o: lrs.ReduceLROnPlateau(o, patience=1), monitor="metric", strict=False)
    )
    module.metric = metric
    assert names(fit(module)) == found


class Overflows(Module):
    def training_step(self, batch, index):
        return super().training_step(batch, index) * (
            math.inf if self.current_epoch == 0 and index < 3 else 1
        )


def test_steps_that_the_scaler_of_mixed_precision_skipped():
    module = Overflows(scheduled(lambda o: lrs.CosineAnnealingLR(o, TOTAL_STEPS), interval="step"))
    scaler = torch.amp.GradScaler("cpu")
    plugin = pl.plugins.MixedPrecision("16-mixed", "cpu", scaler=scaler)
    assert names(fit(module, plugins=[plugin])) == ["skipped-steps-counted"]


def test_each_optimizer_has_its_audit():
    class Two(Module):
        automatic_optimization = False

        def training_step(self, batch, index):
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(super().training_step(batch, index))
                optimizer.step()

    callback = fit(
        Two(lambda module: [sgd(module), torch.optim.AdamW(module.parameters(), lr=1e-3)])
    )
    assert [audit.title.split(", ")[1] for audit in callback.audits] == ["SGD", "AdamW"]
    assert names(callback) == []


def test_an_optimizer_that_made_no_step_ends_no_training():
    class One(Module):
        automatic_optimization = False

        def training_step(self, batch, index):
            _, optimizer = self.optimizers()
            self.manual_backward(super().training_step(batch, index))
            optimizer.step()

    callback = fit(
        One(lambda module: [sgd(module), torch.optim.AdamW(module.parameters(), lr=1e-3)])
    )
    assert [audit.title.split(", ")[1] for audit in callback.audits] == ["AdamW"]
    assert "at least one optimizer step must be watched" in callback.warned


def test_a_scheduler_that_cannot_be_copied_ends_no_training():
    def build(optimizer):
        scheduler = lrs.CosineAnnealingLR(optimizer, TOTAL_STEPS)
        scheduler.values = (value for value in ())
        return scheduler

    callback = fit(Module(scheduled(build, interval="step")))
    assert callback.audits[0].title == f"{TOTAL_STEPS} optimizer steps, SGD"
    assert "Only the LRs were seen, not what wrote them: `scheduler` must be such that" in " ".join(
        callback.warned.split()
    )


def test_of_two_schedulers_on_one_optimizer_neither_is_blamed():
    def configure(module):
        optimizer = sgd(module)
        warmup = {"scheduler": lrs.LinearLR(optimizer, 0.1, total_iters=10), "interval": "step"}
        return [optimizer], [warmup, lrs.MultiStepLR(optimizer, [2, 3])]

    assert names(fit(Module(configure))) == []


def test_an_error_in_fit_gives_the_optimizer_back():
    class Fails(Module):
        def on_train_epoch_end(self):
            raise ZeroDivisionError

    module = Fails(scheduled(lambda o: lrs.CosineAnnealingLR(o, TOTAL_STEPS), interval="step"))
    with pytest.raises(ZeroDivisionError):
        fit(module)
    assert not module.optimizers(use_pl_optimizer=False)._optimizer_step_post_hooks
    assert type(module.lr_schedulers()) is lrs.CosineAnnealingLR


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        while True:
            yield (torch.ones(2),)


def fitted(module, data=DATA, ckpt_path=None, callbacks=(), **trainer):
    callback = AuditCallback()
    quiet = {
        "accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "enable_checkpointing": False,
    }  # fmt: skip
    trainer = pl.Trainer(callbacks=[callback, *callbacks], **quiet | trainer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batches = torch.utils.data.DataLoader(data, batch_size=2)
        trainer.fit(module, batches, ckpt_path=ckpt_path)
    callback.trainer = trainer
    return callback


def cosine_of(length):
    return lambda: Module(scheduled(lambda o: lrs.CosineAnnealingLR(o, length), interval="step"))


class StopsEarly(pl.Callback):
    def on_train_epoch_end(self, trainer, module):
        trainer.should_stop = trainer.current_epoch >= 1


class InParts(Module):
    """Accumulates four batches by hand, and steps the scheduler once an epoch."""

    automatic_optimization = False

    def training_step(self, batch, index):
        self.manual_backward(super().training_step(batch, index))
        if (index + 1) % 4 == 0 or self.trainer.is_last_batch:
            self.optimizers().step()
            self.optimizers().zero_grad()
        if self.trainer.is_last_batch:
            self.lr_schedulers().step()


class Validates(Module):
    def validation_step(self, batch, index):
        self.log("loss", 1.0 / (1 + self.current_epoch))


class OfTheModel(Module):
    def multiplier(self, epoch):
        return 0.9**epoch


class Tuned(Module):
    """Has a backbone that is thawed in its second epoch."""

    def __init__(self, configure):
        super().__init__(configure)
        self.backbone = torch.nn.Linear(2, 2)

    def training_step(self, batch, index):
        return self.layer(self.backbone(batch[0])).square().mean()


def of_the_head(module):
    optimizer = torch.optim.SGD(module.layer.parameters(), lr=0.1)
    return [optimizer], [lrs.ExponentialLR(optimizer, 0.9)]


@pytest.mark.parametrize(
    ("build", "trainer", "found"),
    [
        # the length comes from the steps
        (cosine_of(45), {"max_steps": 45}, []),
        (cosine_of(4), {"max_steps": 4}, []),
        (cosine_of(30), {"max_steps": 45}, ["turns-up-again"]),
        (cosine_of(12), {"max_epochs": 4, "limit_train_batches": 3}, []),
        (cosine_of(16), {"max_epochs": 4, "accumulate_grad_batches": 3}, []),  # 3, 3, 3, 1
        (cosine_of(TOTAL_STEPS), {"max_epochs": EPOCHS, "callbacks": [StopsEarly()]}, []),
        (cosine_of(20), {"max_epochs": EPOCHS, "callbacks": [StopsEarly()]}, ["turns-up-again"]),
        (
            lambda: InParts(scheduled(lambda o: lrs.CosineAnnealingLR(o, EPOCHS))),
            {"max_epochs": EPOCHS}, [],
        ),
        (cosine_of(20), {"max_steps": 20, "data": Stream()}, []),
        (cosine_of(100), {"max_steps": 20, "data": Stream()}, ["cut-short"]),
        # the set-ups of the documentation
        (
            lambda: Module(scheduled(lambda o: lrs.ExponentialLR(o, 0.99), interval="step")),
            {"max_epochs": EPOCHS}, [],
        ),
        (
            lambda: Module(
                lambda module: {
                    "optimizer": (optimizer := sgd(module)),
                    "lr_scheduler": {
                        "scheduler": lrs.OneCycleLR(
                            optimizer, 0.1,
                            total_steps=int(module.trainer.estimated_stepping_batches) + 1,
                        ),
                        "interval": "step",
                    },
                }
            ),
            {"max_epochs": EPOCHS}, [],
        ),
        (
            lambda: Module(lambda module: (
                [optimizer := sgd(module)], [lrs.CosineAnnealingLR(optimizer, T_max=10)]
            )),
            {"max_epochs": 10}, [],
        ),
        (
            lambda: Module(scheduled(lambda o: lrs.StepLR(o, 2), interval="epoch", frequency=2)),
            {"max_epochs": 12}, [],
        ),
        (
            lambda: OfTheModel(
                lambda module: {
                    "optimizer": (optimizer := sgd(module)),
                    "lr_scheduler": lrs.LambdaLR(optimizer, module.multiplier),
                }
            ),
            {"max_epochs": EPOCHS}, [],
        ),
        (
            lambda: Module(scheduled(lambda o: lrs.CosineAnnealingLR(o, 10))),
            {
                "max_epochs": 10,
                "callbacks": [pl.callbacks.StochasticWeightAveraging(1e-2, annealing_epochs=2)],
            },
            [],
        ),
        (
            lambda: Tuned(of_the_head),
            {
                "max_epochs": 5,
                "callbacks": [
                    pl.callbacks.BackboneFinetuning(1, backbone_initial_lr=0.01, verbose=False)
                ],
            },
            [],
        ),
    ],
)  # fmt: skip
def test_a_training_of_lightning(build, trainer, found):
    assert names(fitted(build(), **trainer)) == found


@pytest.mark.parametrize(
    ("every", "patience", "found"),
    [(1, 2, []), (2, 2, ["plateau-stale-metric"]), (1, 20, ["plateau-patience-too-long"])],
)
def test_a_plateau_and_the_epochs_of_its_validation(every, patience, found):
    module = Validates(
        scheduled(
            lambda o: lrs.ReduceLROnPlateau(o, patience=patience), monitor="loss", strict=False
        )
    )
    callback = AuditCallback()
    trainer = pl.Trainer(
        max_epochs=12, accelerator="cpu", devices=1, logger=False, callbacks=[callback],
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        check_val_every_n_epoch=every, num_sanity_val_steps=0,
    )  # fmt: skip
    batches = torch.utils.data.DataLoader(DATA, batch_size=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, batches, batches)
    assert names(callback) == found


@pytest.mark.parametrize("length", [6, 60])
@pytest.mark.parametrize("first", [1, 3, 5])
def test_a_fit_that_goes_on_from_a_checkpoint(tmp_path, length, first):
    interval = "step" if length == 60 else "epoch"
    build = scheduled(lambda o: lrs.CosineAnnealingLR(o, length), interval=interval)
    fitted(Module(build), max_epochs=first).trainer.save_checkpoint(tmp_path / "half.ckpt")
    second = fitted(Module(build), max_epochs=6, ckpt_path=tmp_path / "half.ckpt")
    assert names(second) == []
    assert second.audits[0].lrs.shape == (1, (6 - first) * STEPS_PER_EPOCH)


def test_a_module_without_an_optimizer_trains():
    class Nothing(Module):
        def training_step(self, batch, index):
            return None

    assert fitted(Nothing(lambda module: None), max_epochs=1).audits == ()


class StopsWithin(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= 12


def test_a_training_that_is_stopped_within_an_epoch():
    callback = fitted(
        Module(scheduled(lambda o: lrs.CosineAnnealingLR(o, 100), interval="step")),
        max_epochs=10, callbacks=[StopsWithin()],
    )  # fmt: skip
    assert names(callback) == []
