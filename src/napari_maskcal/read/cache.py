"""A small store of results that survives the process, so that what was computed once is not computed again."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_LIMIT_BYTES = 256 * 2**20
_DIGEST_BYTES = 16
_WAIT_S = 5.0  # for another process that holds the file
_AT_ONCE = 500  # SQLite's oldest limit on the values of one statement is 999
_CREATE = (
    "CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, value BLOB NOT NULL)"
)


def cache_folder() -> Path:
    """Return the folder in ``$MASKCAL_CACHE_DIR``, else the one that the operating system has for caches."""
    if named := os.environ.get("MASKCAL_CACHE_DIR"):
        return Path(named).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("napari-maskcal")


class Cache:
    """Bytes by key in one file, which several processes and threads may use at once.

    Where the file is damaged, read-only or on a full disk, nothing fails: nothing is found and nothing kept, and
    `fault` says why. What was written wrongly is found out by a checksum and not returned.

    Parameters
    ----------
    folder
        Where the file ``results.sqlite`` lies; made when first needed. None: `cache_folder`.
    limit_bytes
        Above this size the oldest entries are dropped.
    """

    def __init__(self, folder: Path | None = None, *, limit_bytes: int = _LIMIT_BYTES) -> None:
        self.path = (folder or cache_folder()) / "results.sqlite"
        self.fault = ""
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._process = 0

    def get(self, key: str) -> bytes | None:
        """Return what was put under `key`, or None."""
        return self.get_many((key,)).get(key)

    def put(self, key: str, value: bytes) -> None:
        """Keep `value` under `key`, in place of what was there."""
        self.put_many({key: value})

    def get_many(self, keys: Collection[str]) -> dict[str, bytes]:
        """Return what was put under those of `keys` that are there."""
        with self._lock:
            try:
                stored = self._select(list(keys)) if self._open() else {}
            except (sqlite3.Error, OSError) as error:
                self._give_up(error)
                return {}
        pairs = {key: _unsealed(key, value) for key, value in stored.items()}
        return {key: value for key, value in pairs.items() if value is not None}

    def put_many(self, values: Mapping[str, bytes]) -> None:
        """Keep all `values`, or none of them if that cannot be done."""
        rows = [(k, _sealed(k, v)) for k, v in values.items() if len(v) < self._limit // 4]
        with self._lock:
            try:
                connection = self._open() if rows else None
                if connection is not None:
                    with connection:
                        connection.executemany("REPLACE INTO entries (key, value) VALUES (?, ?)", rows)
                        self._drop_oldest(connection)
            except (sqlite3.Error, OSError) as error:
                self._give_up(error)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            self._disconnect()

    def _open(self) -> sqlite3.Connection | None:
        if self.fault:
            return None
        if self._connection is None or self._process != os.getpid():  # SQLite must not be carried over a fork
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=_WAIT_S, check_same_thread=False)
            try:
                _prepare(connection)
            except sqlite3.Error:
                connection.close()
                raise
            self._connection, self._process = connection, os.getpid()
            weakref.finalize(self, _close, connection, os.getpid())
        return self._connection

    def _select(self, keys: list[str]) -> dict[str, bytes]:
        if self._connection is None:
            return {}
        found: dict[str, bytes] = {}
        for first in range(0, len(keys), _AT_ONCE):
            some = keys[first : first + _AT_ONCE]
            marks = ",".join("?" * len(some))
            query = f"SELECT key, value FROM entries WHERE key IN ({marks})"  # noqa: S608 - question marks only
            found.update(self._connection.execute(query, some).fetchall())
        return found

    def _drop_oldest(self, connection: sqlite3.Connection) -> None:
        """Drop a tenth of the entries, the oldest, until the rest fits."""
        while _used_bytes(connection) > self._limit:
            share = "SELECT number FROM entries ORDER BY number LIMIT (SELECT COUNT(*) / 10 + 1 FROM entries)"
            if not connection.execute(f"DELETE FROM entries WHERE number IN ({share})").rowcount:  # noqa: S608
                return

    def _give_up(self, error: Exception) -> None:
        """Work without the file from now on; where another process only holds it, without it this once."""
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            return
        self.fault = f"results are not kept: {self.path} cannot be used ({error}); delete it, or set MASKCAL_CACHE_DIR"
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            _close(self._connection, self._process)
            self._connection = None


def _prepare(connection: sqlite3.Connection) -> None:
    # Two processes that turn one file to WAL at the same time are refused at once, without SQLite's own wait.
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            # Readers don't wait for a writer; a power cut loses the last entries, never the file.
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous=NORMAL")
    with connection:
        connection.execute(_CREATE)


def _close(connection: sqlite3.Connection, process: int) -> None:
    """Close the connection in the process that opened it, and leave it alone in a forked one."""
    if process == os.getpid():
        connection.close()


def _used_bytes(connection: sqlite3.Connection) -> int:
    names = ("page_count", "freelist_count", "page_size")
    pages, free, size = (int(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in names)
    return (pages - free) * size


def _digest(key: str, value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=_DIGEST_BYTES, key=hashlib.sha256(key.encode()).digest()).digest()


def _sealed(key: str, value: bytes) -> bytes:
    return _digest(key, value) + value


def _unsealed(key: str, stored: bytes) -> bytes | None:
    """Return the value, or None if it is not the one that was put under `key`."""
    if not isinstance(stored, bytes):
        return None
    value = stored[_DIGEST_BYTES:]
    return value if _digest(key, value) == stored[:_DIGEST_BYTES] else None
