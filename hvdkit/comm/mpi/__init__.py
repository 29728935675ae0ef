"""The direct MPI engine: mpi4py on host memory, without Horovod's background thread.

``engine.py`` speaks tensors, ``ranks.py`` NumPy arrays, ``host_memory.py`` is the fast way inside one host,
``patience.py`` waits and says who is missing, ``in_graph.py`` makes collectives operations of a graph, and
``graph_order.py`` keeps these in the order of the program.
"""
