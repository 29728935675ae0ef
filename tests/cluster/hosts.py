"""Several hosts on one machine: Linux namespaces, each with its own network, name, processes, memory and sshd.

The file system is shared, as over NFS, but for /dev/shm and /run/hvdkit-local, which are each host's own. Between
hosts is a switch, whose links can be given a rate, cut, or made to lose everything.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from filelock import FileLock

_NETWORK = "10.83.0"
_SSHD = "/usr/sbin/sshd"
_LOCAL = "/run/hvdkit-local"  # each host has its own
_PREFIX = "hvdkit-"  # of the names of network namespaces
_SWITCH = f"{_PREFIX}switch"


def why_not() -> str | None:
    """Why this machine can have no such hosts, in a few words."""
    if sys.platform != "linux" or os.getuid():
        return "hosts of namespaces need Linux and root"
    lacking = [name for name in ("ip", "tc", "nsenter", "unshare", "ssh", _SSHD) if shutil.which(name) is None]
    if lacking:
        return f"{', '.join(lacking)} not installed: apt-get install iproute2 openssh-server"
    allowed = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True)
    return None if allowed.returncode == 0 else "this machine allows no namespaces"


class Cluster:
    """Hosts named ``host0``, ``host1``, ...; a context manager.

    Args:
        folder: for keys and logs.
        size: how many hosts.
    """

    def __init__(self, folder: Path, size: int):
        self.folder, self.hosts = folder, [f"host{i}" for i in range(size)]
        self._init: dict[str, subprocess.Popen] = {}
        self._lock = FileLock(Path(tempfile.gettempdir()) / "hvdkit-cluster.lock", timeout=900)

    def __enter__(self) -> Cluster:
        # The names of namespaces are the machine's: of two runs of the tests one waits for the other.
        self._lock.acquire()
        self.remove()
        try:
            self._key()
            _ip("netns", "add", _SWITCH)
            _ip("-n", _SWITCH, "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0")
            _ip("-n", _SWITCH, "link", "set", "br0", "up")
            for host in self.hosts:
                self._plug_in(host)
            for host in self.hosts:
                self.boot(host)
            for host in self.hosts:
                self._wait_for_ssh(host)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()
        self._lock.release()

    def address(self, host: str) -> str:
        """Its address on ``eth0``."""
        return f"{_NETWORK}.{10 + self.hosts.index(host)}"

    def command(self, host: str, argv: list[str], folder: str | None = None) -> list[str]:
        """A command line that runs ``argv`` on a host, in a folder; by default in this working directory."""
        where = f"--wd={folder or Path.cwd()}"
        return ["nsenter", "-t", str(self.pid(host)), "-n", "-u", "-i", "-p", "-m", where, *argv]

    def run(self, host: str, argv: list[str], cwd: str | None = None, **options: object) -> subprocess.CompletedProcess:
        """Run a command on a host to its end, in a folder; ``options`` are others of ``subprocess.run``."""
        given = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, **options}
        return subprocess.run(self.command(host, argv, cwd), **given)

    def pid(self, host: str) -> int:
        """Its first process, as this machine numbers it."""
        parent = self._init[host].pid
        return int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])

    def processes(self, host: str) -> dict[int, str]:
        """The command lines of the processes on a host but for its sshd, by their numbers on this machine."""
        namespace = os.readlink(f"/proc/{self.pid(host)}/ns/pid")
        out = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(process / "ns/pid") == namespace:
                    out[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return {number: line for number, line in out.items() if line and "sshd" not in line}

    def limit(self, rate: str | None) -> None:
        """Give every link this rate in both directions, e.g. ``"1gbit"``; None removes it."""
        for host in self.hosts:
            for namespace, device in ((_name(host), "eth0"), (_SWITCH, host)):
                _run(["tc", "-n", namespace, "qdisc", "del", "dev", device, "root"], check=False)
                if rate:
                    shape = ["tbf", "rate", rate, "burst", "128kb", "latency", "50ms"]
                    _run(["tc", "-n", namespace, "qdisc", "add", "dev", device, "root", *shape])

    def cable(self, host: str, *, plugged: bool) -> None:
        """Pull a host's cable or plug it in: both ends see it."""
        _ip("-n", _SWITCH, "link", "set", host, "up" if plugged else "down")

    def silence(self, host: str, *, on: bool) -> None:
        """Let the switch drop everything from and to a host, which nobody is told."""
        state = "0" if on else "3"
        _run(["bridge", "-n", _SWITCH, "link", "set", "dev", host, "state", state])

    def power_off(self, host: str) -> None:
        """End all processes of a host at once, and its network."""
        with contextlib.suppress(RuntimeError):  # there is no switch yet
            self.cable(host, plugged=False)
        os.kill(self.pid(host), signal.SIGKILL)
        self._init.pop(host).wait()

    def boot(self, host: str) -> None:
        """Start a host."""
        self.cable(host, plugged=True)
        script = (
            f"hostname {host} && mount -t tmpfs -o mode=1777 tmpfs /dev/shm && mkdir -p {_LOCAL} "
            f"&& mount -t tmpfs -o mode=1777 tmpfs {_LOCAL} && exec {_SSHD} -D -e -f /etc/ssh/sshd_config"
        )
        spaces = ["--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with open(self.folder / f"{host}.log", "ab") as log:
            self._init[host] = subprocess.Popen(
                ["ip", "netns", "exec", _name(host), "unshare", *spaces, "sh", "-c", script],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"},
            )  # fmt: skip
        until = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError, IndexError):
                self.pid(host)
                return
            if time.monotonic() > until:
                raise RuntimeError(f"{host} did not start: {(self.folder / f'{host}.log').read_text()}")
            time.sleep(0.02)

    def remove(self) -> None:
        """End all processes, and remove what was made; also what a killed run has left."""
        for host in list(self._init):
            with contextlib.suppress(OSError, IndexError):
                self.power_off(host)
        there = _run(["ip", "netns", "list"]).stdout.split()
        for name in [word for word in there if word.startswith(_PREFIX)]:
            for process in _run(["ip", "netns", "pids", name], check=False).stdout.split():
                with contextlib.suppress(OSError):
                    os.kill(int(process), signal.SIGKILL)
            _ip("netns", "del", name)
            shutil.rmtree(_etc(name), ignore_errors=True)

    def _key(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        Path("/run/sshd").mkdir(exist_ok=True)
        for name in ("id", *self.hosts):
            (self.folder / name).unlink(missing_ok=True)
            _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)])

    def _plug_in(self, host: str) -> None:
        """A host's network and its /etc, which ``ip netns exec`` puts in the place of the machine's."""
        name, etc, address = _name(host), _etc(_name(host)), self.address(host)
        (etc / "ssh").mkdir(parents=True, exist_ok=True)
        lines = [f"{self.address(other)} {other}" for other in self.hosts]
        (etc / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        keys = [(other, (self.folder / f"{other}.pub").read_text().split()) for other in self.hosts]
        (etc / "ssh/known").write_text("".join(f"{o},{self.address(o)} {k[0]} {k[1]}\n" for o, k in keys))
        shutil.copy(self.folder / "id.pub", etc / "ssh/authorized")
        (etc / "ssh/ssh_config").write_text(
            f"Host *\n IdentityFile {self.folder / 'id'}\n IdentitiesOnly yes\n BatchMode yes\n LogLevel ERROR\n"
            " UserKnownHostsFile /dev/null\n GlobalKnownHostsFile /etc/ssh/known\n ConnectTimeout 10\n"
            " ServerAliveInterval 5\n ServerAliveCountMax 3\n"
        )
        (etc / "ssh/sshd_config").write_text(
            f"ListenAddress {address}\nHostKey {self.folder / host}\nAuthorizedKeysFile /etc/ssh/authorized\n"
            "StrictModes no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nUsePAM no\nPidFile none\nUseDNS no\nMaxStartups 100\nMaxSessions 100\n"
            # A launcher keeps its sessions there by its process id, which hosts in namespaces have in common.
            f"SetEnv TMPDIR={_LOCAL}\n"
        )
        _ip("netns", "add", name)
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", host, "netns", _SWITCH)
        _ip("-n", _SWITCH, "link", "set", host, "master", "br0", "up")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        # What ordinary hosts use: this machine's own choice may be another.
        _ip("-n", name, "route", "change", f"{_NETWORK}.0/24", "dev", "eth0", "src", address, "congctl", "cubic")
        # Docker's bridge has one address on all hosts: whoever believes in it waits for ever.
        _ip("-n", name, "link", "add", "docker0", "type", "bridge")
        _ip("-n", name, "addr", "add", "172.17.0.1/16", "dev", "docker0")
        _ip("-n", name, "link", "set", "docker0", "up")

    def _wait_for_ssh(self, host: str) -> None:
        until = time.monotonic() + 20
        while True:
            done = self.run(self.hosts[0], ["ssh", host, "hostname"])
            if done.stdout.strip() == host:
                return
            if time.monotonic() > until:
                raise RuntimeError(f"ssh {host} does not answer: {done.stderr}")
            time.sleep(0.1)


def _name(host: str) -> str:
    return f"{_PREFIX}{host}"


def _etc(name: str) -> Path:
    return Path("/etc/netns") / name


def _ip(*words: str) -> None:
    _run(["ip", *words])


def _run(argv: list[str], *, check: bool = True) -> subprocess.CompletedProcess:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done
