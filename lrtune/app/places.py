"""The places of studies, checkpoints and reports."""

from dataclasses import dataclass
from pathlib import Path

from lrtune.core.errors import InputError, StoreError
from lrtune.store.checkpoints import Checkpoints, CheckpointStore
from lrtune.store.database import StudyDatabase, missing_file
from lrtune.store.remote import shared_checkpoints


@dataclass(frozen=True, kw_only=True)
class Places:
    """The folders and the database of a user's studies."""

    home: Path = Path(".lrtune")
    """Folder of the database and the checkpoints."""
    out: Path = Path("reports")
    """Folder of the reports, with one folder a study."""
    storage: str = ""
    """SQLAlchemy URL of the database; empty: a SQLite file in `home`."""
    storage_path: str = ""
    """Folder or fsspec URL of the checkpoints; empty: in `home`."""

    @property
    def url(self) -> str:
        """The database's URL."""
        return self.storage or f"sqlite:///{self.home / 'lrtune.db'}"

    def database(self) -> StudyDatabase:
        """Opens the database, and creates it if it does not exist."""
        if not self.storage:
            try:
                self.home.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"{self.home} cannot be made: {error.strerror}.") from None
        return StudyDatabase(self.url)

    def checkpoints(self, study: str) -> Checkpoints:
        """Returns the store of one study's checkpoints."""
        if self.storage_path:
            return shared_checkpoints(self.storage_path, study)
        return CheckpointStore(self.home / "checkpoints" / study)

    def existing(self) -> StudyDatabase:
        """Opens the database, which must exist.

        Raises:
            InputError: its file does not exist, and opening it would create it.
        """
        if missing := missing_file(self.url):
            raise InputError(f"there are no studies: there is no file {missing}.")
        return self.database()
