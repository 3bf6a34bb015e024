"""What lrtune asks of a run: `plan.json` and `table.bin`."""

from __future__ import annotations

import array
import json
import os
from typing import Any

from .answers import Answers, read_table

_MODES = ("record", "set", "sweep")


class Plan:
    """The plan of a run.

    Args:
        document: `plan.json`.
        table: the LR of a group of ratio 1, by step; empty in the mode `record`.
        answers: to the values that the run hands over.
    """

    def __init__(
        self, document: dict[str, Any], table: array.array[float], answers: Answers | None = None
    ) -> None:
        if document["version"] != 1:
            raise ValueError(f"`version` must be 1, but got {document['version']!r}.")
        if document["mode"] not in _MODES:
            raise ValueError(f"`mode` must be one of {_MODES}, but got {document['mode']!r}.")
        self.sets = document["mode"] != "record"
        """Whether LRs are set, or only read."""
        if self.sets and not table:
            raise ValueError("`table.bin` must hold at least one LR.")
        self.table = table
        self.waits_for: str | None = document.get("waits_for")
        """The name of the values after which the run waits for an answer, if there is one."""
        self.answers = answers
        self.ratios: list[list[float]] = document.get("ratios") or []
        self.scales: dict[str, float] = document.get("scales") or {}
        self.weight_decay: float | None = document.get("weight_decay")
        self.seed_offset: int | None = document.get("seed_offset")
        self.optimizer_index: int | None = document.get("optimizer_index")
        self.auditor: str | None = document.get("auditor")
        """The folder of the package lrtune, where the LRs of the command are to be audited."""
        self.audited_steps: int | None = document.get("audited_steps")
        """Steps after which the audit is written, though the command goes on."""


def read_plan(folder: str) -> Plan:
    """Reads the plan in a run folder."""
    with open(os.path.join(folder, "plan.json"), encoding="utf-8") as file:
        document = json.load(file)
    table = array.array("d") if document.get("mode") == "record" else read_table(folder)
    return Plan(document, table, Answers(folder) if document.get("waits_for") else None)


def rank_by_environment() -> int | None:
    """The rank of this process as its launcher says, or `None`."""
    for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK"):
        value = os.environ.get(name, "")
        if value.isdigit():
            return int(value)
    return None
