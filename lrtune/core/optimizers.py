"""The optimizers: where each comes from, and the LRs at which it is used."""

from typing import NamedTuple


class About(NamedTuple):
    """The facts about an optimizer that are known before anything is trained."""

    title: str
    library: str
    """The module that its class is in."""
    class_name: str
    peak_lr: float
    """Customary peak LR."""
    weight_decay: float
    """Customary weight decay."""
    searched: tuple[float, float]
    """Bounds of the peak LR where a range test was asked for and gave no signal."""
    swept: tuple[float, float]
    """First and last LR of a range test: from far below any useful LR to past divergence."""

    @property
    def is_of_torch(self) -> bool:
        """Torch itself has the optimizer, not another library."""
        return self.library == _TORCH


_TORCH, _OTHERS = "torch.optim", "pytorch_optimizer"
_PLAIN = (1e-5, 10.0)
_NORMALISED = (1e-6, 1.0)  # their step hardly depends on the gradient's size
# Two are swept up to 100: Schedule-Free SGD, which at an LR of 1 takes the steps of SGD at 0.1 with
# a momentum of 0.9; and Prodigy, whose LR multiplies the step size that it estimates itself, so
# that the estimate makes up for much of an LR that is too high.
ABOUT: dict[str, About] = {
    "sgd": About("SGD", _TORCH, "SGD", 0.1, 5e-4, (1e-3, 1.0), _PLAIN),
    "adagrad": About("Adagrad", _TORCH, "Adagrad", 0.01, 0.0, (1e-3, 0.3), _PLAIN),
    "rmsprop": About("RMSprop", _TORCH, "RMSprop", 1e-3, 0.0, (1e-5, 1e-2), _NORMALISED),
    "adam": About("Adam", _TORCH, "Adam", 1e-3, 0.0, (1e-5, 1e-2), _NORMALISED),
    "adamw": About("AdamW", _TORCH, "AdamW", 1e-3, 0.01, (1e-5, 1e-2), _NORMALISED),
    "lamb": About("LAMB", _OTHERS, "Lamb", 1e-3, 0.01, (1e-4, 0.1), _PLAIN),
    "adabound": About("AdaBound", _OTHERS, "AdaBound", 1e-3, 0.0, (1e-5, 1e-2), _NORMALISED),
    "schedule-free-sgd": About(
        "Schedule-Free SGD", _OTHERS, "ScheduleFreeSGD", 1.0, 5e-4, (1e-2, 10.0), (1e-4, 100.0)
    ),
    "schedule-free-adamw": About(
        "Schedule-Free AdamW", _OTHERS, "ScheduleFreeAdamW", 2.5e-3, 0.01, (1e-4, 0.1), (1e-5, 10.0)
    ),
    "prodigy": About("Prodigy", _OTHERS, "Prodigy", 1.0, 0.0, (0.1, 10.0), (1e-2, 100.0)),
}
