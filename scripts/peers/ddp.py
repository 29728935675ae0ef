"""A peer: PyTorch's DistributedDataParallel over Gloo. Starts its ranks: ddp.py RANKS WORKLOAD THREADS"""

import datetime
import itertools
import os
import socket
import sys
from pathlib import Path

import torch
from torch import distributed, nn

sys.path.insert(0, str(Path(__file__).parents[2] / "hvdkit" / "bench"))
import worker
import workloads


def network(workload: str) -> nn.Module:
    """The same layers; images have their channel first."""
    if workload == "W1":
        sizes = [784, 2048, 2048, 2048]
        body = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*body, nn.Linear(2048, 10))
    if workload == "W2":
        convolutions = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        return nn.Sequential(*convolutions, nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10))
    body = [part for _ in range(60) for part in (nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())]
    return nn.Sequential(*body, nn.Linear(64, 10))


def rank(number: int, ranks: int, port: int, workload: str, threads: int) -> None:
    torch.set_num_threads(threads)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=number, world_size=ranks, timeout=datetime.timedelta(days=1))
    torch.manual_seed(1)
    model = nn.parallel.DistributedDataParallel(network(workload))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    x, y = workloads.data(workload)
    inputs = torch.from_numpy(x if x.ndim == 2 else x.transpose(0, 3, 1, 2).copy())
    labels, loss_of = torch.from_numpy(y), nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad()
        loss_of(model(inputs), labels).backward()
        optimizer.step()

    worker.serve(os.environ["HVDKIT_BENCH_FOLDER"], number, worker.loop(step))


def main(ranks: str, workload: str, threads: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(rank, (int(ranks), port, workload, int(threads)), nprocs=int(ranks))


if __name__ == "__main__":
    main(*sys.argv[1:])
