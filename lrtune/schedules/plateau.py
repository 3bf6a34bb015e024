"""Feedback from the metrics of past epochs: torch's `ReduceLROnPlateau` as a frozen state and a function."""

import math
from dataclasses import dataclass, replace

from lrtune.core.recipe import Plateau


@dataclass(frozen=True, kw_only=True)
class PlateauState:
    """What the epochs observed so far have left behind."""

    multiplier: float = 1.0
    """Of the epoch about to start."""
    best: float
    """Best metric so far; the worst there is (inf or -inf) before the first."""
    num_bad_epochs: int = 0
    """Epochs in a row that were not better than `best`; those of a cooldown do not count."""
    cooldown_left_epochs: int = 0
    """Epochs for which the rule still has to look away."""


def start(rule: Plateau) -> PlateauState:
    """The state before the first epoch."""
    return PlateauState(best=math.inf if rule.monitor == "val_loss" else -math.inf)


def observe(
    rule: Plateau, state: PlateauState, metric: float, *, floor: float = 0.0
) -> PlateauState:
    """The state after one more epoch.

    An epoch that is not better than the best one, by more than the threshold, is bad. After more
    than `rule.patience_epochs` bad ones in a row the multiplier is taken times `rule.factor`, but
    not below `floor`, and the next `rule.cooldown_epochs` epochs cannot be bad. A NaN metric is not
    better than anything: its epoch is a bad one.

    Torch's `eps` is left out, because it is an LR and not a multiplier: torch makes no reduction of
    1e-8 or less, so its LR can stay up to `1e-8 / (1 - factor)` above the one here. With `eps=0`
    the two are the same.

    Args:
        rule: `monitor` gives the mode: a lower `val_loss` is better, a higher `top1`.
        state: the state before this epoch.
        metric: of this epoch, what `rule.monitor` names.
        floor: least multiplier, torch's `min_lr` as a fraction of the peak.
    """
    better = _is_better(rule, metric, state.best)
    num_bad_epochs = 0 if better or state.cooldown_left_epochs else state.num_bad_epochs + 1
    state = replace(
        state,
        best=metric if better else state.best,
        num_bad_epochs=num_bad_epochs,
        cooldown_left_epochs=max(0, state.cooldown_left_epochs - 1),
    )
    if num_bad_epochs <= rule.patience_epochs:
        return state
    multiplier = max(state.multiplier * rule.factor, floor)
    return replace(
        state, multiplier=multiplier, num_bad_epochs=0, cooldown_left_epochs=rule.cooldown_epochs
    )


def _is_better(rule: Plateau, metric: float, best: float) -> bool:
    """Whether `metric` beats `best` by more than the threshold. NaN never does."""
    if rule.monitor == "val_loss":
        return metric < (
            best * (1 - rule.threshold) if rule.threshold_mode == "rel" else best - rule.threshold
        )
    return metric > (
        best * (1 + rule.threshold) if rule.threshold_mode == "rel" else best + rule.threshold
    )
