"""The places of studies, checkpoints and reports."""

import os
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

from lrtune.core.commands import Reports
from lrtune.core.engines import SharedCheckpoints
from lrtune.core.errors import InputError, StoreError
from lrtune.core.options import Options
from lrtune.store.checkpoints import Checkpoints, CheckpointStore
from lrtune.store.database import StudyDatabase, missing_file
from lrtune.store.remote import shared_checkpoints
from lrtune.tuning.sampler import delete_mirror

CHECKPOINTS, RUNS = "checkpoints", "runs"
"""Folders in the home of the studies: of their checkpoints, and of the runs of commands."""


@dataclass(frozen=True, kw_only=True)
class Places(Reports, SharedCheckpoints):
    """The folders and the database of a user's studies."""

    @staticmethod
    def of(asked: Options) -> "Places":
        """The places that a command was told."""
        return Places(**asked.values(Places))

    def problems(self) -> list[str]:
        """Returns a message for each folder that cannot be made or written to."""
        found = []
        for name, folder in (("home", Path(self.home)), ("out", Path(self.out))):
            place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
            if not place.is_dir() or not os.access(place, os.W_OK):
                what = "is a file" if not place.is_dir() else "cannot be written to"
                found.append(f"`{name}` must be a folder that can be made, but {place} {what}.")
        return found

    @property
    def url(self) -> str:
        """The database's URL."""
        return self.storage or f"sqlite:///{Path(self.home) / 'lrtune.db'}"

    def database(self) -> StudyDatabase:
        """Opens the database, and creates it if it does not exist."""
        if not self.storage:
            try:
                Path(self.home).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"{self.home} cannot be made: {error.strerror}.") from None
        return StudyDatabase(self.url)

    def checkpoints(self, study: str) -> Checkpoints:
        """Returns the store of one study's checkpoints."""
        if self.storage_path:
            return shared_checkpoints(self.storage_path, study)
        return CheckpointStore(Path(self.home) / CHECKPOINTS / study)

    def existing(self) -> StudyDatabase:
        """Opens the database, which must exist.

        Raises:
            InputError: its file does not exist, and opening it would create it.
        """
        if missing := missing_file(self.url):
            raise InputError(f"there are no studies: there is no file {missing}.")
        return self.database()

    def forget(self, study: str) -> None:
        """Deletes a study's records, its checkpoints, and its copy for Optuna's tools.

        Its report stays.

        Raises:
            InputError: there is no such study, or a worker is using it.
        """
        self.existing().delete(study)
        self.checkpoints(study).keep_only(())
        for folder in (CHECKPOINTS, RUNS):
            rmtree(Path(self.home) / folder / study, ignore_errors=True)
        delete_mirror(study, self.url)
