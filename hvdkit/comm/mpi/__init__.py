"""The direct MPI engine: mpi4py on host memory, without Horovod's background thread.

``engine.py`` speaks tensors, ``communicator.py`` NumPy arrays, ``host_memory.py`` is the fast way inside one host,
``timeout.py`` waits and says who is missing, ``graph_ops.py`` makes collectives operations of a graph, and
``graph_order.py`` keeps these in the order of the program.
"""
