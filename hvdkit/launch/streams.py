"""The ranks' output on its way to the terminal: passed on at once, with a rank's number or without a launcher's."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import BinaryIO

_CHUNK = 1 << 16
_LONGEST_LINE = 1 << 20
_TAG = re.compile(rb"\[\d+\]<std(?:out|err)>:")


class Tail:
    """The last lines of a stream, in bounded memory."""

    def __init__(self, lines: int = 120, size: int = 1 << 15):
        self._lines = lines
        self._size = size
        self._chunks: deque[bytes] = deque()
        self._held = 0

    def feed(self, data: bytes) -> None:
        """More of the stream."""
        self._chunks.append(data)
        self._held += len(data)
        while self._held - len(self._chunks[0]) > self._size:
            self._held -= len(self._chunks.popleft())

    def text(self) -> str:
        """The last lines, as text."""
        data = b"".join(self._chunks.copy())[-self._size :]
        return "\n".join(data.decode("utf-8", "replace").splitlines()[-self._lines :])


class Lines:
    """Cuts a stream into whole lines; a carriage return ends one too, as progress bars use it."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now, each with its end."""
        lines = (self._rest + data).splitlines(keepends=True)
        self._rest = b"" if not lines or lines[-1].endswith((b"\n", b"\r")) else lines.pop()
        if len(self._rest) > _LONGEST_LINE:
            return [*lines, self.flush()]
        return lines

    def flush(self) -> bytes:
        """What is left without an end."""
        rest, self._rest = self._rest, b""
        return rest


def prefixer(prefix: bytes) -> Callable[[bytes, bool], bytes]:
    """A filter that writes ``prefix`` before every line."""
    lines = Lines()

    def apply(data: bytes, last: bool) -> bytes:
        whole = lines.feed(data) + ([lines.flush()] if last else [])
        return b"".join(prefix + line for line in whole if line)

    return apply


def cleaner() -> Callable[[bytes, bool], bytes]:
    """A filter that lets only valid UTF-8 pass: horovodrun's reader dies of anything else, and the rank then hangs."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return lambda data, last: decoder.decode(data, last).encode()


def pump(source: int, sink: Callable[[bytes], None], *steps: Callable[[bytes, bool], bytes]) -> threading.Thread:
    """Start a thread that reads a file descriptor to its end through the given filters into a sink.

    A sink that fails (a closed pipe) is given up, and the source is still read, so that its writer never blocks.
    """
    thread = threading.Thread(target=_pump, args=(source, sink, steps), daemon=True, name=f"pump-{source}")
    thread.start()
    return thread


def _pump(source: int, sink: Callable[[bytes], None], steps) -> None:
    open_sink = True
    while True:
        try:
            data = os.read(source, _CHUNK)
        except OSError:  # a pseudo-terminal whose other side is gone
            data = b""
        last = not data
        for step in steps:
            data = step(data, last)
        if data and open_sink:
            try:
                sink(data)
            except (OSError, ValueError):
                open_sink = False
        if last:
            break
    with contextlib.suppress(OSError):
        os.close(source)


def write_all(descriptor: int) -> Callable[[bytes], None]:
    """A sink that writes everything to a file descriptor."""

    def sink(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    return sink


def by_line(*filters: Callable[[bytes], bytes]) -> Callable[[bytes, bool], bytes]:
    """A stream filter out of line filters; each turns a line into what is to be left of it."""
    lines = Lines()

    def one(line: bytes) -> bytes:
        for step in filters:
            line = step(line)
        return line

    return lambda data, last: b"".join(map(one, [*lines.feed(data), *([lines.flush()] if last else [])]))


def tags_off(own_words: Tail) -> Callable[[bytes], bytes]:
    """A line filter that takes horovodrun's ``[1]<stdout>:`` off the ranks' lines; its own lines go to ``own_words``.

    Its threads write without a lock, and a pipe takes over PIPE_BUF bytes in pieces: a long line may be torn by
    another rank's. So a line without a tag is a rank's too while the end of a torn one is still to come.
    """
    torn = 0

    def one(line: bytes) -> bytes:
        nonlocal torn
        if not (tag := _TAG.match(line)):
            if torn:
                torn -= line.endswith((b"\n", b"\r"))
                return line
            own_words.feed(line)
            return b""
        parts = _TAG.split(line) if len(line) > select.PIPE_BUF else [b"", line[tag.end() :]]
        torn += len(parts) - 2 + (not line.endswith((b"\n", b"\r")))
        return b"".join(parts[1:])

    return one


def binary(stream) -> BinaryIO:
    """The bytes side of a text stream; a file on the null device where there is none."""
    if stream is None:
        return open(os.devnull, "wb")
    return getattr(stream, "buffer", None) or _Encoded(stream)


def flushed(sink: BinaryIO) -> Callable[[bytes], None]:
    """A sink that writes to a binary file and holds nothing back."""

    def write(data: bytes) -> None:
        sink.write(data)
        sink.flush()

    return write


def write_message(sink: BinaryIO, text: str) -> None:
    """A line of our own; nothing if there is no text, or no reader."""
    if text:
        with contextlib.suppress(OSError, ValueError):
            flushed(sink)(f"{text}\n".encode())


class _Encoded:
    """Bytes into a text stream that has no bytes side, such as a notebook's."""

    def __init__(self, stream):
        self.write = lambda data: stream.write(data.decode("utf-8", "replace"))
        self.flush = stream.flush
