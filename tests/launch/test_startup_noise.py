"""What TensorFlow's libraries write first does not reach the user; everything else does, at once."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdkit.launch.startup_noise import remover

NOISE = (
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    b"I0000 00:00:1795705145.984814   12276 port.cc:153] oneDNN custom operations are on. You may see.\n"
    b"I0000 00:00:1795705834.033570   25497 cpu_feature_guard.cc:227] This TensorFlow binary is optimized.\n"
    b"To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow.\n"
)
KEPT = (
    b"E0000 00:00:1795705145.98 1 cuda.cc:1] no device\nW0000 00:00:1.2 1 x.cc:1] slow\nI am here\n\rEpoch 1: 10%\r 20%"
)


@given(st.lists(st.integers(0, len(NOISE + KEPT) * 2), max_size=12))
def test_however_it_comes_in_pieces(cuts):
    everything = NOISE + KEPT + b"\n" + NOISE + KEPT
    places = sorted({0, len(everything), *(min(cut, len(everything)) for cut in cuts)})
    step = remover()
    out = [step(everything[begin:end], False) for begin, end in itertools.pairwise(places)]
    assert b"".join(out) + step(b"", True) == KEPT + b"\n" + KEPT


@pytest.mark.parametrize("text", [b"password: ", b"I think", b"10%|###", b"WARNING: disk", b"To be"])
def test_a_line_without_an_end_passes_at_once(text):
    assert remover()(text, False) == text


def test_one_that_has_no_end_at_the_end():
    step = remover()
    assert step(b"I0000 00", False) == b""
    assert step(b"", True) == b"I0000 00"
