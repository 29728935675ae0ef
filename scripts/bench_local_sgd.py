"""Local SGD on a slow link: seconds per epoch and final accuracy, averaging in each step or every few steps.

Two ranks over Gloo in a network namespace of their own, whose loopback device carries --rate in both directions
together. Needs Linux, root (for the namespace), `unshare`, `ip` and `tc` (Debian: util-linux, iproute2).

Example: python scripts/bench_local_sgd.py --rate 100mbit --seeds 3
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAST = re.compile(r"test accuracy ([\d.]+) on (\d+) ranks, ([\d,]+) samples/s")
SAMPLES = 1198  # of the digits, without those held out
CONFIG = """\
model: {name: mlp, units: [512, 512]}
optimizer: {name: sgd, learning_rate: 0.05, momentum: 0.9}
batch_size: 16
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", default="100mbit", help="of the link, as tc takes it (default 100mbit)")
    parser.add_argument("--sync-period", type=int, default=8, help="steps between two averages (default 8)")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    missing = [tool for tool in ("unshare", "ip", "tc") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        sys.exit(f"error: needs root and unshare, ip, tc. Missing: {', '.join(missing) or 'root'}.")
    config = ROOT / ".bench_local_sgd.yaml"
    config.write_text(CONFIG)
    try:
        report(arguments, config)
    finally:
        config.unlink()


def report(arguments: argparse.Namespace, config: Path) -> None:
    """Train with each kind of round interleaved, a seed after the other, and print what came of it."""
    kinds = {"DistributedOptimizer": "null"} | {
        f"local SGD, period {n}": f"{{sync_period: {n}}}" for n in (1, arguments.sync_period)
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    accuracy: dict[str, list[float]] = {name: [] for name in kinds}
    for seed in range(1, arguments.seeds + 1):
        for name, value in kinds.items():
            sets = [f"local_sgd={value}", f"epochs={arguments.epochs}", f"seed={seed}"]
            found = train(arguments.rate, config, sets)
            accuracy[name].append(float(found[1]))
            seconds[name].append(SAMPLES / float(found[3].replace(",", "")))
            print(f"seed {seed}  {name:22s} {seconds[name][-1]:7.2f} s/epoch  accuracy {found[1]}", flush=True)
    slow = seconds["local SGD, period 1"]
    for name in kinds:
        ratio = statistics.median(s / mine for s, mine in zip(slow, seconds[name], strict=True))
        spread = f"{min(accuracy[name]):.3f} to {max(accuracy[name]):.3f}"
        median = statistics.median(seconds[name])
        print(f"{name:22s} {median:7.2f} s/epoch  {ratio:5.2f} x as fast as period 1  accuracy {spread}")


def train(rate: str, config: Path, sets: list[str]) -> re.Match:
    """One training on the slow link; its last line."""
    words = [sys.executable, "-m", "hvdkit", "train", str(config)]
    start = [str(Path(sys.executable).parent / "horovodrun"), "--gloo", "-np", "2"]
    command = shlex.join([*start, *words, *(word for s in sets for word in ("--set", s))])
    shaped = f"tc qdisc add dev lo root tbf rate {shlex.quote(rate)} burst 64kb latency 50ms"
    done = subprocess.run(
        ["unshare", "--net", "bash", "-c", f"ip link set lo up mtu 1500 && {shaped} && exec {command}"],
        cwd=ROOT, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = LAST.search(done.stdout)
    if found is None:
        sys.exit(f"error: the training failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return found


if __name__ == "__main__":
    main()
