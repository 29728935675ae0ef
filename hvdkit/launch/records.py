"""How each rank ended, and which one is to blame.

The parent process of each rank writes ``started.<rank>`` and ``ended.<rank>`` into the run directory. A host that does
not share that directory sends the same record in a marked line of its standard error, which ``supervise`` takes out.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hvdkit.engines import ended_by_peer
from hvdkit.errors import REQUEUE_EXIT_CODE

# A record sent as a line is cut to this: mpirun may mix the lines of two ranks when they are longer than its buffer.
_LINE_TAIL = 2500
_TRACEBACK = "Traceback (most recent call last)"
# A launcher that cleans up sends SIGTERM first and SIGKILL some seconds later.
_CLEANUP_SECONDS = 4.0


@dataclass(frozen=True)
class Record:
    """One rank, at its start (``code`` is None) or at its end.

    Args:
        rank: its rank.
        host: its host's name.
        place: its host and PID namespace, so that a PID is looked up only where it means something.
        pid: the rank's parent process, the worker.
        code: its exit code, 128 + N for signal N.
        signal: the signal that ended it, or 0.
        ordered: the signal the worker was sent and passed on before the end, or 0: this rank was told to end.
        fresh: whether it is known that its training had not begun by then.
        left: whether it had come to its end in good order by then, and waited for the others to do so.
        ended: the wall-clock time of the end, in seconds.
        tail: the end of its standard error.
    """

    rank: int
    host: str
    place: str
    pid: int
    code: int | None = None
    signal: int = 0
    ordered: int = 0
    fresh: bool = False
    left: bool = False
    ended: float = 0.0
    tail: str = ""

    @property
    def failed(self) -> bool:
        """Whether the rank ended with anything but 0."""
        return self.code not in (None, 0)

    @property
    def saved(self) -> bool:
        """Whether it was preempted, has saved and wants to be started again."""
        return self.code == REQUEUE_EXIT_CODE

    @property
    def raised(self) -> bool:
        """Whether it ended by an exception of its own, even if it was told to end while Python was still shutting down.

        That takes seconds with TensorFlow: long enough for the others to fail, and for the launcher to clean up.
        """
        own = _TRACEBACK in self.tail and not ended_by_peer(self.tail)
        return own and not self.tail.rstrip().endswith("KeyboardInterrupt")

    @property
    def told_to_end(self) -> bool:
        """Whether it was ended by a signal from outside, and by nothing of its own."""
        ended = bool(self.ordered) or self.signal in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        return ended and not self.raised

    @property
    def is_consequence(self) -> bool:
        """Whether it ended because another rank did, or because the launcher ended it."""
        return _distance(self, self.ended) > 0

    @property
    def lost_nothing(self) -> bool:
        """Whether it was told to end, and had saved or not begun."""
        return self.saved or (self.fresh and self.told_to_end)

    @property
    def exit_code(self) -> int:
        """Its exit code; that of an uncaught exception, where a signal came before Python could give it."""
        return 1 if self.raised and self.signal in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL) else self.code


def write(directory: str, record: Record) -> bool:
    """Write a record, whole or not at all; False where the run directory cannot be reached."""
    path = Path(directory, f"{'started' if record.code is None else 'ended'}.{record.rank}")
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(json.dumps(asdict(record)), encoding="utf-8")
        part.replace(path)
    except OSError:
        return False
    return True


def read_records(directory: str, kind: str) -> dict[int, Record]:
    """The records of one kind, ``"started"`` or ``"ended"``, by rank."""
    records_by_rank = {}
    for path in Path(directory).glob(f"{kind}.*"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            record = Record(**json.loads(path.read_text(encoding="utf-8")))
            records_by_rank[record.rank] = record
    return records_by_rank


def to_line(run_id: str, record: Record) -> bytes:
    """A record as a marked line of standard error."""
    short = replace(record, tail=record.tail[-_LINE_TAIL:])
    return f"\x1e{run_id} {json.dumps(asdict(short))}\n".encode()


def from_line(run_id: str, line: bytes) -> Record | None:
    """The record in a line of standard error, if there is one."""
    _, mark, text = line.partition(f"\x1e{run_id} ".encode())
    if mark:
        with contextlib.suppress(ValueError, TypeError):
            return Record(**json.loads(text))
    return None


def first_failure(records: Iterable[Record]) -> Record | None:
    """The rank that failed first, as a cause: before those that lost it, and before those that were told to end.

    One that saved and left takes those with it that the launcher's clean-up met on their way out. It is no cause if
    another had an exception of its own: then the checkpoint may be incomplete.

    Example:

    >>> lost = Record(0, "a", "a", 1, code=1, ended=5.0, tail="HorovodInternalError: ...")
    >>> cause = Record(1, "a", "a", 2, code=3, ended=6.0)
    >>> first_failure([lost, cause]).rank
    1
    """
    failed = sorted((record for record in records if record.failed), key=lambda record: record.ended)
    if not failed:
        return None
    root_cause = min(failed, key=lambda record: (_distance(record, failed[0].ended), record.ended))
    raised = [record for record in failed if record.raised and not record.saved and not record.signal]
    return raised[0] if root_cause.saved and raised else root_cause


def _distance(record: Record, first: float) -> int:
    """How far a failure is from being the cause: 0 itself, 1 lost a peer, 2 told to end."""
    if record.raised or record.saved:
        return 0
    if record.told_to_end:
        return 2
    if record.signal == signal.SIGKILL and record.ended - first > _CLEANUP_SECONDS:
        return 2
    return 1 if ended_by_peer(record.tail) else 0


def silent_ranks(ended: Mapping[int, Record], ranks: Iterable[int]) -> list[int]:
    """Those that have neither failed by themselves nor noticed that others were missing: stopped, hung, or gone.

    Example:

    >>> noticed = Record(0, "a", "a", 1, code=1, tail="HorovodInternalError: ...")
    >>> killed = Record(1, "b", "b", 2, code=137, signal=9)
    >>> silent_ranks({0: noticed, 1: killed}, range(3))
    [1, 2]
    """
    spoke = {r for r, me in ended.items() if me.code == 0 or me.left or me.raised or me.saved or ended_by_peer(me.tail)}
    return sorted(set(ranks) - spoke)


def explain_failure(root_cause: Record, ended: dict[int, Record], ranks: int) -> str:
    """The message about a failed run: the rank, the host, how it ended, and last its traceback."""
    ending = f"exit code {root_cause.exit_code}"
    if root_cause.signal and not root_cause.raised:
        with contextlib.suppress(ValueError):
            ending = f"killed by {signal.Signals(root_cause.signal).name}, {ending}"
    text = f"hvdkit: rank {root_cause.rank} of {ranks} on {root_cause.host} failed first: {ending}."
    # Not by the time of the end: the rank that leaves still takes Python down while the others already fail.
    early = {
        "ended with exit code 0": sorted(record.rank for record in ended.values() if record.code == 0),
        "came to its end": sorted(record.rank for record in ended.values() if record.left and record.told_to_end),
    }
    if any(early.values()) and _distance(root_cause, root_cause.ended) == 1:
        for how, left in early.items():
            if left:
                text += f"\n  Rank {', '.join(map(str, left))} {how} before that and left the others waiting."
        text += "\n  What to do: let every rank make the same number of steps and collectives."
    tail = _from_traceback(root_cause.tail)
    return f"{text}\n  Its last words:\n{tail}" if tail else f"{text}\n  It wrote nothing on its standard error."


def _from_traceback(tail: str) -> str:
    tail = tail.strip("\n")
    for start in (_TRACEBACK, "Fatal Python error"):
        if start in tail:
            return tail[tail.index(start) :]
    return "\n".join(tail.splitlines()[-20:])
