"""What every rank runs: the words that follow ``python``, checked before anything is started."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from hvdkit.errors import UsageError
from hvdkit.utils.registry import suggestion


def script_program(args: Sequence[str]) -> tuple[str, ...]:
    """``("train.py", "--lr", "0.1")``, or with the word ``python`` before it, as horovodrun and mpirun want it.

    Raises:
        UsageError: there is no script, it does not exist, or it is a directory without a ``__main__.py``.
    """
    args = tuple(args)
    if args and re.fullmatch(r"python[0-9.]*", Path(args[0]).name) and not _is_script(args[0]):
        # `hvdkit run python train.py`: the ranks run with this environment's Python anyway.
        args = args[1:]
        if args[:1] == ("-m",):
            return module_program(args[1:2], args[2:])
        if args and args[0].startswith("-"):
            raise UsageError(
                f"Python's own option {args[0]} cannot be passed on.",
                fix="set its variable instead, e.g. PYTHONUNBUFFERED=1 or PYTHONWARNINGS",
            )
    if not args or not args[0]:
        raise UsageError("There is no script to run.", fix="hvdkit run -np 2 train.py")
    script = Path(args[0])
    if script.is_dir() and not (script / "__main__.py").is_file():
        raise UsageError(f"{args[0]} is a directory, not a script.", fix=_in_directory(script))
    if not script.exists():
        raise UsageError(f"The script {args[0]} does not exist.", fix=_near(script))
    return (f"./{args[0]}", *args[1:]) if args[0].startswith("-") else args


def module_program(module: Sequence[str] | str, args: Sequence[str]) -> tuple[str, ...]:
    """``("-m", "package.module", ...)``; only the package is looked for, because looking deeper would import it.

    Raises:
        UsageError: there is no such package.
    """
    name = module if isinstance(module, str) else "".join(module)
    if not re.fullmatch(r"\w+(\.\w+)*", name):
        raise UsageError(f"-m needs a module's name. Received: {name!r}.", fix="hvdkit run -np 2 -m package.module")
    top = name.partition(".")[0]
    here = Path(top).is_dir() or Path(f"{top}.py").is_file()
    if not here and top not in sys.modules and importlib.util.find_spec(top) is None:
        raise UsageError(f"There is no module named {top!r}.", fix="check the name, the directory and PYTHONPATH")
    return ("-m", name, *args)


# An import of hvdkit itself, under whichever name, and not merely of one of its modules.
_IMPORTS_HVDKIT = re.compile(
    rb"^\s*(?:import\s(?:[^#\n]*[\s,])?hvdkit(?![\w.])|from\s+hvdkit\s+import\s)", re.MULTILINE
)
_MOST_TEXT = 1 << 20


def says_when_it_begins(program: Sequence[str]) -> bool:
    """Whether hvdkit trains in a program, and so tells by ``hvdkit.utils.training_start`` when the training begins.

    A verb of hvdkit's (``-m hvdkit train``, ``-m hvdkit.compat``) does, and a script or a module that imports hvdkit.

    Args:
        program: the words that follow ``python``.

    Example:

    >>> says_when_it_begins(["-m", "hvdkit", "train", "digits.yaml"]), says_when_it_begins(["no_such_script.py"])
    (True, False)
    """
    if tuple(program[:1]) == ("-m",):
        name = program[1]
        if name.partition(".")[0] == "hvdkit":
            return True
        path = _module_file(name)
    else:
        path = Path(program[0])
    if path is None or not path.exists():
        return False
    path = path / "__main__.py" if path.is_dir() else path
    with contextlib.suppress(OSError), path.open("rb") as file:
        return bool(_IMPORTS_HVDKIT.search(file.read(_MOST_TEXT)))
    return False


def _module_file(name: str) -> Path | None:
    """The file of a module, or its package's folder, found without importing what is above it."""
    top, *below = name.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    if not spec.submodule_search_locations:
        return Path(spec.origin) if spec.origin and not below else None
    candidates = [Path(folder, *below) for folder in spec.submodule_search_locations]
    return next((path for place in candidates for path in (place, place.with_suffix(".py")) if path.exists()), None)


def _is_script(name: str) -> bool:
    return Path(name).is_file() and "/" not in name


def _near(script: Path) -> str:
    names = [path.name for path in _listing(script.parent) if path.suffix == ".py"]
    return suggestion(script.name, names) or f"check the path; Python files in {script.parent}: {_some(names)}"


def _in_directory(directory: Path) -> str:
    names = [str(path) for path in _listing(directory) if path.suffix == ".py"]
    return f"name the script; Python files there: {_some(names)}"


def _listing(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "none"
