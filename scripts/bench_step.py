"""How fast is a training step? hvdkit beside plain Keras, no communication at all, and the peers.

    python scripts/bench_step.py                     without the peers: what `hvdkit bench step` does
    scripts/bench_setup.sh .peers && python scripts/bench_step.py --peers .peers --json step.json --plot step.png

Each variant runs in processes of its own, which are stopped while another one is measured. Ratios are within a round;
a measurement during which others used the machine is repeated. "no communication" is what the ranks reach when they
do not communicate: an upper bound.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from hvdkit.bench import engines, report, runner, step
from hvdkit.bench.workloads import WORKLOADS

_HERE = Path(__file__).parent / "peers"


def peers(folder: Path, workload: str, ranks: int, threads: int) -> list[runner.Variant]:
    """The peers' variants; ``folder`` is what bench_setup.sh made."""
    keras2, torch = (folder.absolute() / name / "bin" for name in ("keras2", "torch"))
    here = Path(sys.executable).parent
    environ = step.variant("", workload, ranks, threads).environ
    mpirun = ("mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", str(ranks))
    last = (workload, str(threads))
    commands = {}
    for name, bin_, program in (("tape", here, "horovod_tape.py"), ("Keras 2", keras2, "horovod_keras2.py")):
        rank = (str(bin_ / "python"), str(_HERE / program), *last)
        commands[f"Horovod {name} gloo"] = (str(bin_ / "horovodrun"), "--gloo", "-np", str(ranks), *rank)
        commands[f"Horovod {name} mpi"] = (str(bin_ / mpirun[0]), *mpirun[1:], *rank)
    commands["DDP gloo"] = (str(torch / "python"), str(_HERE / "ddp.py"), str(ranks), *last)
    commands["MultiWorkerMirrored"] = (str(here / "python"), str(_HERE / "multiworker.py"), str(ranks), *last)
    batch, made = WORKLOADS[workload][1], []
    for name, command in commands.items():
        own = Path(command[0]).parent
        more = {"PATH": f"{own}:/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[1])}
        made.append(runner.Variant(name, ranks, batch, command, {**environ, **more}))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default="W1,W2,W3", help="default: %(default)s")
    parser.add_argument("--np", type=int, default=2, help="ranks; 1 compares with plain Keras (default: %(default)s)")
    parser.add_argument("--peers", type=Path, help="the folder that bench_setup.sh made")
    parser.add_argument("--extras", default="", help="fp16,xla: each engine also with these")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of each rank (default: %(default)s)")
    parser.add_argument("--json", dest="save_as", type=Path, help="write everything here")
    parser.add_argument("--plot", type=Path, help="draw the ratios here (.png, .svg)")
    options = vars(parser.parse_args())
    workloads, ranks, folder = options.pop("workloads").split(","), options.pop("np"), options.pop("peers")
    extras, save_as, plot = (
        [e for e in options.pop("extras").split(",") if e],
        options.pop("save_as"),
        options.pop("plot"),
    )

    def measure(workload: str) -> dict:
        own_variants = step.variants(
            workload, ranks, options["threads"], engines.launchable_engines() if ranks > 1 else {}, extras
        )
        peer_variants = peers(folder, workload, ranks, options["threads"]) if folder and ranks > 1 else []
        return runner.interleave(
            [*own_variants, *peer_variants], options["rounds"], options["seconds"], report.progress(workload)
        )

    step.report_on(workloads, measure, {"ranks": ranks, **options}, save_as=save_as, plot=plot)


if __name__ == "__main__":
    main()
