"""Storage of a study: SQLite in the search's folder, a journal file, or a database that several tuners share."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from raykd.errors import SetupError, masked
from raykd.files import describe, make_folder

STUDY = "study.db"
_TRIES = 4
_BUSY_SECONDS = 60  # that a tuner waits for another one's transaction


def open_storage(folder: Path, url: str | None) -> BaseStorage:
    """Open, or make, the storage of a search's study; see ``raykd.search.study.open_study``."""
    make_folder(folder)
    if url is not None and url.startswith("journal:"):
        return JournalStorage(JournalFileBackend(url.removeprefix("journal:")))
    for tries_left in reversed(range(_TRIES)):
        try:
            if url is None or url.startswith("sqlite:"):
                url = url or f"sqlite:///{folder / STUDY}"
                return _lock_transactions(RDBStorage(url, engine_kwargs={"connect_args": {"timeout": _BUSY_SECONDS}}))
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except Exception:
            if not tries_left:
                raise
            time.sleep(random.uniform(0.1, 1.0))  # two tuners may have been making the tables at once
    raise AssertionError("the last try returns or raises")


@contextmanager
def storage_errors(study: str) -> Iterator[None]:
    """Say of an error of a disk or of the database of a ``study`` that it ends the search, and what to do.

    Raises:
        SetupError: if a disk does not take what is written within, or the database does not answer.
    """
    try:
        yield
    except BrokenPipeError:  # of a terminal that is gone
        raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise SetupError(
            f"the search cannot go on ({place}{describe(error)}); free some space or mend the storage, then run the "
            "same command"
        ) from error
    except (StorageInternalError, SQLAlchemyError) as error:
        reason = masked(describe(error.__cause__ or error))
        raise SetupError(
            f"study {study} cannot be read or written ({reason}); mend its database or its disk, then run the same "
            "command"
        ) from error


def _lock_transactions(storage: RDBStorage) -> RDBStorage:
    """Make every transaction lock the SQLite file from its beginning.

    SQLite has no row locks: two tuners that ask at once would both take the same waiting trial.
    """

    @event.listens_for(storage.engine, "connect")
    def disable_driver_transactions(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver would begin without a lock

    @event.listens_for(storage.engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    storage.engine.dispose()  # connections that were made before
    return storage
