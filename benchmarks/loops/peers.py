"""The loops of Optuna's example, Ray Tune and Lightning, as their documentation shows them.

Optuna's example is `pytorch/pytorch_simple.py` of optuna-examples with the case's model: a
`DataLoader` without workers, images only turned into tensors, `argmax` counted on the host for each
batch. Ray Tune trains the same function, each trial in a process that has 1/K of the GPU. Neither
augments, which spares them work that ours does.
"""

import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from typing import Any

import optuna
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torchvision.transforms import v2

from lrtune.training.native.data.images import Images

from .cases import Workload, learning_rates
from .reference import pil_loader, reference_transforms, synchronize, time_study, train_loader


def example_epochs(
    workload: Workload, train: Images, validation: Images, lr: float, epochs: int
) -> Iterator[float]:
    """Optuna's example: trains, and yields the accuracy after each epoch."""
    device = torch.device(workload.device)
    model = workload.build_model().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    to_tensor = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    train_batches = pil_loader(workload, train, to_tensor, train=True, num_workers=0)
    valid_batches = pil_loader(workload, validation, to_tensor, train=False, num_workers=0)
    for _ in range(epochs):
        model.train()
        for data, target in train_batches:
            data, target = data.to(device), target.to(device)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(data), target)
            loss.backward()
            optimizer.step()
        model.eval()
        correct = 0
        with torch.no_grad():
            for data, target in valid_batches:
                data, target = data.to(device), target.to(device)
                prediction = model(data).argmax(dim=1, keepdim=True)
                correct += prediction.eq(target.view_as(prediction)).sum().item()
        yield correct / len(validation)


class OptunaExample:
    """`study.optimize` over the example's objective, in `num_jobs` threads."""

    def __init__(self, workload: Workload, *, num_jobs: int):
        self.workload, self.num_jobs = workload, num_jobs
        if num_jobs > 1 and workload.device == "cpu":
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // num_jobs))

    def trials(self, num_trials: int, epochs: int) -> float:
        """Seconds that whole trials take."""
        data = self.workload.data

        def objective(trial: optuna.Trial) -> float:
            lr, accuracy = trial.suggest_float("lr", 0.005, 0.05, log=True), 0.0
            for epoch, accuracy in enumerate(
                example_epochs(self.workload, data.train, data.validation, lr, epochs)
            ):
                trial.report(accuracy, epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned
            return accuracy

        return time_study(
            objective, num_trials, torch.device(self.workload.device), num_jobs=self.num_jobs
        )


class RayTune:
    """A local cluster, where each trial is a process.

    Starting the cluster is not timed: a search does it once.
    """

    def __init__(self, workload: Workload, *, num_jobs: int):
        import ray

        self.workload, self.num_jobs = workload, num_jobs
        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new one is never silent
        # The workers find this package as this process does.
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        on_gpu = workload.device == "cuda"
        ray.init(
            address="local", num_cpus=max(num_jobs, os.cpu_count() or 1) if on_gpu else num_jobs,
            num_gpus=1 if on_gpu else 0, include_dashboard=False, log_to_driver=False,
            logging_level="error",
        )  # fmt: skip
        self.resources = {"cpu": 1, "gpu": 1 / num_jobs} if on_gpu else {"cpu": 1}

    def trials(self, num_trials: int, epochs: int) -> float:
        """Seconds that whole trials take."""
        from ray import tune

        data = self.workload.data
        trainable = tune.with_parameters(
            _train,
            workload=self.workload,
            train=data.train,
            validation=data.validation,
            epochs=epochs,
        )
        with tempfile.TemporaryDirectory() as folder:
            tuner = tune.Tuner(
                tune.with_resources(trainable, self.resources),
                param_space={"lr": tune.grid_search(learning_rates(num_trials))},
                tune_config=tune.TuneConfig(max_concurrent_trials=self.num_jobs),
                run_config=tune.RunConfig(storage_path=folder, verbose=0),
            )
            start = time.perf_counter()
            results = tuner.fit()
            seconds = time.perf_counter() - start
        if results.errors:
            raise RuntimeError(
                f"{len(results.errors)} of {num_trials} trials failed: {results.errors[0]}"
            )
        return seconds

    def close(self) -> None:
        """Ends the cluster."""
        import ray

        ray.shutdown()


def _train(
    config: dict[str, Any], *, workload: Workload, train: Images, validation: Images, epochs: int
) -> None:
    from ray import tune

    for accuracy in example_epochs(workload, train, validation, config["lr"], epochs):
        tune.report({"accuracy": accuracy})


class Lightning:
    """`Trainer.fit` with mixed precision; whole trials under Optuna.

    It goes without logger, checkpoints and progress bar.
    """

    def __init__(self, workload: Workload, *, num_workers: int):
        import lightning.pytorch  # here, since importing it sets its loggers' levels

        warnings.filterwarnings("ignore", module="lightning")
        for name in (
            lightning.pytorch.__name__,
            "lightning.fabric",
            "lightning.pytorch.utilities.rank_zero",
        ):
            logging.getLogger(name).setLevel(logging.ERROR)
        self.workload, self.num_workers = workload, num_workers
        self.device = torch.device(workload.device)
        self.train = train_loader(workload, channels_last=False, num_workers=num_workers)
        self.module: Any = None

    def epoch(self) -> float:
        """Images a second of one epoch of training.

        It is the second of each `fit`, as the first is for warming up.
        """
        if self.module is None:
            self.module = _lightning_module(self.workload, lr=0.01)
        clock = _lightning_clock(self.device)
        self._trainer(2, [clock]).fit(self.module, self.train)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # the next `fit` has an epoch to take it again
        return len(self.train) * self.workload.case.batch_size / clock.seconds[1]

    def trials(self, num_trials: int, epochs: int) -> float:
        """Seconds that whole trials take, one after the other."""
        self.module = None
        data = self.workload.data.validation
        validation = pil_loader(
            self.workload,
            data,
            reference_transforms(data, train=False),
            train=False,
            num_workers=self.num_workers,
        )

        def objective(trial: optuna.Trial) -> float:
            module = _lightning_module(
                self.workload, lr=trial.suggest_float("lr", 0.005, 0.05, log=True)
            )
            self._trainer(epochs, [_lightning_reporter(trial)]).fit(module, self.train, validation)
            return module.accuracies[-1]

        return time_study(objective, num_trials, self.device)

    def _trainer(self, epochs: int, callbacks: list[Any]) -> Any:
        import lightning

        return lightning.Trainer(
            max_epochs=epochs, accelerator="gpu" if self.device.type == "cuda" else "cpu",
            devices=1, precision="16-mixed" if self.device.type == "cuda" else "32-true",
            benchmark=True, callbacks=callbacks, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip


def _lightning_module(workload: Workload, lr: float) -> Any:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = workload.build_model()
            self.accuracies: list[float] = []
            self.right: list[Tensor] = []

        def training_step(self, batch: Any, index: int) -> Tensor:
            images, labels = batch
            return F.cross_entropy(self.model(images), labels)

        def validation_step(self, batch: Any, index: int) -> None:
            images, labels = batch
            self.right.append((self.model(images).argmax(dim=1) == labels).sum())

        def on_validation_epoch_end(self) -> None:
            self.accuracies.append(
                sum(right.item() for right in self.right) / workload.num_validation
            )
            self.right = []

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)

    return Module()


def _lightning_clock(device: torch.device) -> Any:
    import lightning

    class Clock(lightning.Callback):
        """Seconds of each epoch."""

        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            synchronize(device)
            self.start = time.perf_counter()

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            synchronize(device)
            self.seconds.append(time.perf_counter() - self.start)

    return Clock()


def _lightning_reporter(trial: optuna.Trial) -> Any:
    import lightning

    class Reporter(lightning.Callback):
        """Tells Optuna each epoch's accuracy, as its Lightning integration does."""

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            trial.report(pl_module.accuracies[-1], trainer.current_epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

    return Reporter()
