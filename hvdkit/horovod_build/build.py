"""The compilation: tools, sources, edits, ``pip wheel``. Ends with a cached wheel or with the first error."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

from hvdkit.errors import HorovodBuildError
from hvdkit.horovod_build import cache, failure, process, source, tools
from hvdkit.horovod_build.progress import Progress, Reporter
from hvdkit.horovod_build.recipe import BuildPlan

_DOWNLOAD_SECONDS = 900.0
_BUILD_SECONDS = 3 * 3600.0
_PERCENT = re.compile(r"^\s*\[\s*(\d+)%\]|^\s*\[(\d+)/(\d+)\]")


def build(plan: BuildPlan, report: Reporter) -> Path:
    """Build the plan's wheel and keep it in the cache; the caller holds the key's lock.

    Raises:
        HorovodBuildError: with the first error, the reason and the log's path.
    """
    key = plan.recipe.key()
    log = cache.folder("logs") / f"{key}.log"
    log.write_text("".join(f"{name}: {text}\n" for name, text in plan.describe().items()), encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="hvdkit-horovod-") as folder:
        work = Path(folder)
        with report.step("build tools (setuptools, wheel, cmake; in the cache, not in this environment)"):
            ready = tools.ready(plan.generator == "Ninja", log)
        with report.step(f"Horovod {source.HOROVOD}'s sources"):
            tree = source.unpack(_archive(ready, work, log), work)
        for line in source.patch(tree):
            report.line(f"  edited {line}")
        source.add_stamp(tree, json.dumps(plan.recipe.stamp(), indent=1, sort_keys=True))
        if plan.generator == "Ninja":
            source.quiet_ninja(tree)
        with report.step(f"compiling, {plan.jobs} at a time (a few minutes; log: {log})") as progress:
            wheel = _wheel(plan, ready, tree, log, progress)
        return cache.store_wheel(key, wheel)


def _archive(ready: Path, work: Path, log: Path) -> Path:
    """The source archive, from the cache or downloaded."""
    kept = cache.folder("source") / source.ARCHIVE
    if not kept.is_file():
        argv = tools.pip("download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation")
        argv += ["--dest", str(work), f"horovod=={source.HOROVOD}"]
        environ = tools.environment(ready)
        if process.run_logged(argv, environ=environ, cwd=work, log=log, seconds=_DOWNLOAD_SECONDS):
            raise failure.error("Downloading Horovod's sources", log)
        source.check_archive(work / source.ARCHIVE)
        with cache.lock("source"):
            part = kept.with_name(f".{work.name}")
            part.write_bytes((work / source.ARCHIVE).read_bytes())
            part.replace(kept)
    source.check_archive(kept)
    return kept


def _wheel(plan: BuildPlan, ready: Path, tree: Path, log: Path, progress: Progress) -> Path:
    work = tree.parent
    settings = work / "hvdkit.cmake"
    settings.write_text(plan.cmake(), encoding="utf-8")
    environ = tools.environment(ready, {**plan.variables(), "CMAKE_TOOLCHAIN_FILE": str(settings)})
    environ["PATH"] = ":".join([*map(str, plan.path()), environ["PATH"]])
    argv = tools.pip(
        "wheel", "--verbose", "--no-build-isolation", "--no-deps", "--wheel-dir", str(work / "out"), str(tree)
    )

    def watch(line: str) -> None:
        match = _PERCENT.match(line)
        if match:
            percent, done, total = match.groups()
            progress.percent(int(percent) if percent else 100 * int(done) // max(1, int(total)))
        progress.output_line(line)

    code = process.run_logged(argv, environ=environ, cwd=work, log=log, seconds=_BUILD_SECONDS, on_line=watch)
    if code == 124:
        raise HorovodBuildError(
            f"Building Horovod did not end within {_BUILD_SECONDS / 3600:.0f} hours. The log: {log}"
        )
    built = sorted((work / "out").glob("horovod-*.whl"))
    if code or not built:
        raise failure.error("Building Horovod", log)
    return built[0]
