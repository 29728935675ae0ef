"""Benchmarks that users run on their own machines: ``hvdkit bench``.

The machine of a benchmark is never quiet. So nothing here is one number: variants of the same work are measured
interleaved, each in its own processes, which are stopped while another one is measured; a measurement during which
another program used the processors is thrown away and repeated; and what is compared are ratios within a round.
"""
