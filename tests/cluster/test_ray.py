"""Studies on a real cluster of local nodes: what the local engine does, and what a cluster adds."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

pytest.importorskip("ray")

import lrtune
from lrtune.core.engines import Ray
from lrtune.core.errors import InputError, TaskError
from lrtune.core.events import EpochEnded, RunEnded
from lrtune.core.recipe import Recipe
from lrtune.core.study import Budget
from lrtune.decide.recommend import recommend
from lrtune.store.database import StudyDatabase
from lrtune.training.native.data.images import Images
from lrtune.tuning.cluster import connect
from lrtune.tuning.ray_engine import RayEngine
from tests.cluster.fake_training import (
    NotShared,
    OpenFake,
    from_anywhere,
    node_of,
    processes_of,
    records_of,
    states_in,
    url_of,
    work_on_cluster,
)
from tests.studies import timeless
from tests.tuning.fake_objective import (
    EPOCHS,
    OpenWorker,
    make_config,
    measurements_of,
    open_store,
    unkeyed,
    work_here,
)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]

TASK = """
from pathlib import Path
import torch
from torch import nn
import lrtune
from lrtune.training.native.data.images import Images

def task():
    with open(Path(__file__).parent / "read.log", "a") as file:
        print("read", file=file)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (400,), generator=generator)
    pixels = torch.randint(0, 120, (400, 1, 8, 8), generator=generator, dtype=torch.uint8)
    pixels[torch.arange(400), 0, labels, labels] = 255
    sets = [Images(images=pixels[rows], labels=labels[rows], mean=(0.25,), std=(0.2,))
            for rows in (slice(0, 300), slice(300, 400))]
    return lrtune.Task(model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4)),
                       train=sets[0], validation=sets[1], test=sets[1], num_classes=4,
                       epochs=3, name="corners")
"""


SPACE = """
[parameters]
peak_lr = { low = 0.0005, high = 10.0, log = true }
warmup_epochs = { low = 0, high = 3, step = 1 }
decay = { choices = ["cosine", "linear", "constant"] }
"""
"""In which some trials are pruned and some diverge."""


def eventful(**changes):
    return make_config(
        space_toml=SPACE,
        sampler="random",
        seed=3,
        budget=Budget(14, "trials"),
        **changes,
    )


@pytest.fixture
def store(tmp_path):
    return open_store(url_of(tmp_path), eventful())


@pytest.fixture
def unbroken(tmp_path):
    """What the local engine records of the same study."""
    (tmp_path / "unbroken").mkdir()
    there = open_store(url_of(tmp_path / "unbroken"), eventful())
    work_here(there)
    return there


def test_at_one_slot_the_study_is_that_of_the_local_engine(three_nodes, store, unbroken, tmp_path):
    done, _ = work_on_cluster(store, OpenFake(tmp_path), three_nodes.address, max_concurrent=1)
    assert not done.failed
    assert records_of(store) == records_of(unbroken)
    assert [r.run.id for r in store.state().records] == [r.run.id for r in unbroken.state().records]


def test_at_many_slots_the_study_is_that_of_one_and_all_nodes_train(
    three_nodes, store, unbroken, tmp_path
):
    seen = []
    done, _ = work_on_cluster(
        store, OpenFake(tmp_path, epoch_s=0.2), three_nodes.address, emit=seen.append
    )
    assert not done.failed
    state = store.state()
    assert records_of(store) == records_of(unbroken)
    for record in state.records:
        alone = measurements_of(record.run, record.epochs)
        assert repr(unkeyed(from_anywhere(record.measurements))) == repr(alone)
        assert record.epochs == EPOCHS or record.state in ("pruned", "diverged")
    processes = {pid for pids in processes_of(store).values() for pid in pids}
    assert len(processes) == 3  # one a node, each for one run after the other
    assert len([event for event in seen if isinstance(event, RunEnded)]) == len(state.records)


def test_everything_is_recorded_before_it_is_shown_also_the_last_epoch_before_a_stop(
    three_nodes, store, tmp_path
):
    def check(event):
        if isinstance(event, EpochEnded):
            there = next(r for r in store.state().records if r.run.id == event.run.id)
            assert repr(there.measurements[event.measurement.epoch - 1]) == repr(event.measurement)
        if isinstance(event, RunEnded):
            there = next(r for r in store.state().records if r.run.id == event.record.run.id)
            assert (there.state, there.epochs) == (event.record.state, event.record.epochs)

    work_on_cluster(store, OpenFake(tmp_path), three_nodes.address, emit=check, max_concurrent=1)
    assert {r.state for r in store.state().records} == {"completed", "pruned", "diverged"}


def test_without_reuse_every_run_has_a_process_of_its_own(three_nodes, tmp_path):
    store = open_store(url_of(tmp_path), make_config(budget=Budget(2, "trials"), confirm="0"))
    work_on_cluster(
        store, OpenFake(tmp_path), three_nodes.address, reuse_actors=False, max_concurrent=2
    )
    processes = [pid for pids in processes_of(store).values() for pid in pids]
    assert len(set(processes)) == len(processes) == len(store.state().records)


def test_a_node_that_joins_in_the_middle_is_used(three_nodes, store, tmp_path):
    joined, nodes = [], set()

    def join(event):
        if isinstance(event, RunEnded) and not joined:
            joined.append(three_nodes.add_node(num_cpus=1))
        if isinstance(event, EpochEnded):
            nodes.add(node_of(int(event.measurement.examples_per_s)))

    try:
        work_on_cluster(store, OpenFake(tmp_path, epoch_s=0.4), three_nodes.address, emit=join)
        assert len(nodes) == 4
    finally:
        three_nodes.remove_node(joined[0])


def test_the_engine_asks_its_training_on_the_cluster(three_nodes, tmp_path):
    open_store(url_of(tmp_path), make_config(budget=Budget(2, "trials")))
    states, recipe = states_in(tmp_path / "states"), Recipe(peak_lr=0.5)
    options = Ray(max_concurrent=1, storage_path=str(tmp_path / "states"))
    with connect(three_nodes.address, cpus_per_trial=1, gpus_per_trial=0) as cluster:
        engine = RayEngine(options, OpenFake(tmp_path), cluster=cluster, probe=states)
        assert engine.facts.steps_per_epoch == 10
        assert engine.facts.device == "Ray, 3 nodes: 3 x 1 CPU, 0 GPU; a made-up device"
        assert engine.environment(recipe)["Device"] == "made up"
        assert engine.environment(recipe)["Cluster"].endswith("3 nodes: 3 x 1 CPU, 0 GPU")
        assert engine.sweep(recipe, seed=3).seed == 3
        states.save("final", {"epochs": 12}, 12)
        assert engine.test(["final", "lost"], states) == {"final": {"top1": 12.0}}
        done = engine.work(OpenWorker(url_of(tmp_path), tmp_path / "states"), lambda event: None)
        assert not done.failed
        with pytest.raises(InputError, match="must be shared by all nodes") as caught:
            RayEngine(options, OpenFake(tmp_path), cluster=cluster, probe=NotShared())
        assert len(caught.value.problems) == 3


def test_a_task_that_never_trains_ends_the_study(three_nodes, store, tmp_path):
    with pytest.raises(TaskError, match="the task is broken"):
        work_on_cluster(store, OpenFake(tmp_path, task_fails=True), three_nodes.address)
    assert all(record.orphaned for record in store.state().records)  # given back


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (
            {"cpus_per_trial": 2.0, "gpus_per_trial": 0},
            "2 CPU, 0 GPU, which no node has; .* 3 nodes: 3 x 1 CPU, 0 GPU",
        ),
        ({"cpus_per_trial": 1.0, "gpus_per_trial": 0.5}, "1 CPU, 0.5 GPU, which no node has"),
    ],
)
def test_a_trial_that_no_node_can_hold_is_refused_at_once(three_nodes, request_, words):
    with pytest.raises(InputError, match=words), connect(three_nodes.address, **request_):
        pass


def test_what_fits_on_the_nodes_is_how_many_train_side_by_side(three_nodes):
    for cpus, slots in ((1.0, 3), (0.5, 6), (0.3, 9)):
        with connect(three_nodes.address, cpus_per_trial=cpus, gpus_per_trial=None) as cluster:
            assert cluster.num_slots() == slots


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("auto", "nobody answers at 127.0.0.1:9"),  # it was started here, and has died since
        ("127.0.0.1:9", "nobody answers at 127.0.0.1:9"),
        ("banana", "neither auto, nor local, nor host:port"),
        ("ray://127.0.0.1:10001", "submit a job"),
    ],
)
def test_a_cluster_that_is_not_there_is_said_at_once(address, words, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:9")
    with (
        pytest.raises(InputError, match=words),
        connect(address, cpus_per_trial=1, gpus_per_trial=0),
    ):
        pass


# --- the command line, real training


@pytest.fixture
def task_file(tmp_path):
    path = tmp_path / "corners.py"
    path.write_text(TASK)
    return path


SEARCH = (
    "--budget",
    "5",
    "--seeds",
    "2",
    "--max-seeds",
    "2",
    "--study",
    "corners",
    "--batch-size",
    "50",
)


def outcome(folder):
    """What the study says, but for how long it took and on what machine."""
    state = StudyDatabase(f"sqlite:///{folder}/lrtune.db").study("corners").state()
    return [
        repr(replace(r, measurements=timeless(r.measurements, prefix=""))) for r in state.records
    ]


def test_real_training_comes_out_as_on_the_local_engine_and_the_data_are_read_once(
    three_nodes, here, call, task_file, tmp_path
):
    local = call("search", "--task", task_file, *SEARCH, "--home", "local", "--quiet", "--json")
    assert local.code == 0
    (tmp_path / "read.log").unlink()
    storage = f"file://{tmp_path / 'shared'}"
    remote = call(
        "search", "--task", task_file, *SEARCH, "--home", "remote", "--quiet", "--json",
        "--engine", "ray",
        "--address", three_nodes.address, "--max-concurrent", "1", "--storage-path", storage,
    )  # fmt: skip
    assert (remote.code, remote.err) == (0, "")
    assert outcome(here / "remote") == outcome(here / "local")
    assert (tmp_path / "read.log").read_text().split() == ["read"]
    assert json.loads(remote.out)["recommendation"] == json.loads(local.out)["recommendation"]
    state = StudyDatabase(f"sqlite:///{here}/remote/lrtune.db").study("corners").state()
    recommended = [
        record for record in state.fresh if record.run.trial == recommend(state).best.trial
    ]
    kept = list((tmp_path / "shared" / "corners").iterdir())
    assert len(kept) == len(recommended)  # their weights, a state a seed


def test_a_report_can_be_written_while_a_study_runs(three_nodes, here, task_file, command):
    words = (
        "search",
        "--task",
        str(task_file),
        *SEARCH,
        "--engine",
        "ray",
        "--address",
        three_nodes.address,
    )
    process = subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        report = here / "reports" / "corners" / "report.md"
        while process.poll() is None and not report.exists():
            subprocess.run(command("report", "corners"), capture_output=True, check=False)
        assert report.exists()
    finally:
        process.communicate()
    assert process.returncode == 0


def test_checkpoints_that_nodes_do_not_share_are_found_before_anything_is_trained(
    three_nodes, here, call, task_file
):
    flags = (
        "--engine",
        "ray",
        "--address",
        three_nodes.address,
        "--storage-path",
        "memory://checkpoints",
    )
    refused = call("search", "--task", task_file, *SEARCH, *flags)
    assert refused.code == 2
    assert refused.err.count("`--storage-path` must be shared by all nodes, but node ") == 3
    assert not Path(".lrtune").exists() or not StudyDatabase("sqlite:///.lrtune/lrtune.db").names()


def test_flags_of_one_engine_do_not_go_with_the_other(call):
    for flags in (
        ("--address", "auto", "--max-retries", "1"),
        ("--engine", "ray", "--jobs", "2", "--lanes", "2"),
    ):
        refused = call("search", *flags)
        assert refused.code == 2
        assert refused.err.count("does not go with `--engine") == 2


def test_a_python_task_goes_to_the_workers_with_all_that_it_holds(three_nodes, here):
    labels = torch.arange(64) % 4
    pixels = 60 * labels.to(torch.uint8)[:, None, None, None].expand(64, 1, 4, 4).contiguous()
    images = Images(images=pixels, labels=labels, mean=(0.5,), std=(0.3,))
    scale = 2.0
    result = lrtune.search(
        lrtune.Task(
            model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 4)),
            loss=lambda x, y: scale * cross_entropy(x, y), train=images, validation=images,
            num_classes=4, settings=lrtune.TrainSettings(batch_size=16, augment=False),
        ),
        budget=2, epochs=2, num_seeds=1, max_seeds=1, quiet=True,
        engine=lrtune.Ray(address=three_nodes.address, cpus_per_trial=0.5),
    )  # fmt: skip
    assert {record.run.kind for record in result.state.records} == {"baseline", "full", "confirm"}
    assert "3 nodes: 3 x 1 CPU" in result.state.config.environment["Cluster"]
