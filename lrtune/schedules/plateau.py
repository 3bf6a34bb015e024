"""Torch's `ReduceLROnPlateau` as a frozen state and a function."""

from dataclasses import dataclass, replace

from lrtune.core.decays import Plateau
from lrtune.core.objective import Objective


@dataclass(frozen=True, kw_only=True)
class PlateauState:
    """What the epochs observed so far have left behind."""

    multiplier: float = 1.0
    """Of the epoch about to start."""
    best: float
    """Best value so far; the worst there is (inf or -inf) before the first."""
    num_bad_epochs: int = 0
    """Epochs in a row that were not better than `best`; those of a cooldown do not count."""
    cooldown_left_epochs: int = 0
    """Epochs for which the rule still has to look away."""


def start(rule: Plateau) -> PlateauState:
    """The state before the first epoch."""
    return PlateauState(best=Objective.parse(rule.monitor).worst)


def observe(
    rule: Plateau, state: PlateauState, value: float, *, floor: float = 0.0
) -> PlateauState:
    """The state after one more epoch.

    An epoch that is not better than the best one, by more than the threshold, is bad. After more
    than `rule.patience_epochs` bad ones in a row the multiplier is taken times `rule.factor`, but
    not below `floor`, and the next `rule.cooldown_epochs` epochs cannot be bad. A NaN value is not
    better than anything: its epoch is a bad one.

    Torch's `eps` is left out, because it is an LR and not a multiplier: torch makes no reduction of
    1e-8 or less, so its LR can stay up to `1e-8 / (1 - factor)` above the one here. With `eps=0`
    the two are the same.

    Args:
        rule: `monitor` names the metric and gives the mode.
        state: the state before this epoch.
        value: of this epoch, what `rule.monitor` names.
        floor: least multiplier, torch's `min_lr` as a fraction of the peak.
    """
    better = Objective.parse(rule.monitor).improves(
        value,
        state.best,
        threshold=rule.threshold,
        relative=rule.threshold_mode == "rel",
    )
    num_bad_epochs = 0 if better or state.cooldown_left_epochs else state.num_bad_epochs + 1
    state = replace(
        state,
        best=value if better else state.best,
        num_bad_epochs=num_bad_epochs,
        cooldown_left_epochs=max(0, state.cooldown_left_epochs - 1),
    )
    if num_bad_epochs <= rule.patience_epochs:
        return state
    multiplier = max(state.multiplier * rule.factor, floor)
    return replace(
        state, multiplier=multiplier, num_bad_epochs=0, cooldown_left_epochs=rule.cooldown_epochs
    )
