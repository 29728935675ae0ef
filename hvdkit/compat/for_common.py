"""``horovod.common.util``, ``.exceptions`` and ``.process_sets``: what scripts and their tests take from there."""

from __future__ import annotations

import functools
import itertools
import os
import sysconfig
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from packaging import version as versions

from hvdkit.comm import world
from hvdkit.comm.process_sets import ProcessSet, add_process_set, global_process_set, remove_process_set
from hvdkit.compat.deprecations import RefusedImportError
from hvdkit.errors import CommunicationError, UsageError
from hvdkit.utils import env as environment

__all__ = [
    "EXTENSIONS",
    "HorovodInternalError",
    "HorovodVersionMismatchError",
    "ProcessSet",
    "_cache",
    "add_process_set",
    "ccl_built",
    "check_extension",
    "check_installed_version",
    "ddl_built",
    "env",
    "extension_available",
    "get_average_backwards_compatibility_fun",
    "get_ext_suffix",
    "get_extension_full_path",
    "global_process_set",
    "gloo_built",
    "gpu_available",
    "is_iterable",
    "is_version_greater_equal_than",
    "mpi_built",
    "nccl_built",
    "num_rank_is_power_2",
    "remove_process_set",
    "split_list",
]
EXTENSIONS = ["tensorflow"]
"""The libraries that hvdkit trains."""

HorovodInternalError = CommunicationError
"""What a collective that failed raises."""


class HorovodVersionMismatchError(ImportError):
    """Nothing here raises it: hvdkit is not compiled against a TensorFlow; a script may name it in ``except``."""


def _cache(function: Callable) -> Callable:
    """Call a function once for each set of arguments."""
    return functools.cache(function)


def _built(feature: str) -> Callable[..., bool]:
    def built(verbose: bool = False) -> bool:
        return getattr(world, f"{feature}_built")()

    built.__name__ = f"{feature}_built"
    built.__doc__ = f"``hvd.{feature}_built``."
    return built


gloo_built, mpi_built, nccl_built = _built("gloo"), _built("mpi"), _built("nccl")
ddl_built, ccl_built = _built("ddl"), _built("ccl")


def gpu_available(ext_base_name: str, verbose: bool = False) -> bool:
    """Whether TensorFlow sees a GPU."""
    import tensorflow as tf

    return extension_available(ext_base_name) and bool(tf.config.list_physical_devices("GPU"))


def extension_available(ext_base_name: str, verbose: bool = False) -> bool:
    """Whether hvdkit trains models of this library."""
    return ext_base_name in EXTENSIONS


def check_extension(ext_name: str, ext_env_var: str, pkg_path: str, *args: str) -> None:
    """Return where hvdkit trains models of this library.

    Raises:
        ImportError: it does not.
    """
    if not extension_available(ext_name.rpartition(".")[2]):
        raise RefusedImportError(
            f"hvdkit does not stand in for {ext_name}.",
            fix="run this script with Horovod itself, without -m hvdkit.compat.",
        )


def check_installed_version(name: str, version: str, exception: Exception | None = None) -> None:
    """Return: hvdkit is not compiled, so every version of TensorFlow that it runs with is the right one."""


def get_ext_suffix() -> str:
    """What the names of compiled modules end with."""
    return sysconfig.get_config_var("EXT_SUFFIX") or ".so"


def get_extension_full_path(pkg_path: str, *args: str) -> str:
    """Where a compiled module would lie."""
    return os.path.join(os.path.dirname(pkg_path), *args[:-1], args[-1] + get_ext_suffix())


def split_list(l: list, n: int) -> list[list]:  # noqa: E741  Horovod's name
    """A list in ``n`` parts of about one length.

    Example:

    >>> split_list([1, 2, 3, 4, 5], 2)
    [[1, 2, 3], [4, 5]]
    """
    size, more = divmod(len(l), n)
    ends = [part * size + min(part, more) for part in range(n + 1)]
    return [l[start:end] for start, end in itertools.pairwise(ends)]


def num_rank_is_power_2(num_rank: int) -> bool:
    """Whether so many ranks can make an Adasum.

    Example:

    >>> [ranks for ranks in range(9) if num_rank_is_power_2(ranks)]
    [1, 2, 4, 8]
    """
    return num_rank > 0 and num_rank.bit_count() == 1


def is_iterable(x: Any) -> bool:
    """Whether one can iterate over it."""
    try:
        iter(x)
    except TypeError:
        return False
    return True


def is_version_greater_equal_than(ver: str, target: str) -> bool:
    """Whether a version is at least another one, which has three numbers.

    Example:

    >>> is_version_greater_equal_than("2.16.1", "2.4.0")
    True
    """
    if not isinstance(ver, str) or not isinstance(target, str):
        raise UsageError(f"Versions are compared as strings. Received: {ver!r} and {target!r}.")
    if target.count(".") != 2:
        raise UsageError(f"The version to compare with has three numbers, as in 2.4.0. Received: {target!r}.")
    return versions.parse(ver) >= versions.parse(target)


def env(**kwargs: str | None) -> AbstractContextManager:
    """Variables of the environment, for as long as the block lasts; None leaves one as it is."""
    return environment.during({name: value for name, value in kwargs.items() if value is not None})


def get_average_backwards_compatibility_fun(reduce_ops: Any) -> Callable[[Any, bool | None], Any]:
    """A function that makes one ``op`` of ``op`` and the older ``average``; ``reduce_ops`` has Average and Sum."""

    def op_of(op: Any, average: bool | None) -> Any:
        if op is None and average is not None:
            warnings.warn("`average` is the old name of `op`.", DeprecationWarning, stacklevel=2)
            return reduce_ops.Average if average else reduce_ops.Sum
        if average is not None:
            raise UsageError("`average` is the old name of `op`: pass one of them.")
        return reduce_ops.Average if op is None else op

    return op_of
