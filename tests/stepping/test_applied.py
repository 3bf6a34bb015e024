"""`Applied`: every real optimizer step has the recipe's LR, and the program keeps its own."""

import pytest
import torch

from lrtune.auditing.watch import watch
from lrtune.core.decays import Constant, Cosine, Linear, Plateau
from lrtune.core.errors import InputError
from lrtune.core.recipe import ParameterGroup, Recipe
from lrtune.schedules import build_schedule
from lrtune.stepping.applied import Applied
from lrtune.stepping.counter import StepCounter
from tests.peers.cases import DECAYS, PLATEAUS, SHAPES, lrs_planned, metrics_of, recipe_of

RECIPE = Recipe(peak_lr=0.3, warmup_epochs=1, decay=Cosine())
RUN = {"steps_per_epoch": 4, "epochs": 3}
SCHEDULE = build_schedule(RECIPE, **RUN)
PLANNED = [0.3 * SCHEDULE(step) for step in range(12)]


class Recording(torch.optim.SGD):
    """SGD that notes the LR of each group within its step; it calls the step of its parent."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.used = []

    def step(self, closure=None):
        loss = super().step(closure)
        self.used.append(tuple(float(group["lr"]) for group in self.param_groups))
        return loss


def optimizer_of(*groups, kind=Recording, **settings):
    """An optimizer with a group of one weight for each dictionary."""
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in groups]
    for weight in weights:
        weight.grad = torch.zeros(1)
    given = [{"params": [w]} | group for w, group in zip(weights, groups, strict=True)]
    return kind(given, **{"lr": 0.1} | settings)


def lrs_in(optimizer):
    return [float(group["lr"]) for group in optimizer.param_groups]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("decay", DECAYS + PLATEAUS, ids=str)
def test_every_decay_has_the_lrs_of_its_schedule(decay, shape):
    recipe = recipe_of(decay, shape)
    optimizer = optimizer_of({})
    with Applied(optimizer, recipe, steps_per_epoch=5, epochs=8) as applied:
        for metric in metrics_of(recipe):
            for _ in range(5):
                optimizer.step()
            applied.observe(metric)
    assert [lr for (lr,) in optimizer.used] == lrs_planned(recipe)


@pytest.mark.parametrize(
    ("groups", "settings", "ratios"),
    [
        ([{}], {}, [1.0]),
        ([{"lr": 0.02}, {"lr": 0.2}], {}, [0.1, 1.0]),
        ([{"lr": 0.02, "initial_lr": 0.5}, {"lr": 0.2, "initial_lr": 1.0}], {}, [0.5, 1.0]),
        ([{"lr_scale": 0.25}, {"lr_scale": 2.0}], {}, [0.25, 2.0]),
        ([{"lr": 0.05, "lr_scale": 0.5}, {}], {}, [0.25, 1.0]),
        ([{"lr": 0.0}, {}], {}, [0.0, 1.0]),
        ([{"name": "backbone", "lr": 9.0}, {"lr": 0.02}, {"lr": 0.01}], {}, [0.125, 1.0, 0.5]),
        ([{"name": "fixed", "lr": 9.0}, {}, {"name": "other"}], {}, [0.75, 1.0, 1.0]),
        ([{"lr": torch.tensor(0.05)}, {"lr": torch.tensor(0.1)}], {}, [0.5, 1.0]),
        ([{}, {"lr_scale": 0.5}], {"lr": torch.tensor(0.1)}, [1.0, 0.5]),  # a shared tensor
    ],
)
def test_groups_keep_their_ratio_and_the_program_its_lrs(groups, settings, ratios):
    optimizer = optimizer_of(*groups, **settings)
    scales = (("backbone", 0.125),) if any(g.get("name") == "backbone" for g in groups) else ()
    recipe = Recipe(peak_lr=0.3, warmup_epochs=1, decay=Cosine(), group_scales=scales)
    fixed = (ParameterGroup(name="fixed", lr_scale=0.75), ParameterGroup(name="absent"))
    objects, values = [group["lr"] for group in optimizer.param_groups], lrs_in(optimizer)
    applied = Applied(optimizer, recipe, **RUN, groups=fixed)
    for planned in [*PLANNED, PLANNED[-1], PLANNED[-1]]:  # two steps past the planned end
        optimizer.step()
        wanted = pytest.approx([planned * ratio for ratio in ratios], rel=1e-6)
        assert optimizer.used[-1] == wanted
        assert applied.lrs == wanted
        assert all(g["lr"] is lr for g, lr in zip(optimizer.param_groups, objects, strict=True))
        assert lrs_in(optimizer) == values


def test_a_scheduler_of_the_program_goes_on_unheard():
    optimizer, alone = optimizer_of({}), optimizer_of({})
    schedulers = [torch.optim.lr_scheduler.StepLR(o, 2) for o in (optimizer, alone)]
    Applied(optimizer, RECIPE, **RUN)
    for _ in range(12):
        optimizer.step()
        alone.step()
        for scheduler in schedulers:
            scheduler.step()
        assert lrs_in(optimizer) == lrs_in(alone)
    assert [lr for (lr,) in optimizer.used] == PLANNED


def test_a_group_that_is_added_later_has_its_ratio_too():
    optimizer = optimizer_of({})
    Applied(optimizer, RECIPE, **RUN)
    optimizer.step()
    added = torch.nn.Parameter(torch.ones(1))
    optimizer.add_param_group({"params": [added], "lr": 0.05})
    optimizer.step()
    assert optimizer.used[-1] == (PLANNED[1], pytest.approx(PLANNED[1] / 2))


def test_a_step_that_raises_is_not_counted_and_leaves_nothing_behind():
    optimizer = optimizer_of({})
    applied = Applied(optimizer, RECIPE, **RUN)

    def fail():
        raise RuntimeError

    optimizer.step()
    with pytest.raises(RuntimeError):
        optimizer.step(fail)
    optimizer.step()
    assert [lr for (lr,) in optimizer.used] == PLANNED[:2]
    assert applied.num_steps == 2
    assert lrs_in(optimizer) == [0.1]


def test_an_lr_that_the_program_writes_within_the_step_stays():
    optimizer = optimizer_of({})
    Applied(optimizer, RECIPE, **RUN)

    def closure():
        optimizer.param_groups[0]["lr"] = 0.7
        return 0.0

    optimizer.step(closure)
    assert lrs_in(optimizer) == [0.7]


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_a_gradient_scaler_skips_is_not_a_step(fused):
    optimizer = optimizer_of({}, {"lr": 0.01}, kind=torch.optim.AdamW, fused=fused)
    applied = Applied(optimizer, RECIPE, **RUN)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    used = []
    for overflows in (False, True, True, False, True, False):
        for group in optimizer.param_groups:
            loss = group["params"][0].sum() * (float("inf") if overflows else 1.0)
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if not overflows:
            used.append(applied.lrs)
    assert [lr for lr, _ in used] == PLANNED[:3]
    assert applied.num_steps == 3
    assert lrs_in(optimizer) == [0.1, 0.01]


def test_an_answer_of_the_gpu_is_read_once_it_is_there():
    class Event:
        arrived = False

        def query(self):
            return self.arrived

        def synchronize(self):
            self.arrived = True

    counter, events = StepCounter(5), [Event(), Event(), Event()]
    for event, overflow in zip(events, (0.0, 1.0, 1.0), strict=True):
        counter._pending.append((torch.tensor([overflow]), event))
    assert counter.latest == 8
    events[0].arrived = events[1].arrived = True
    assert counter.latest == 7
    assert counter.exact == 6
    assert counter.latest == 6


class Wrapper(torch.optim.Optimizer):
    """A wrapper as accelerate and Fabric have them: without the hooks of torch."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self):
        return self.optimizer.step()


def test_the_optimizer_inside_a_wrapper_is_driven_and_watched():
    optimizer = optimizer_of({})
    wrapper = Wrapper(Wrapper(optimizer))
    with Applied(wrapper, RECIPE, **RUN), watch(wrapper, meant=RECIPE, **RUN) as seen:
        for _ in range(12):
            wrapper.step()
    assert seen.audit().lrs[0].tolist() == PLANNED == [lr for (lr,) in optimizer.used]


@pytest.mark.parametrize("after_num_steps", [0, 2, 5, 9])
@pytest.mark.parametrize(
    "decay", [Linear(), Plateau(patience_epochs=0, cooldown_epochs=1)], ids=lambda d: d.name
)
def test_a_resumed_run_goes_on_like_an_unbroken_one(decay, after_num_steps):
    recipe, optimizer = Recipe(warmup_epochs=1, decay=decay), optimizer_of({})
    applied = Applied(optimizer, recipe, **RUN)
    for step in range(12):
        if step == after_num_steps:
            state = applied.state_dict()
            applied.remove()
            applied = Applied(optimizer, recipe, **RUN)
            applied.load_state_dict(state)
        optimizer.step()
        if step % 4 == 3:
            applied.observe(1.0)
    schedule, planned = build_schedule(recipe, **RUN), []
    for epoch in range(3):
        planned += [0.1 * schedule(epoch * 4 + i) for i in range(4)]
        schedule = schedule.observe({"val_loss": 1.0})
    assert [lr for (lr,) in optimizer.used] == planned


def test_what_is_removed_leaves_the_optimizer_to_the_program():
    optimizer = optimizer_of({})
    with Applied(optimizer, RECIPE, **RUN):
        optimizer.step()
    optimizer.step()
    assert optimizer.used == [(PLANNED[0],), (0.1,)]
    Applied(optimizer, RECIPE, **RUN).remove()


def test_a_plateau_that_is_told_nothing_says_so():
    optimizer = optimizer_of({})
    applied = Applied(optimizer, Recipe(decay=Plateau()), **RUN)
    for _ in range(8):  # a validation may come after the first steps of the next epoch
        optimizer.step()
    with pytest.raises(InputError, match=r"`observe\(metric\)` once an epoch .* 0 calls in 2"):
        optimizer.step()
    applied.observe(1.0)
    optimizer.step()


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        ({"optimizer": "adam"}, ["`optimizer` must be one of torch's, but got str"]),
        (
            {"epochs": 0, "steps_per_epoch": 2.5},
            ["`steps_per_epoch` must be .* got 2.5", "`epochs` must be a whole number from 1"],
        ),
        (
            {"recipe": Recipe(warmup_epochs=3), "optimizer": optimizer_of({}, lr=0.0)},
            ["`warmup_epochs < epochs` must hold", "must be above 0, .* but got 0"],
        ),
        *(
            (
                {"optimizer": optimizer_of({"lr_scale": scale})},
                [f"`0 <= lr_scale` must hold in each parameter group, but got {scale!r}"],
            )
            for scale in (-1, float("inf"), float("nan"), "x", None, True)
        ),
        (
            {"recipe": Recipe(group_scales=(("body", 0.1),))},
            [r"`group_scales.body` must name .* \"name\": \"body\"}, but got the groups head, 1\."],
        ),
    ],
)
def test_what_cannot_be_is_refused(arguments, problems):
    given = {"optimizer": optimizer_of({"name": "head"}, {}), "recipe": RECIPE, **RUN} | arguments
    with pytest.raises(InputError) as refused:
        Applied(**given)
    assert len(refused.value.problems) == len(problems)
    for problem in problems:
        with pytest.raises(InputError, match=problem):
            raise refused.value


def test_an_optimizer_has_one_recipe_at_a_time():
    optimizer = optimizer_of({})
    Applied(optimizer, RECIPE, **RUN)
    with pytest.raises(InputError, match="one recipe at a time"):
        Applied(optimizer, Recipe(decay=Constant()), **RUN)


@pytest.mark.slow
def test_a_compiled_step_reads_the_lr_of_each_step():
    optimizer = optimizer_of({}, kind=torch.optim.AdamW, lr=torch.tensor(0.1))
    applied = Applied(optimizer, RECIPE, **RUN)
    step = torch.compile(optimizer.step, backend="eager")
    for planned in PLANNED:
        weight = optimizer.param_groups[0]["params"][0]
        before = weight.detach().clone()
        weight.grad = torch.ones(1)
        step()
        assert applied.lrs == (planned,)
        # AdamW with a constant gradient moves by the LR, and by its weight decay.
        assert float(before * (1 - 0.01 * planned) - weight.detach()) == pytest.approx(
            planned, rel=1e-3
        )
    assert lrs_in(optimizer) == [pytest.approx(0.1)]
