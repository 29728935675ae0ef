"""What a Python that a test starts does first: let the fork server run its program, where one is there and can.

Importing TensorFlow and Keras costs a process three seconds; a fork of one that has them costs none. A copy of this
file, named ``sitecustomize.py``, lies beside the servers' sockets, and Python imports it by itself where that folder is
on PYTHONPATH: the one variable that each launcher passes on. The process stays, as the one that others know: it passes
signals on to the fork, and ends as that ends. Whatever does not come off, the program is run here, as ever. Nothing is
imported here that Python has not imported anyway, or that is not built into it.
"""

import marshal
import os
import sys

_MODULES = ("hvdkit.testing", "tests.chaos.job", "pytest")
_RANKS = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK")
SERVERS = 3  # for ranks


def profits(words: list[str], is_rank: bool) -> bool:
    """Whether a program, the words that follow ``python``, may import TensorFlow."""
    if words[:1] == ["-c"]:
        return any(name in words[1] for name in ("keras", "tensorflow", "hvdkit"))
    if words[:2] == ["-m", "hvdkit"]:
        return words[2:3] in (["train"], ["checkpoint"])
    if words[:2] == ["-m", "hvdkit.compat"]:
        return is_rank  # else it may be one whose imports of Keras are looked at
    if words[:1] == ["-m"]:
        return words[1] in _MODULES
    return bool(words) and words[0].endswith(("/horovodrun", ".py"))


def server_of(rank: str | None, run: str, pid: int, folder: str) -> int:
    """The number of the server whose fork runs a program: with it goes how strings are hashed.

    Three ranks in a row have three, and a rank has another one in another run. What is no rank takes any that is there.
    """
    if rank is None:
        return pid % max(sum(name.isdigit() for name in os.listdir(folder)), 1)
    return (int(rank) + sum(run.encode())) % SERVERS


def _hand_over(folder: str) -> None:
    rank = next((os.environ[name] for name in _RANKS if name in os.environ), None)
    if not profits(sys.orig_argv[1:], rank is not None):
        return
    import _signal
    import _socket

    try:
        server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        server.connect(f"{folder}/{server_of(rank, os.environ.get('HVDKIT_RUN_ID', ''), os.getpid(), folder)}")
        descriptors = _open_here(server.fileno())
        request = marshal.dumps(_request(descriptors))
        numbers = b"".join(number.to_bytes(4, sys.byteorder) for number in descriptors)
        server.sendmsg([len(request).to_bytes(8, sys.byteorder)], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, numbers)])
        at = 0
        while at < len(request):
            at += server.send(request[at:])
        pid = int.from_bytes(server.recv(4), sys.byteorder)
    except OSError:
        return  # nobody is there
    if not pid:
        server.close()
        return  # it does not run this one
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGCONT"):
        number = getattr(_signal, name)
        if _signal.getsignal(number) is not _signal.SIG_IGN:
            _signal.signal(number, lambda number, _: os.kill(pid, number))
    status = server.recv(4)
    if not status:
        os.write(2, b"The fork server of the tests has ended, and with it this process' program.\n")
        os._exit(70)
    code = os.waitstatus_to_exitcode(int.from_bytes(status, sys.byteorder))
    if code < 0:
        if -code not in (_signal.SIGKILL, _signal.SIGSTOP):
            _signal.signal(-code, _signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _open_here(but: int) -> list[int]:
    """The descriptors that this process was given; the first three are there, or the program is run here."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        if int(name) != but and os.path.exists(f"/proc/self/fd/{name}") and os.get_inheritable(int(name)):
            found.append(int(name))
    for number in (0, 1, 2):
        os.fstat(number)
    return sorted(found)


def _request(descriptors: list[int]) -> dict:
    mask = os.umask(0o077)
    os.umask(mask)
    return {
        "python": [os.path.realpath(sys.prefix), sys.version, sys.warnoptions, sys._xoptions],
        "words": sys.orig_argv,
        "path": sys.path,
        "cwd": os.getcwd(),
        "environ": dict(os.environ),
        "descriptors": descriptors,
        "umask": mask,
        "cores": list(os.sched_getaffinity(0)),
    }


if __name__ == "sitecustomize":
    _hand_over(os.path.dirname(__file__))
