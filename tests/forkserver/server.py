"""``python server.py LISTENING``: a process that has imported TensorFlow and forks itself once per program.

It has run no operation of TensorFlow, and imported nothing of hvdkit: what a program finds is what Python's start and
its first imports would have left. ``client/sitecustomize.py`` asks; who reads variables at import (NumPy, TensorFlow,
Keras) has read this process' ones, so a program that was given others is left to its own process.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.machinery
import marshal
import os
import runpy
import selectors
import signal
import socket
import sys
import time
import types
from pathlib import Path
from typing import Any

_PATIENCE = 5.0  # seconds for what a client sends in one go
_PR_SET_PDEATHSIG = 1
_MOST_DESCRIPTORS = 200

_READ_AT_IMPORT = (
    "TF_", "TF2_", "TPU_", "KERAS_", "XLA_", "CUDA_", "OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "NPY_",
    "NUMPY_", "HDF5_", "SKLEARN_", "SCIPY_", "ABSL_", "PROTOCOL_BUFFERS_", "PYTHON", "LD_", "MALLOC_", "GLIBC_",
    "HOME", "LC_", "LANG",
)  # fmt: skip
# Of those names: what a fork takes over all the same, what is read later, and what mpirun sets, whose libraries are
# found without it.
_GIVEN = ("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONFAULTHANDLER", "TF_FORCE_GPU_ALLOW_GROWTH", "LD_LIBRARY_PATH")


class Server:
    """Answers clients until the process that started it is gone, whose end of a pipe is this one's standard input."""

    def __init__(self, listening: int, before: dict[str, str]):
        self._before = before
        self._set_by_imports = {k: v for k, v in os.environ.items() if before.get(k) != v}
        self._imported = {name.partition(".")[0] for name in sys.modules}
        self._path = {os.path.realpath(place) for place in sys.path}
        self._listening = socket.socket(fileno=listening)
        self._clients: dict[socket.socket, tuple[int, int]] = {}  # with the fork's process number and descriptor
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._selector.register(0, selectors.EVENT_READ)

    def until_asked(self) -> dict[str, Any] | None:
        """Serve; returns a request in each fork, and None when the one that started this process has ended."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj == 0:
                    for client in list(self._clients):
                        self._end(client)
                    return None
                if key.fileobj is self._listening:
                    request = self._accept()
                    if request is not None:
                        return request
                elif key.data is not None:
                    self._report(key.data)
                elif key.fileobj in self._clients:
                    self._end(key.fileobj)  # a client says nothing more: it is gone

    def _accept(self) -> dict[str, Any] | None:
        client, _ = self._listening.accept()
        client.settimeout(_PATIENCE)
        received: list[int] = []
        try:
            head, received, _, _ = socket.recv_fds(client, 8, _MOST_DESCRIPTORS)
            data = b""
            while len(data) < int.from_bytes(head, sys.byteorder):
                piece = client.recv(1 << 20)
                if not piece:
                    raise ConnectionError
                data += piece
            request = marshal.loads(data)  # noqa: S302  from a process of the same tests
            lost = len(received) != len(request["descriptors"])
            why_not = "not all of its descriptors came" if lost else self._why_not(request)
            if why_not:
                print(f"not run here: {request['words'][1:]}: {why_not}", file=sys.stderr)
                client.sendall(bytes(4))
                raise ConnectionRefusedError
        except (OSError, EOFError):
            client.close()
            for number in received:
                os.close(number)
            return None
        pid = os.fork()
        if not pid:
            self._forget(client)
            return {**request, "received": received, "environ": {**self._set_by_imports, **request["environ"]}}
        for number in received:
            os.close(number)
        ended = os.pidfd_open(pid)
        self._clients[client] = (pid, ended)
        self._selector.register(client, selectors.EVENT_READ)
        self._selector.register(ended, selectors.EVENT_READ, client)
        with contextlib.suppress(OSError):
            client.sendall(pid.to_bytes(4, sys.byteorder))
        return None

    def _why_not(self, request: dict[str, Any]) -> str:
        """Why a program would not find here what it finds in a process of its own; empty where it would."""
        if request["python"] != [os.path.realpath(sys.prefix), sys.version, sys.warnoptions, sys._xoptions]:
            return "another Python"
        wanted, words = request["environ"], request["words"][1:]
        withheld = Path(words[0]).name == "horovodrun"  # gets no variable that it would show to every user
        for name in wanted.keys() | self._before.keys():
            value, before = wanted.get(name), self._before.get(name)
            same = value == before or (value is not None and value == self._set_by_imports.get(name))
            same = same or (withheld and value is None) or name in _GIVEN
            if name.startswith(_READ_AT_IMPORT) and not same:
                return f"{name} is {value!r} and was {before!r} at the imports"
        script = Path(request["cwd"], "any" if words[0] in ("-m", "-c") else words[0])
        if script.name != "any" and not script.is_file():
            return f"{script} is no file"
        others = (place for place in request["path"] if os.path.realpath(place) not in self._path)
        return next(filter(None, map(self._other_module, [script.parent, *others])), "")

    def _other_module(self, folder: str | Path) -> str:
        """What a folder has under a name that is imported here; empty where it has nothing of the kind."""
        try:
            names = {name.partition(".")[0] for name in os.listdir(folder)}
        except OSError:
            return ""
        for name in names & self._imported - {"__main__", "sitecustomize"}:
            place = Path(folder, name)
            if place.with_suffix(".py").exists() or (place / "__init__.py").exists():
                return f"{folder} has another {name}"
        return ""

    def _report(self, client: socket.socket) -> None:
        pid, ended = self._clients.pop(client)
        _, status = os.waitpid(pid, 0)
        self._selector.unregister(client)
        self._selector.unregister(ended)
        os.close(ended)
        with contextlib.suppress(OSError):
            client.sendall(status.to_bytes(4, sys.byteorder))
        client.close()

    def _end(self, client: socket.socket) -> None:
        """Kill a fork whose client is gone, and what it has started."""
        pid, _ = self._clients[client]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # it may have no group of its own yet
        self._report(client)

    def _forget(self, client: socket.socket) -> None:
        """In a fork: close what is the server's."""
        self._selector.close()
        self._listening.close()
        client.close()
        for other, (_, ended) in self._clients.items():
            other.close()
            os.close(ended)


def become(request: dict[str, Any]) -> None:
    """Take the client's place: its descriptors, folder, environment, cores, and what Python keeps of its start."""
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    _take(request["received"], request["descriptors"])
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    os.sched_setaffinity(0, request["cores"])
    os.environ.clear()
    os.environ.update(request["environ"])
    time.tzset()
    sys.orig_argv = request["words"]
    sys.path[:] = request["path"]
    importlib.invalidate_caches()
    _open_streams(unbuffered=bool(os.environ.get("PYTHONUNBUFFERED")))
    if os.environ.get("PYTHONFAULTHANDLER"):
        import faulthandler

        faulthandler.enable()
    import numpy as np

    np.random.seed()  # Python's own generator is seeded anew in every fork, NumPy's is not


def _take(received: list[int], wanted: list[int]) -> None:
    """Give received descriptors the numbers that they have in the client."""
    import fcntl

    moved = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 512) for number in received]
    for number in received:
        os.close(number)
    for number, target in zip(moved, wanted, strict=True):
        os.dup2(number, target)
        os.close(number)


def _open_streams(*, unbuffered: bool) -> None:
    """This process' streams are unbuffered; libraries may hold on to them, so they stay, but for a buffered output."""
    if not unbuffered:
        encoding, errors = sys.stdout.encoding, sys.stdout.errors
        stdout = open(1, "w", encoding=encoding, errors=errors, closefd=False)  # noqa: SIM115
        stdout.reconfigure(line_buffering=stdout.isatty())
        sys.stdout = sys.__stdout__ = stdout
    sys.stderr.reconfigure(line_buffering=True, write_through=unbuffered)


def run(words: list[str]) -> None:
    """Run a program, the words that follow ``python``, as Python itself does."""
    main = types.ModuleType("__main__")
    vars(main).update(__builtins__=sys.modules["builtins"], __loader__=importlib.machinery.BuiltinImporter)
    sys.modules["__main__"] = main
    try:
        if words[0] == "-m":
            _first_place(os.getcwd())
            sys.argv = ["-m", *words[2:]]
            runpy._run_module_as_main(words[1])
        elif words[0] == "-c":
            _first_place("")
            sys.argv = ["-c", *words[2:]]
            exec(compile(words[1], "<string>", "exec"), vars(main))  # noqa: S102
        else:
            path = os.path.abspath(words[0])
            _first_place(os.path.dirname(os.path.realpath(path)))
            sys.argv = list(words)
            loader = importlib.machinery.SourceFileLoader("__main__", path)
            vars(main).update(__file__=path, __cached__=None, __loader__=loader)
            exec(compile(loader.get_data(path), path, "exec"), vars(main))  # noqa: S102
    except BaseException as error:
        _show_only_the_program(error)
        raise


def _first_place(folder: str) -> None:
    if not sys.flags.safe_path:
        sys.path.insert(0, folder)


def _show_only_the_program(error: BaseException) -> None:
    """Let a traceback begin where the program does."""
    traceback, shown = error.__traceback__, sys.excepthook
    while traceback and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next

    def show(kind, value, _traceback):
        shown(kind, value.with_traceback(traceback), traceback)

    sys.excepthook = show


def main() -> None:
    """Import, serve, and in a fork be what was asked for."""
    before = dict(os.environ)
    import gc

    import keras  # noqa: F401
    import sklearn.datasets  # noqa: F401  what the trainings of the tests learn
    import tensorflow  # noqa: F401

    gc.collect()
    gc.freeze()  # what is there stays: no fork looks through it again
    request = Server(int(sys.argv[1]), before).until_asked()
    if request is not None:
        become(request)
        run(request["words"][1:])


if __name__ == "__main__":
    main()
