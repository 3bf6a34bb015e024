"""Ray Tune trains the runs of a cluster, and decides nothing.

A run is a trial of Tune. Tune's searcher asks `ClusterRuns` for the next one, Tune's scheduler
hands over each measurement and stops the trial when told to; both do nothing else. Tune's own
experiment folder holds nothing that is needed again and lies in a temporary folder: a study goes on
from its database and its checkpoints.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from lrtune.core.engines import Ray
from lrtune.core.errors import LrtuneError
from lrtune.core.events import Note
from lrtune.core.run import Assignment
from lrtune.core.training import OpenTraining, States
from lrtune.decide.plan import Done, Wait
from lrtune.tuning.cluster import Cluster
from lrtune.tuning.cluster_runs import ClusterRuns
from lrtune.tuning.engine import Emit
from lrtune.tuning.trainable import RunTrainable
from lrtune.tuning.variables import variables_set

MAX_WORKERS = 1_000_000
ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one is never silent
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends it as it ends any search
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_MAX_PENDING_TRIALS_PG": str(MAX_WORKERS),  # the searcher knows how many there may be
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
LOOK_EVERY_S = 2.0
"""At the nodes of the cluster, of which some may have come or gone."""
TELL_AFTER_S = 30.0
"""Without a node that can hold a trial."""


def train_on_cluster(
    runs: ClusterRuns,
    open_training: OpenTraining,
    states: States | None,
    *,
    cluster: Cluster,
    options: Ray,
    emit: Emit,
) -> Done:
    """Trains runs on a cluster until nothing is left to start.

    Raises:
        StoreError: the study cannot be recorded any more.
        TaskError: the task failed before any run of the study got through an epoch.
    """
    trainable = tune.with_parameters(
        RunTrainable, open_training=open_training, states=states, timeout_s=options.trial_timeout_s
    )
    request = {name.lower(): amount for name, amount in cluster.request.items()}
    for _ in range(1 + options.max_retries):
        experiment = _Experiment(runs, cluster, options, emit)
        failure = ""
        with runs.at_work():
            try:
                _fit(experiment, tune.with_resources(trainable, request), options)
            except Exception as error:  # a bug of Tune's, such as the death of an idle worker
                failure = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1]}"
        if experiment.error is not None:
            raise experiment.error
        if experiment.done is not None:
            return experiment.done
        why = failure or "it did not say why"
        emit(Note(f"Ray Tune ended early ({why}); its runs go on in a new experiment"))
    raise LrtuneError(
        f"Ray Tune failed again and again ({failure}); "
        "`lrtune resume` goes on from what is recorded."
    )


def _fit(experiment: "_Experiment", trainable: Any, options: Ray) -> None:
    with variables_set(ENVIRONMENT), tempfile.TemporaryDirectory(prefix="lrtune-") as folder:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_Searcher(experiment),
                scheduler=_Scheduler(experiment),
                num_samples=-1,
                reuse_actors=options.reuse_actors,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="study",
                storage_path=folder,
                stop=_Stopper(experiment),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=options.max_retries),
                verbose=0,
            ),
        ).fit()


class _Experiment:
    """Where searcher, scheduler and stopper meet.

    What goes wrong here ends Tune's experiment, and is raised after it.
    """

    def __init__(self, runs: ClusterRuns, cluster: Cluster, options: Ray, emit: Emit):
        self.runs = runs
        self.error: Exception | None = None
        self.done: Done | None = None
        self._cluster = cluster
        self._options = options
        self._emit = emit
        self._run_ids: dict[str, str] = {}
        self._heard_at: dict[str, float] = {}
        self._looked_at = -LOOK_EVERY_S
        self._num_slots = 0
        self._full_since = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles all that it is given into a file that nobody reads."""
        return {}

    @contextmanager
    def errors_kept(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Tune would make a text of it
            self.error = self.error or error

    def next(self, trial_id: str) -> Assignment | Wait | Done:
        """What a new trial of Tune is to train."""
        if len(self.runs.running) >= self._slots():
            return Wait()
        step = self.runs.next()
        if isinstance(step, Done):
            self.done = step
        elif isinstance(step, Assignment):
            self._run_ids[trial_id] = step.run.id
            self._heard_at[trial_id] = time.monotonic()
        return step

    def record(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Whether a trial goes on after what its worker sent."""
        run_id = self._run_ids[trial_id]
        self._heard_at[trial_id] = time.monotonic()
        if not self.runs.is_at_work(run_id):
            return False
        if "failure" in result:
            self.runs.fail(run_id, result["failure"])
            return False
        return self.runs.record(run_id, result["measurement"])

    def lose(self, trial: Trial) -> None:
        """Gets a trial ready to go on with another worker."""
        run_id = self._run_ids[trial.trial_id]
        if not self.runs.is_at_work(run_id):  # it had ended, and then its worker died
            return
        self.runs.lose(run_id, self._why(trial))
        self._heard_at[trial.trial_id] = time.monotonic()
        trial.set_config({"assignment": self.runs.assignment(run_id)})

    def give_up(self, trial_id: str) -> None:
        """Ends a trial that Tune will not try again."""
        if self.runs.is_at_work(self._run_ids[trial_id]):
            self.runs.give_up(self._run_ids[trial_id])

    def _why(self, trial: Trial) -> str:
        timeout_s = self._options.trial_timeout_s
        if timeout_s and time.monotonic() - self._heard_at[trial.trial_id] >= timeout_s:
            return f"it was silent for more than {timeout_s:g} s (--trial-timeout)"
        text = (
            Path(trial.error_file).read_text(encoding="utf-8").strip() if trial.error_file else ""
        )
        if "OutOfMemoryError" in text:
            return "its node ran out of memory"
        signs = ("actor died", "ActorDied", "unavailable", "ActorUnavailable")
        if any(sign in text for sign in signs):
            return "its process or its node died"
        return text.splitlines()[-1] if text else "Ray Tune did not say why"

    def _slots(self) -> int:
        """How many trials there may be now."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at, self._num_slots = now, self._cluster.num_slots()
            if self._num_slots:
                self._full_since = now
            elif now - self._full_since > TELL_AFTER_S:
                self._full_since = now
                cluster = self._cluster.described()
                self._emit(Note(f"no node can hold a trial now ({cluster}); waiting for one"))
        return self._options.max_concurrent or self._num_slots


class _Searcher(Searcher):  # type: ignore[misc]
    """Asks for the next run."""

    def __init__(self, experiment: _Experiment):
        super().__init__()
        self._experiment = experiment

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The configuration of a new trial, `FINISHED`, or `None` for none now."""
        if self._experiment.error is None:
            with self._experiment.errors_kept():
                step = self._experiment.next(trial_id)
                if isinstance(step, Assignment):
                    return {"assignment": step}
                if isinstance(step, Wait):
                    return None
        return str(Searcher.FINISHED)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Ends the run where Tune has given it up; the scheduler has seen to all others."""
        if error:
            with self._experiment.errors_kept():
                self._experiment.give_up(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a study goes on from its database."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class _Scheduler(FIFOScheduler):  # type: ignore[misc]
    """Hands over each measurement."""

    def __init__(self, experiment: _Experiment):
        super().__init__()
        self._experiment = experiment
        self._keeps_workers = False

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """None: Tune starts what is pending by itself.

        FIFO's choice would give a worker that has become free to a trial whose own is about to
        start, and end that one: where runs are short, a node that has joined would never get to
        train.
        """
        return None

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Lets Tune keep all workers through a pause of the plan, where it would end all but one.

        There is no public way to say so; without it, those that are needed after the pause are
        started anew.
        """
        if not self._keeps_workers:
            self._keeps_workers = True
            controller = getattr(tune_controller, "_tune_controller", tune_controller)
            cache = getattr(controller, "_actor_cache", None)
            if cache is not None:
                cache.increase_max(trial.placement_group_factory, by=MAX_WORKERS)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Whether a trial goes on."""
        goes_on = False
        if self._experiment.error is None:
            with self._experiment.errors_kept():
                goes_on = self._experiment.record(trial.trial_id, result)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Gets a trial ready that lost its worker."""
        with self._experiment.errors_kept():
            self._experiment.lose(trial)


class _Stopper(Stopper):  # type: ignore[misc]
    """Ends the experiment where something went wrong."""

    def __init__(self, experiment: _Experiment):
        self._experiment = experiment

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never: the scheduler stops trials."""
        return False

    def stop_all(self) -> bool:
        """Whether to end the experiment."""
        return self._experiment.error is not None
