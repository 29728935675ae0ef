"""The private parts of Keras and TensorFlow: each is touched here and nowhere else.

One file per subject, with functions under plain names: ``optimizers``, ``layers``, ``models``, ``data``, ``random``,
``variables``, ``graphs``; ``optimizer_hooks`` for what is overridden, ``keras2`` for what ``hvdkit.compat`` changes,
``attributes`` for what hvdkit puts on objects that are not its own, ``model_contents`` for what a model trains with.
``required`` is the list of it all, and ``missing`` compares it with the installed versions.
"""
