"""The values of parameter groups: read, written for one step, verified, and put back after it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Dict, NamedTuple, Tuple

import torch

from .losses import Number, is_late, numbers_of

if TYPE_CHECKING:
    from .plan import Plan


class Mismatch(NamedTuple):
    """The value after a step is not the one that was written before it."""

    group: str
    key: str
    wanted: float
    got: float


class Check(NamedTuple):
    """A value read back after a step. One on a device is compared once it has arrived."""

    step: int
    group: str
    key: str
    wanted: Number
    got: Any

    def mismatch(self, wanted: float, got: float) -> Mismatch | None:
        """What is wrong with the value, in the precision of its own type."""
        is_tensor = isinstance(self.got, torch.Tensor)
        expected = torch.tensor(wanted, dtype=self.got.dtype).item() if is_tensor else wanted
        if expected == got or (math.isnan(expected) and math.isnan(got)):
            return None
        return Mismatch(self.group, self.key, wanted, got)


class Displaced(NamedTuple):
    """What the program had in a parameter group while another value stands in its place."""

    group: dict[str, Any]
    place: int
    key: str
    own: Any
    """The very object: a number or a tensor."""
    held: Any
    """What a tensor held that was written in place, else `None`."""
    written: Any
    """The object that stands there during the step."""
    wanted: Number
    """Its value, as precise as its type can hold it."""


Float = Tuple[Dict[str, Any], int, str, Any, float]
"""A float in the place of a number: the group, its place, the key, the own one, the written one."""


class Group:
    """What is known of a parameter group, which is recognised by its place in the optimizer."""

    __slots__ = ("decay_ratio", "late_max_lr", "lr", "max_lr", "name", "ratio", "weight_decay")

    def __init__(self, group: dict[str, Any]) -> None:
        name = group.get("name")
        self.name = None if name is None else str(name)
        self.lr = _number(group.get("lr"))
        self.max_lr = self.lr
        self.late_max_lr: torch.Tensor | None = None
        self.weight_decay = _number(group.get("weight_decay"))
        self.ratio = 1.0
        self.decay_ratio = 1.0

    def notice(self, lr: Any) -> None:
        """Notes an LR that the program itself has set."""
        if isinstance(lr, torch.Tensor) and is_late(lr):
            late = self.late_max_lr
            self.late_max_lr = lr.detach().clone() if late is None else torch.maximum(late, lr)
        else:
            self.max_lr = max(self.max_lr, float(lr))

    def settle(self) -> None:
        """Reads what is still on a device."""
        if self.late_max_lr is not None:
            self.max_lr = max(self.max_lr, *numbers_of([self.late_max_lr]))
            self.late_max_lr = None

    def document(self) -> dict[str, Any]:
        """As it stands in `groups.json`."""
        values = {"lr": self.lr, "max_lr": self.max_lr, "weight_decay": self.weight_decay}
        numbers = {key: None if math.isnan(value) else value for key, value in values.items()}
        return {"name": self.name, **numbers}


class Groups:
    """The parameter groups of one optimizer.

    Args:
        plan: of the run.
        index: of the optimizer, in the order of first steps.
    """

    def __init__(self, plan: Plan, index: int) -> None:
        self.known: list[Group] = []
        self._plan = plan
        self._planned = plan.ratios[index] if index < len(plan.ratios) else []
        self._weight_decay = plan.weight_decay
        self._floats: list[Float] = []  # what has been written over a number
        self._displaced: list[Displaced] = []  # what else has been written

    def meet(self, groups: list[dict[str, Any]]) -> None:
        """Gets to know the groups that have been added."""
        # A group whose scheduler starts from 0 has noted its LR as `initial_lr`.
        largest = max((_number(group.get("lr"), 0.0) for group in groups), default=0.0)
        key = "lr" if largest else "initial_lr"
        largest = max((_number(group.get(key), 0.0) for group in groups), default=0.0)
        decays = [_number(group.get("weight_decay"), 0.0) for group in groups]
        for place in range(len(self.known), len(groups)):
            known = Group(groups[place])
            if known.name is not None and known.name in self._plan.scales:
                known.ratio = self._plan.scales[known.name]
            elif place < len(self._planned):
                known.ratio = self._planned[place]
            elif largest:
                own = _number(groups[place].get(key), 0.0) / largest
                known.ratio = own * max(self._planned, default=1.0)
            known.decay_ratio = decays[place] / max(decays) if any(decays) else 1.0
            self.known.append(known)

    def read(self, groups: list[dict[str, Any]]) -> Number:
        """Notes the LRs that the program has set; returns the largest."""
        if len(groups) > len(self.known):
            self.meet(groups)
        largest: Number = -math.inf
        late: list[torch.Tensor] = []
        for known, group in zip(self.known, groups):
            lr = group.get("lr")
            if type(lr) is float:
                known.max_lr = max(known.max_lr, lr)
                largest = max(largest, lr)
            elif isinstance(lr, torch.Tensor) and is_late(lr):
                known.notice(lr)
                late.append(lr.detach())
            elif lr is not None:
                known.notice(lr)
                largest = max(largest, float(lr))
        if late:
            merged = late[0].clone()
            for other in late[1:]:
                merged = torch.maximum(merged, other.to(merged.device))
            return merged if largest == -math.inf else merged.clamp(min=largest)
        return math.nan if largest == -math.inf else largest

    def write(self, groups: list[dict[str, Any]], lr: Number) -> None:
        """Writes the values for a step.

        Args:
            groups: the optimizer's.
            lr: of a group of ratio 1. A tensor where only the device knows the step.
        """
        if len(groups) > len(self.known):
            self.meet(groups)
        floats, decay = self._floats, self._weight_decay
        is_float = type(lr) is float
        tensors: set[int] = set()
        for place, (known, group) in enumerate(zip(self.known, groups)):
            own = group.get("lr")
            if is_float and type(own) is float:
                if own > known.max_lr:
                    known.max_lr = own
                wanted = lr * known.ratio
                group["lr"] = wanted
                floats.append((group, place, "lr", own, wanted))
            elif own is not None:
                known.notice(own)
                self._write(group, place, "lr", lr * known.ratio, tensors)
            if decay is None:
                continue
            own = group.get("weight_decay")
            if isinstance(own, torch.Tensor):
                self._write(group, place, "weight_decay", decay * known.decay_ratio, tensors)
            elif own is not None:
                group["weight_decay"] = wanted = decay * known.decay_ratio
                floats.append((group, place, "weight_decay", own, wanted))

    def _write(
        self, group: dict[str, Any], place: int, key: str, value: Number, tensors: set[int]
    ) -> None:
        """Writes a value of any kind.

        A tensor is written in place, since a captured or compiled step reads that very tensor.
        Groups that share a tensor are the exception: all but the first get one of their own.
        """
        own = group[key]
        held = None
        if not isinstance(own, torch.Tensor):
            written = value.to(torch.float32) if isinstance(value, torch.Tensor) else value
            wanted = value
        else:
            late = is_late(own)
            if id(own) in tensors:
                written = torch.empty_like(own)
            else:
                tensors.add(id(own))
                held = own.detach().clone() if late else own.item()
                written = own
            with torch.no_grad():
                if isinstance(value, torch.Tensor):
                    written.copy_(value)
                else:
                    written.fill_(value)
            wanted = value if late or isinstance(value, torch.Tensor) else written.item()
        group[key] = written
        self._displaced.append(Displaced(group, place, key, own, held, written, wanted))

    def put_back_floats(self) -> bool:
        """Puts back what the program had, where nothing but floats was written.

        A float is the same as long as it is the same object.

        Returns:
            Whether that was all, and no value has changed; else nothing has been done.
        """
        if self._displaced:
            return False
        for group, _, key, _, written in self._floats:
            if group.get(key) is not written:
                return False
        for group, _, key, own, _ in self._floats:
            group[key] = own
        self._floats.clear()
        return True

    def put_back(self) -> None:
        """Puts back what the program had, without a check."""
        self._list_floats()
        for displaced in self._displaced:
            if displaced.group.get(displaced.key) is displaced.written:
                _put_back(displaced)
        self._displaced.clear()

    def verify(self, step: int) -> tuple[list[Check], Mismatch | None]:
        """Puts back what the program had, unless it has set another value within the step.

        Returns:
            What is to be compared later, and the first value that is not the one that was written.
        """
        self._list_floats()
        checks: list[Check] = []
        mismatch: Mismatch | None = None
        for displaced in self._displaced:
            group, place, key, own, held, written, wanted = displaced
            now = group.get(key)
            if now is written and held is None and type(written) is float:
                group[key] = own  # a float is the same as long as it is the same object
                continue
            name = self.known[place].name or str(place)
            check = Check(step, name, key, wanted, now)
            if isinstance(now, torch.Tensor) and (is_late(now) or isinstance(wanted, torch.Tensor)):
                checks.append(check._replace(got=now.detach().clone()))
                equal = now is written
            else:
                wrong = check.mismatch(wanted, _number(now))
                equal = wrong is None
                mismatch = mismatch or wrong
            if now is written or equal:
                _put_back(displaced)
        self._displaced.clear()
        return checks, mismatch

    def _list_floats(self) -> None:
        for group, place, key, own, written in self._floats:
            self._displaced.append(Displaced(group, place, key, own, None, written, written))
        self._floats.clear()


def _put_back(displaced: Displaced) -> None:
    if displaced.held is not None:
        with torch.no_grad():
            if isinstance(displaced.held, torch.Tensor):
                displaced.own.copy_(displaced.held)
            else:
                displaced.own.fill_(displaced.held)
    displaced.group[displaced.key] = displaced.own


def _number(value: Any, default: float = math.nan) -> float:
    """A number of a group as a float, or `default` where it has none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return default
