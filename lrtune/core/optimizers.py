"""The optimizers: one entry of a table is all that lrtune knows of one by its name."""

from dataclasses import dataclass, field
from typing import Literal

from lrtune.core.decays import Constant, Cosine, Decay

Argument = Literal["momentum", "nesterov"]


@dataclass(frozen=True, kw_only=True)
class OptimizerFacts:
    """The facts about an optimizer that are known before anything is trained."""

    title: str
    library: str = "torch.optim"
    """The module that its class is in."""
    class_name: str
    arguments: tuple[Argument, ...] = ()
    """The fields of a recipe that its class is built with, besides the LR and the weight decay."""
    peak_lr: float
    """Customary peak LR."""
    weight_decay: float = 0.0
    """Customary weight decay."""
    warmup_epochs: float = 0.0
    """Customary warmup."""
    decay: Decay = field(default_factory=Cosine)
    """Customary decay."""
    searched: tuple[float, float]
    """Bounds of the peak LR where a range test was asked for and gave no signal."""
    swept: tuple[float, float]
    """First and last LR of a range test: from far below any useful LR to past divergence."""
    needs_momentum: bool = False
    """Whether its momentum must not be 0."""
    has_one_lr: bool = False
    """Whether all parameter groups must have the same LR."""
    swaps_weights: bool = False
    """Whether it evaluates and keeps other weights than those it takes its steps at: its `eval()`
    and `train()` swap them (arXiv 2405.15682)."""
    is_fused: bool = False
    """Whether it is built with `fused=True`, for speed."""
    is_capturable: bool = False
    """Whether its step reads nothing on the host, so that it can be part of a CUDA graph."""
    takes_capturable: bool = False
    """Whether its class has to be told so, by `capturable=True`."""

    @property
    def is_of_torch(self) -> bool:
        """Whether torch itself has the optimizer, and not another library."""
        return self.library == "torch.optim"


_OTHERS = "pytorch_optimizer"
_PLAIN = (1e-5, 10.0)
_NORMALISED = (1e-6, 1.0)  # their step hardly depends on the gradient's size
# Two are swept up to 100: Schedule-Free SGD, which at an LR of 1 takes the steps of SGD at 0.1 with
# a momentum of 0.9; and Prodigy, whose LR multiplies the step size that it estimates itself, so
# that the estimate makes up for much of an LR that is too high.
#
# These two and Schedule-Free AdamW need no schedule and hold their LR. Schedule-Free (arXiv
# 2405.15682) warms up for half an epoch, since its authors recommend a warmup; a warmup of the LR
# is the same to it as its own `warmup_steps`. The authors of Prodigy (arXiv 2306.06101) recommend
# an LR of 1, and no schedule or a cosine. It goes without its `safeguard_warmup`: with it, the LR
# that it finds by itself falls with the one it is given, down to no training at a tenth, and a
# warmup trains no better.
OPTIMIZERS: dict[str, OptimizerFacts] = {
    "sgd": OptimizerFacts(
        title="SGD", class_name="SGD", arguments=("momentum", "nesterov"),
        peak_lr=0.1, weight_decay=5e-4, searched=(1e-3, 1.0), swept=_PLAIN,
        is_fused=True, is_capturable=True,
    ),
    "adagrad": OptimizerFacts(
        title="Adagrad", class_name="Adagrad",
        peak_lr=0.01, searched=(1e-3, 0.3), swept=_PLAIN,
    ),
    "rmsprop": OptimizerFacts(
        title="RMSprop", class_name="RMSprop",
        peak_lr=1e-3, searched=(1e-5, 1e-2), swept=_NORMALISED,
        is_capturable=True, takes_capturable=True,
    ),
    "adam": OptimizerFacts(
        title="Adam", class_name="Adam",
        peak_lr=1e-3, searched=(1e-5, 1e-2), swept=_NORMALISED,
        is_fused=True, is_capturable=True, takes_capturable=True,
    ),
    "adamw": OptimizerFacts(
        title="AdamW", class_name="AdamW",
        peak_lr=1e-3, weight_decay=0.01, searched=(1e-5, 1e-2), swept=_NORMALISED,
        is_fused=True, is_capturable=True, takes_capturable=True,
    ),
    "lamb": OptimizerFacts(
        title="LAMB", library=_OTHERS, class_name="Lamb",
        peak_lr=1e-3, weight_decay=0.01, searched=(1e-4, 0.1), swept=_PLAIN,
    ),
    "adabound": OptimizerFacts(
        title="AdaBound", library=_OTHERS, class_name="AdaBound",
        peak_lr=1e-3, searched=(1e-5, 1e-2), swept=_NORMALISED,
    ),
    "schedule-free-sgd": OptimizerFacts(
        title="Schedule-Free SGD", library=_OTHERS, class_name="ScheduleFreeSGD",
        arguments=("momentum",), needs_momentum=True, swaps_weights=True,
        peak_lr=1.0, weight_decay=5e-4, warmup_epochs=0.5, decay=Constant(),
        searched=(1e-2, 10.0), swept=(1e-4, 100.0),
    ),
    "schedule-free-adamw": OptimizerFacts(
        title="Schedule-Free AdamW", library=_OTHERS, class_name="ScheduleFreeAdamW",
        swaps_weights=True,
        peak_lr=2.5e-3, weight_decay=0.01, warmup_epochs=0.5, decay=Constant(),
        searched=(1e-4, 0.1), swept=(1e-5, 10.0),
    ),
    "prodigy": OptimizerFacts(
        title="Prodigy", library=_OTHERS, class_name="Prodigy", has_one_lr=True,
        peak_lr=1.0, decay=Constant(), searched=(0.1, 10.0), swept=(1e-2, 100.0),
    ),
}  # fmt: skip
"""By the name that users call it. It is looked up when needed and never copied."""

OWN = "own"
"""The optimizer of a training command that is none of these: nothing is known of it."""
WIDEST = (1e-6, 10.0)
"""First and last LR of a range test of such an optimizer, and its bounds without one."""
