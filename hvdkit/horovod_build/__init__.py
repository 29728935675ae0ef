"""Building Horovod 0.28.1 for this environment's TensorFlow, and knowing afterwards what it was built for.

Horovod's last release is from 2023 and its wheel cannot be downloaded ready-made: its library links
TensorFlow's. The rooms, one thing each:

- ``framework``: which TensorFlow is installed, without importing it.
- ``toolchain``, ``mpi``, ``cuda``: what the machine has to build with.
- ``recipe``: the plan as pure data: everything that decides the binary, and the cache key made of it.
- ``build_plan``: the machine and the options -> a plan, or an error before anything is started.
- ``tools``, ``source``, ``build``: the private build tools, Horovod's patched sources, the compilation.
- ``cache``: the wheels kept between calls, locked and written atomically.
- ``install``: all of it in order, and the check that the library loads.
- ``stamp``: what the installed Horovod was built for; pure Python, imports nothing heavy.

Nothing here imports TensorFlow or Horovod: subprocesses do.
"""
