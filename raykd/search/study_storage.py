"""Storage of a study: SQLite in the search's folder, a journal file, or a database that several tuners share."""

import random
import time
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import event

from raykd.files import make_folder

STUDY = "study.db"
_TRIES = 4


def open_storage(folder: Path, url: str | None) -> BaseStorage:
    """Open, or make, the storage of a search's study; see ``raykd.search.study.open_study``."""
    make_folder(folder)
    if url is not None and url.startswith("journal:"):
        return JournalStorage(JournalFileBackend(url.removeprefix("journal:")))
    for tries_left in reversed(range(_TRIES)):
        try:
            if url is None or url.startswith("sqlite:"):
                url = url or f"sqlite:///{folder / STUDY}"
                return _lock_transactions(RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}}))
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except Exception:
            if not tries_left:
                raise
            time.sleep(random.uniform(0.1, 1.0))  # two tuners may have been making the tables at once
    raise AssertionError("the last try returns or raises")


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
