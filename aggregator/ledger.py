"""The journal of a run in SQLite: settings, devices, rounds, assignments, updates, traffic.

Write-ahead log with full synchronisation: what a method wrote is on disk when it returns, so the caller may publish
or acknowledge; inside a `batch` it is when that ends. Blobs lie beside it, named by hash; rows only point to them.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from aggregator.core.round_state import OpenedRound
from aggregator.ledger_faults import RECOVERY, fault_in_words, faults_told, tells_faults
from device_runtime.wire.errors import UsageError
from device_runtime.wire.messages import Assignment, Hello, Offer, Receipt, Refusal

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE devices (name TEXT PRIMARY KEY, hello BLOB NOT NULL, member INTEGER NOT NULL, reason TEXT NOT NULL,
  first_seen TEXT NOT NULL DEFAULT (datetime('now')), last_seen TEXT NOT NULL DEFAULT (datetime('now'))) STRICT;
CREATE TABLE rounds (round_index INTEGER PRIMARY KEY, attempt INTEGER NOT NULL, update_bytes_max INTEGER NOT NULL,
  opened_at TEXT NOT NULL DEFAULT (datetime('now')), state_sha TEXT, result TEXT) STRICT;
CREATE TABLE assignments (id TEXT PRIMARY KEY, round_index INTEGER NOT NULL, device TEXT NOT NULL,
  body BLOB NOT NULL, refusal TEXT) STRICT;
CREATE INDEX assignments_of_round ON assignments (round_index);
CREATE TABLE updates (assignment_id TEXT NOT NULL, device TEXT NOT NULL, update_sha TEXT NOT NULL,
  round_index INTEGER NOT NULL, verdict TEXT NOT NULL, reason TEXT NOT NULL, offer BLOB NOT NULL,
  PRIMARY KEY (assignment_id, device, update_sha)) STRICT;
CREATE UNIQUE INDEX one_update_counts ON updates (assignment_id) WHERE verdict = 'accepted';
CREATE TABLE traffic (round_index INTEGER NOT NULL, device TEXT NOT NULL, bytes_up INTEGER NOT NULL,
  bytes_down INTEGER NOT NULL, PRIMARY KEY (round_index, device)) STRICT;
"""


Traffic = dict[str, tuple[int, int]]  # device -> payload bytes up, down


_Result = TypeVar("_Result")
CHECKPOINT_WAIT_MS = 1000
"""So long a checkpoint waits for readers; where they stay, the next one takes this one's work over."""


@tells_faults
class Ledger:
    """One run's journal; one process writes it, any may read.

    Every method raises UsageError, with the way to recover, where the file is damaged or out of reach.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        if read_only and not path.is_file():
            raise UsageError(f"there is no run in {str(path.parent)!r}: no {path.name} there.")
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with faults_told(path):
            self._db = sqlite3.connect(path, isolation_level=None, timeout=10.0)
            version = self._checked_version()
            if not read_only:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                if version == 0:
                    self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
            elif version == 0:
                raise UsageError(f"the ledger in {str(path.parent)!r} holds no run yet.")

    def _checked_version(self) -> int:
        """The schema's version, 0 for a new file. Raises UsageError for a file that is damaged or not ours."""
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version not in (0, SCHEMA_VERSION):
            raise UsageError(f"{str(self.path)!r} was written by another version (schema {version}); use a new folder.")
        if version == 0 and self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise UsageError(f"{str(self.path)!r} is no ledger, but a database of something else; use a new folder.")
        (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise UsageError(f"the ledger {str(self.path)!r} is damaged ({' '.join(found.split())}): {RECOVERY}.")
        return version

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """What is written inside is one transaction: on disk when the block ends, and nothing of it where it raises.

        A thousand verdicts so wait for the disk once.
        """
        with self._transaction():
            yield

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if self._db.in_transaction:
            yield self._db  # part of the batch under way
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                if self._db.in_transaction:  # SQLite ends it by itself where the disk is full
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            raise UsageError(fault_in_words(self.path, error)) from error

    # --- the run ----------------------------------------------------------------------------------------------

    def setting(self, key: str) -> str | None:
        """A value of the run, None when it was never set."""
        row = self._db.execute("SELECT value FROM run WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_setting(self, key: str, value: str) -> None:
        """Record a value of the run."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (key, value))

    # --- devices ----------------------------------------------------------------------------------------------

    def enrol(self, hello: Hello) -> None:
        """The device is a member."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO devices (name, hello, member, reason) VALUES (?, ?, 1, '') ON CONFLICT (name) DO UPDATE "
                "SET hello = excluded.hello, member = 1, reason = '', last_seen = datetime('now')",
                (hello.device, msgspec.msgpack.encode(hello)),
            )

    def depart(self, device: str, reason: str) -> None:
        """The device is a member no more."""
        with self._transaction() as db:
            db.execute("UPDATE devices SET member = 0, reason = ? WHERE name = ?", (reason, device))

    def devices(self) -> list[tuple[Hello, bool, str, str]]:
        """Every device ever seen: its hello, whether it is a member, why not, when last enrolled (UTC)."""
        rows = self._db.execute("SELECT hello, member, reason, last_seen FROM devices ORDER BY name")
        return [(msgspec.msgpack.decode(h, type=Hello), bool(m), str(r), str(t)) for h, m, r, t in rows]

    # --- rounds -----------------------------------------------------------------------------------------------

    def open_round(
        self, round_index: int, attempt: int, update_bytes_max: int, assignments: tuple[Assignment, ...]
    ) -> None:
        """Record a round's assignments; a further attempt adds to the same round."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO rounds (round_index, attempt, update_bytes_max, opened_at) "
                "VALUES (?, ?, ?, strftime('%Y-%m-%d %H:%M:%f', 'now')) "
                "ON CONFLICT (round_index) DO UPDATE SET attempt = excluded.attempt",
                (round_index, attempt, update_bytes_max),
            )
            db.executemany(
                "INSERT OR IGNORE INTO assignments (id, round_index, device, body) VALUES (?, ?, ?, ?)",
                [(a.id, round_index, a.device, msgspec.msgpack.encode(a)) for a in assignments],
            )

    def seconds_since_opening(self, round_index: int) -> float:
        """How long ago a round was first opened, by the machine's clock; 0 where that was set back since, or it was
        never opened."""
        row = self._db.execute(
            "SELECT (julianday('now') - julianday(opened_at)) * 86400 FROM rounds WHERE round_index = ?", (round_index,)
        ).fetchone()
        return 0.0 if row is None else max(0.0, float(row[0]))

    def refuse(self, refusal: Refusal) -> None:
        """The device could not carry out the assignment."""
        with self._transaction() as db:
            db.execute("UPDATE assignments SET refusal = ? WHERE id = ?", (refusal.reason, refusal.assignment_id))

    def record_update(self, round_index: int, offer: Offer, receipt: Receipt) -> None:
        """Journal the verdict on an update, before its receipt is sent. A verdict once given stays.

        Raises sqlite3.IntegrityError where another update of the assignment was accepted before: one only may count.
        """
        body = msgspec.msgpack.encode(offer)
        row = (offer.assignment_id, offer.device, offer.update_sha, round_index, receipt.verdict, receipt.reason, body)
        with self._transaction() as db:
            db.execute(
                "INSERT INTO updates VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (assignment_id, device, update_sha) DO NOTHING",
                row,
            )

    def commit_round(self, round_index: int, state_sha: str, result: object) -> None:
        """The round is over: its state and result count from here on."""
        with self._transaction() as db:
            db.execute(
                "UPDATE rounds SET state_sha = ?, result = ? WHERE round_index = ?",
                (state_sha, msgspec.json.encode(result).decode(), round_index),
            )

    def checkpoint(self) -> None:
        """What was written so far goes into the main file, so that a damaged write-ahead file costs what came after.

        Inside a batch as well: that part of it is on disk when this returns, and the rest when the batch ends.
        """
        inside = self._db.in_transaction
        if inside:
            self._db.execute("COMMIT")
        self._db.execute(f"PRAGMA busy_timeout = {CHECKPOINT_WAIT_MS}")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._db.execute("PRAGMA busy_timeout = 10000")
        if inside:
            self._db.execute("BEGIN IMMEDIATE")

    def add_traffic(self, round_index: int, traffic: Traffic) -> None:
        """Add payload bytes that no other record carried."""
        with self._transaction() as db:
            db.executemany(
                "INSERT INTO traffic VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "bytes_up = bytes_up + excluded.bytes_up, bytes_down = bytes_down + excluded.bytes_down",
                [(round_index, device, up, down) for device, (up, down) in traffic.items()],
            )

    # --- reading ----------------------------------------------------------------------------------------------

    def begun(self) -> bool:
        """Whether a round was ever opened."""
        return self._db.execute("SELECT 1 FROM rounds LIMIT 1").fetchone() is not None

    def last_committed(self) -> tuple[int, str] | None:
        """The last committed round and the blob of its state."""
        row = self._db.execute(
            "SELECT round_index, state_sha FROM rounds WHERE state_sha IS NOT NULL ORDER BY round_index DESC LIMIT 1"
        ).fetchone()
        return None if row is None else (int(row[0]), str(row[1]))

    def opened_round(self, round_index: int) -> OpenedRound | None:
        """A round as far as it is on record, None when it was never opened."""
        row = self._db.execute(
            "SELECT attempt, update_bytes_max FROM rounds WHERE round_index = ?", (round_index,)
        ).fetchone()
        if row is None:
            return None
        stored = self._db.execute(
            "SELECT body, refusal FROM assignments WHERE round_index = ? ORDER BY rowid", (round_index,)
        ).fetchall()
        every = [(msgspec.msgpack.decode(body, type=Assignment), refusal) for body, refusal in stored]
        latest = {a.device: a for a, _ in every}  # a later attempt replaces an earlier one
        updates = self._db.execute(
            "SELECT offer, verdict, reason FROM updates WHERE round_index = ?", (round_index,)
        ).fetchall()
        accepted: dict[str, Offer] = {}
        receipts: dict[tuple[str, str], Receipt] = {}
        for body, verdict, reason in updates:
            offer = msgspec.msgpack.decode(body, type=Offer)
            key = (offer.assignment_id, offer.update_sha)
            receipts[key] = Receipt(assignment_id=key[0], update_sha=key[1], verdict=verdict, reason=reason)
            if verdict == "accepted":
                accepted[offer.device] = offer
        refused = frozenset(a.id for a, refusal in every if refusal is not None)
        return OpenedRound(round_index, row[0], row[1], tuple(latest.values()), accepted, receipts, refused)

    def results(self, kind: type[_Result], *, first: int = 1) -> list[_Result]:
        """The results of all committed rounds from round `first` on, in order, each as a `kind`."""
        rows = self._db.execute(
            "SELECT result FROM rounds WHERE result IS NOT NULL AND round_index >= ? ORDER BY round_index", (first,)
        )
        return [msgspec.json.decode(row[0], type=kind) for row in rows]

    def accepted_offers(self, *, first: int) -> list[tuple[int, Offer]]:
        """Every accepted update's offer from round `first` on, with its round, by round and device."""
        rows = self._db.execute(
            "SELECT round_index, offer FROM updates WHERE verdict = 'accepted' AND round_index >= ? "
            "ORDER BY round_index, device",
            (first,),
        )
        return [(int(index), msgspec.msgpack.decode(offer, type=Offer)) for index, offer in rows]

    def traffic_of(self, round_index: int) -> tuple[int, int]:
        """Payload bytes up and down of all devices in a round."""
        query = "SELECT total(bytes_up), total(bytes_down) FROM traffic WHERE round_index = ?"
        up, down = self._db.execute(query, (round_index,)).fetchone()
        return int(up), int(down)

    def traffic(self) -> dict[int, Traffic]:
        """Payload bytes up and down by round and device."""
        found: dict[int, Traffic] = {}
        for round_index, device, up, down in self._db.execute("SELECT * FROM traffic ORDER BY round_index, device"):
            found.setdefault(round_index, {})[device] = (up, down)
        return found

    def update_counts(self) -> dict[str, int]:
        """How many updates got each verdict."""
        return dict(self._db.execute("SELECT verdict, count(*) FROM updates GROUP BY verdict"))
