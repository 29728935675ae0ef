"""Real Horovod under every way to start it: an all-reduce is right, and a rank that raises ends the others."""

from __future__ import annotations

import re
import sys

import pytest

from tests.machine import launcher_of, needs

pytestmark = [pytest.mark.dist, pytest.mark.slow]

SCRIPT = """
import horovod.tensorflow as hvd
import tensorflow as tf
hvd.init()
assert hvd.size() == 2
total = hvd.allreduce(tf.constant([1.0 + hvd.rank()]), op=hvd.Sum, name="first")
print("sum", float(total[0]), flush=True)
if "fail" in sys.argv and hvd.rank() == 1:
    time.sleep(1)
    raise ValueError("boom of rank 1")
if "leave" in sys.argv and hvd.rank() == 1:
    sys.exit(0)
if len(sys.argv) > 1:
    hvd.allreduce(tf.constant([1.0]), name="never")
"""


@pytest.fixture(params=["horovodrun", "mpirun"])
def launcher(request):
    """Each launcher whose ranks Horovod can join here."""
    return launcher_of(request.param, "horovod")


def test_raw_horovodrun(cluster, horovodrun_words):
    words = [*horovodrun_words, "-np", "2", sys.executable, cluster.script(SCRIPT)]
    ended = cluster.finish(cluster.start(words))
    assert ended.code == 0, ended.err
    assert ended.out.count("sum 3.0") == 2


def test_raw_mpirun(cluster, mpirun_words):
    needs("mpirun", "horovod")
    words = [*mpirun_words, "-np", "2", sys.executable, cluster.script(SCRIPT)]
    ended = cluster.finish(cluster.start(words))
    assert ended.code == 0, ended.err
    assert ended.out.count("sum 3.0") == 2


def test_hvdkit_run(cluster, launcher):
    ended = cluster.run("-np", 2, cluster.script(SCRIPT), launcher=launcher)
    assert ended.code == 0, ended.err
    assert sorted(ended.out.split("\n")) == ["", "[1] sum 3.0", "sum 3.0"]
    assert cluster.gone()


def test_a_rank_raises_while_the_other_waits(cluster, launcher):
    ended = cluster.run("-np", 2, cluster.script(SCRIPT), "fail", launcher=launcher)
    assert ended.code == 1
    assert re.search(r"hvdkit: rank 1 of 2 on \S+ failed first: exit code 1", ended.err)
    assert ended.err.endswith("ValueError: boom of rank 1\n")
    assert ended.seconds < 45  # of which TensorFlow's start is a good part
    assert cluster.gone()


def test_a_rank_leaves_while_the_other_waits(cluster, launcher):
    ended = cluster.run("-np", 2, cluster.script(SCRIPT), "leave", launcher=launcher)
    assert ended.code not in (0, None)
    assert "hvdkit: rank 0 of 2" in ended.err
    assert cluster.gone()
