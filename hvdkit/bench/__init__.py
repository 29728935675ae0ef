"""Benchmarks that users run on their own machines: ``hvdkit bench``.

The machine of a benchmark is never quiet. So nothing here is one number: variants of the same work take turns, each in
its own processes, which are stopped while another has its turn; a turn in which somebody else used the processors is
thrown away and repeated; and what is compared are ratios within a round of turns.
"""
