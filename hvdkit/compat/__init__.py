"""Run a script that was written for Horovod, as it is: ``horovodrun -np 4 python -m hvdkit.compat train.py ARGS``.

The script's imports of ``horovod.tensorflow.keras``, ``horovod.keras`` and ``horovod.tensorflow`` are answered by
hvdkit (``shims``), and what it says to Keras in Keras 2's words is put into Keras 3's, with one line on rank 0 for
each that says what to write instead (``keras2_patches``, ``renames``). What has no equivalent ends in an error that
says what to write.

All of it is there for the script that is run this way only: ``import hvdkit`` changes nothing in Keras, and never
answers to Horovod's name.
"""
