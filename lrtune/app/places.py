"""Where studies, checkpoints and reports are."""

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
    """Database and checkpoints."""
    out: Path = Path("reports")
    """Reports, one folder a study."""
    storage: str = ""
    """SQLAlchemy URL of the database; empty: a SQLite file in `home`."""
    storage_path: str = ""
    """Folder or fsspec URL of the checkpoints; empty: in `home`."""

    @property
    def url(self) -> str:
        """The database's URL."""
        return self.storage or f"sqlite:///{self.home / 'lrtune.db'}"

    def database(self) -> StudyDatabase:
        """The database, made where it does not exist."""
        if not self.storage:
            try:
                self.home.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"{self.home} cannot be made: {error.strerror}.") from None
        return StudyDatabase(self.url)

    def checkpoints(self, study: str) -> Checkpoints:
        """The checkpoints of one study."""
        if self.storage_path:
            return shared_checkpoints(self.storage_path, study)
        return CheckpointStore(self.home / "checkpoints" / study)

    def existing(self) -> StudyDatabase:
        """The database, which must be there.

        Raises:
            InputError: it is a file that is not there; opening it would make it.
        """
        if missing := missing_file(self.url):
            raise InputError(f"there are no studies: there is no file {missing}.")
        return self.database()
