"""Horovod's sources: downloaded by pip, checked against their known hash, unpacked, edited in five places."""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from pathlib import Path

from hvdkit.errors import HorovodBuildError

#: The Horovod that is built: its last release.
HOROVOD = "0.28.1"
#: The source archive on PyPI. The hash is pinned: an index or a mirror may hand out another file.
ARCHIVE = f"horovod-{HOROVOD}.tar.gz"
SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"


@dataclass(frozen=True)
class Edit:
    """One change of Horovod's sources: ``old`` must stand in ``file`` exactly once."""

    file: str
    old: str
    new: str
    why: str


# Horovod only declares AsGpuStreamValue and takes TensorFlow's own, which is gone: a build with NCCL compiled and
# linked, and then did not load. The stream's method is in every TensorFlow from 2.16 on.
_STREAM_DECLARED = """\
// Forward declaration of AsGpuStreamValue
namespace stream_executor {
namespace gpu {
GpuStreamHandle AsGpuStreamValue(Stream* stream);
} // namespace stream_executor
} // namespace gpu
#if TENSORFLOW_VERSION >= 2011000000
#include "tensorflow/compiler/xla/stream_executor/stream.h"
#else
#include "tensorflow/stream_executor/stream.h"
#endif // TENSORFLOW_VERSION >= 2011000000
"""
_STREAM_DEFINED = """\
#include "xla/stream_executor/stream.h"
namespace stream_executor {
namespace gpu {
static inline GpuStreamHandle AsGpuStreamValue(Stream* stream) {
  return static_cast<GpuStreamHandle>(stream->platform_specific_handle().stream);
}
} // namespace gpu
} // namespace stream_executor
"""

EDITS = (
    Edit(
        "horovod/tensorflow/CMakeLists.txt",
        'list(APPEND TF_SOURCES "${PROJECT_SOURCE_DIR}/horovod/tensorflow/xla_mpi_ops.cc")',
        "# hvdkit leaves out xla_mpi_ops.cc",
        "xla_mpi_ops.cc, an option that is off by default, does not compile with TensorFlow 2.16 and later",
    ),
    Edit(
        "horovod/common/gloo/gloo_controller.cc",
        "global_ranks_.reserve(size_);",
        "global_ranks_.resize(size_);",
        "under Gloo the list of ranks stayed empty, so Horovod never ended a job in which a rank was missing",
    ),
    Edit(
        "horovod/tensorflow/mpi_ops.cc",
        _STREAM_DECLARED,
        _STREAM_DEFINED,
        "GPU builds: TensorFlow no longer has the function for a stream's CUDA handle; the stream itself does",
    ),
    Edit(
        "horovod/common/timeline.cc",
        "std::this_thread::yield();",
        "std::this_thread::sleep_for(std::chrono::milliseconds(10));",
        "with HOROVOD_TIMELINE=DYNAMIC a thread of rank 0 took a whole core, also while no timeline was written",
    ),
    Edit(
        "horovod/runner/mpi_run.py",
        "_NO_BINDING_ARGS = ['-bind-to none', '-map-by slot']",
        "_NO_BINDING_ARGS = ['--bind-to none', '--map-by slot']",
        "horovodrun over MPI: Open MPI 5 takes the word after a single-dash option for the program to start",
    ),
)

# Packed into the wheel by Horovod's own setup.py, which leaves package data to setup.cfg.
_STAMP_DATA = "\n[options.package_data]\nhorovod = hvdkit_build.json\n"


def digest() -> str:
    """A short hash of the edits: part of the cache key, so that a changed edit builds anew."""
    return hashlib.sha256(repr(EDITS).encode()).hexdigest()[:8]


def check_archive(archive: Path) -> None:
    """Raise HorovodBuildError unless ``archive`` is the release, byte for byte."""
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    if sha256 != SHA256:
        raise HorovodBuildError(
            f"{archive} is not Horovod {HOROVOD}: its SHA-256 is {sha256}, not {SHA256}.",
            fix="delete it and look at your package index (pip config list): it hands out another file",
        )


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a checked archive and return the folder of Horovod's sources."""
    # The hash is known, so the content is; the filter is there on every patched Python and refuses links and
    # "..".
    options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive) as tar:
        tar.extractall(folder, **options)  # noqa: S202
    return folder / f"horovod-{HOROVOD}"


def patch(tree: Path, edits: tuple[Edit, ...] = EDITS) -> list[str]:
    """Make the edits in the sources and say each, in one line.

    Raises:
        HorovodBuildError: an edit's place is not there exactly once. Nothing is written then.
    """
    changed: dict[Path, str] = {}
    descriptions = []
    for edit in edits:
        path = tree / edit.file
        try:
            text = changed.get(path) or path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise HorovodBuildError(f"Horovod's sources have no {edit.file}; hvdkit edits it.") from None
        count = text.count(edit.old)
        if count != 1:
            raise HorovodBuildError(
                f"Horovod's {edit.file} holds {edit.old!r} {count} times; hvdkit edits what is there once."
            )
        changed[path] = text.replace(edit.old, edit.new)
        descriptions.append(f"{edit.file}: {edit.why}")
    for path, text in changed.items():
        path.write_text(text, encoding="utf-8")
    return descriptions


def add_stamp(tree: Path, stamp: str) -> None:
    """Put the stamp (JSON text) into the package, and into what is packed."""
    (tree / "horovod/hvdkit_build.json").write_text(stamp, encoding="utf-8")
    with (tree / "setup.cfg").open("a", encoding="utf-8") as file:
        file.write(_STAMP_DATA)


def quiet_ninja(tree: Path) -> None:
    """Keep Horovod's setup.py from handing ``VERBOSE=1`` to the build tool: make knows that, ninja does not."""
    with (tree / "setup.cfg").open("a", encoding="utf-8") as file:
        file.write("\n[build_ext]\nverbose =\n")
