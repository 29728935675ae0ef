"""The machine: cores, GPUs, network, shared memory, and who launched this process."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import psutil

from hvdkit.doctor.finding import Finding
from hvdkit.horovod_build import framework
from hvdkit.launch.identity import launch_info
from hvdkit.utils.programs import ask

if TYPE_CHECKING:
    from hvdkit.doctor import Context

_MIB = 2**20
_SHM = "/dev/shm"  # noqa: S108  looked at, not written to
# Bridges of containers and virtual machines: they have the same address on every host.
_BRIDGE = re.compile(r"^(docker|br-|virbr|cni|flannel|lxc|lxdbr|podman|veth|weave|cali)")


def cores(context: Context) -> Iterator[Finding]:
    """The cores this process may use; each rank wants one or more of its own."""
    usable, there = len(os.sched_getaffinity(0)), psutil.cpu_count() or 1
    memory = psutil.virtual_memory().total / 2**30
    bound = f"{usable} of {there}" if usable != there else f"{there}"
    yield Finding("cores", "info", f"{bound} cores, {memory:.0f} GiB of memory")


def gpus(context: Context) -> Iterator[Finding]:
    """The driver's GPUs and TensorFlow's; none at all is no fault."""
    listing = None
    if shutil.which("nvidia-smi"):
        listing = ask(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], seconds=20)
        if listing is None:
            silent = "nvidia-smi fails or does not answer within 20 s: the driver is in trouble"
            yield Finding("gpus", "warn", silent, "nvidia-smi; maybe reboot the host")
            return
    there = [line.strip() for line in (listing or "").splitlines() if line.strip()]
    seen = context.probe.get("gpus", "names", [])
    error = context.probe.error("gpus")
    tensorflow = framework.installed_tensorflow()
    if not there and not seen:
        yield Finding("gpus", "info", "none; training runs on the CPU")
    elif tensorflow and not tensorflow.cuda:
        cpu = f"{', '.join(there)}; but TensorFlow is a CPU build"
        yield Finding("gpus", "warn", cpu, f"pip install 'tensorflow[and-cuda]=={tensorflow.version}'")
    elif len(seen) < len(there):
        why = f": {error}" if error else "; CUDA_VISIBLE_DEVICES, or a CUDA library that TensorFlow cannot load"
        less = f"the driver has {len(there)} ({', '.join(there)}), TensorFlow sees {len(seen)}{why}"
        yield Finding("gpus", "warn", less, "python -c 'import tensorflow as tf; tf.config.list_physical_devices()'")
    else:
        yield Finding("gpus", "ok", f"{len(seen)}: {', '.join(there or seen)}")


def network(context: Context) -> Iterator[Finding]:
    """The interfaces other hosts can be reached by, and the trap of those they cannot."""
    states = psutil.net_if_stats()
    real, bridges = [], []
    for name, addresses in psutil.net_if_addrs().items():
        ips = [item.address for item in addresses if item.family == socket.AF_INET]
        up = [ip for ip in ips if name not in states or states[name].isup]
        for ip in up:
            if not ipaddress.ip_address(ip).is_loopback:
                (bridges if _BRIDGE.match(name) else real).append((name, ip))
    if bridges:
        names = ", ".join(f"{name} {ip}" for name, ip in bridges)
        first = real[0][0] if real else "eth0"
        yield Finding(
            "network",
            "warn",
            f"{names}: the same address on every host, so MPI may wait forever for a rank behind it",
            f"with several hosts: horovodrun --network-interfaces {first} ..., "
            f"or mpirun --mca btl_tcp_if_include {first} ...",
        )
    if real:
        yield Finding("network", "ok", ", ".join(f"{name} {ip}" for name, ip in real))
    else:
        yield Finding("network", "info", "no interface but loopback: ranks on this host only")


def shared_memory(context: Context) -> Iterator[Finding]:
    """The shared memory by which ranks on one host exchange; Docker gives a container 64 MiB."""
    if not os.path.isdir(_SHM):
        yield Finding("shared memory", "warn", f"there is no {_SHM}; MPI and NCCL exchange through it")
        return
    total, _, free = shutil.disk_usage(_SHM)
    if free < 256 * _MIB:
        small = f"{_SHM} has {free // _MIB} of {total // _MIB} MiB free; MPI and NCCL exchange through it"
        yield Finding("shared memory", "warn", small, "docker run --shm-size=2g ..., or mount it larger")
    else:
        yield Finding("shared memory", "ok", f"{_SHM}, {free // _MIB} MiB free")


def launched_by(context: Context) -> Iterator[Finding]:
    """Who started this process, as hvdkit reads it."""
    info = launch_info()
    if info.launcher == "none":
        yield Finding("launched by", "info", "no launcher: a single process")
    else:
        yield Finding("launched by", "info", f"{info.launcher}: rank {info.rank} of {info.size}")
