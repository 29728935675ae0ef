"""What a checkpoint says about itself: its names, its manifest, and how anything that is wrong is found.

``docs/checkpoint_format.md`` describes it for those who read one without hvdkit.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, model_validator

from hvdkit.checkpoint.storage import disk
from hvdkit.errors import HvdkitError, UsageError
from hvdkit.utils.numbers import plain

FORMAT = "hvdkit-checkpoint"
# 2: what belongs to optimizers is in `attached/`, which an hvdkit that reads 1 would overlook.
SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
# Nobody's manifest is that long: what is longer is refused before it is read.
MAX_MANIFEST = 16 * 2**20
MAX_STEP = 10**12 - 1

# Of types that NumPy does not know, the bytes of one element: they are stored as unsigned integers of that size.
FOREIGN = {
    "bfloat16": 2,
    "float8_e3m4": 1,
    "float8_e4m3": 1,
    "float8_e4m3b11fnuz": 1,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
}

_PART = re.compile(r"common(-\d{5})?|rank-\d{5}", re.ASCII)
_STEP = re.compile(r"step-(\d{9,12})", re.ASCII)
_PLAIN = "save NaN and infinity as None, NumPy's numbers as Python's, tuples as lists, arrays as tensors of a part."
# Of this process, not of the file: to call the file damaged would be wrong.
_NOT_THE_FILES_FAULT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class DamagedCheckpointError(HvdkitError, RuntimeError):
    """A checkpoint that is not what was written; the message names the file and what is wrong with it.

    Args:
        path: the file or directory.
        what: what is wrong with it, as the end of a sentence.
        fix: what to do next; None means to use an older checkpoint.
    """

    def __init__(self, path: Path | str, what: str, *, fix: str | None = None):
        self.path = Path(path)
        super().__init__(
            f"The checkpoint is damaged: {path}: {what}.",
            fix=fix or "use another checkpoint; `hvdkit checkpoint verify` shows which are valid.",
        )


def check_part(name: str) -> str:
    """A part's name as it is.

    Raises:
        UsageError: it is not ``common``, ``common-00001`` or ``rank-00003``.

    Example:

    >>> check_part("rank-00003")
    'rank-00003'
    """
    if not isinstance(name, str) or not _PART.fullmatch(name):
        raise UsageError(f"A part should be named common, common-00001 or rank-00003. Received: {name!r}.")
    return name


def step_name(step: int) -> str:
    """The name of a step's directory.

    Example:

    >>> step_name(120)
    'step-000000120'
    """
    number = plain(step)
    if not isinstance(number, int) or not 0 <= number <= MAX_STEP:
        raise UsageError(f"A step should be a whole number from 0 to {MAX_STEP}. Received: {step!r}.")
    return f"step-{number:09d}"


def step_of(name: str) -> int | None:
    """The step a directory's name says; None for any other name.

    Example:

    >>> step_of("step-000000120"), step_of("step-0000000120"), step_of(".incoming-step-000000120-a")
    (120, None, None)
    """
    match = _STEP.fullmatch(name)
    return int(match[1]) if match and step_name(int(match[1])) == name else None


_JsonObject = dict[str, JsonValue]
_JSON_OBJECT = TypeAdapter(_JsonObject)
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Part(_Strict):
    """One part: its file, and what it must contain."""

    file: str
    bytes: _Count
    sha256: _Sha256
    # Only of tensors whose type NumPy does not know.
    dtypes: dict[str, Literal[tuple(FOREIGN)]]
    meta: _JsonObject


class Manifest(_Strict):
    """What a checkpoint consists of. ``sha256`` is that of all the rest."""

    format: Literal["hvdkit-checkpoint"]
    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)]
    step: Annotated[int, Field(ge=0, le=MAX_STEP)]
    epoch: _Count
    world_size: Annotated[int, Field(ge=1, lt=2**31)]
    created: _Count
    state: _JsonObject
    parts: Annotated[dict[str, Part], Field(min_length=1)]
    sha256: _Sha256

    @model_validator(mode="after")
    def _names_fit(self) -> Manifest:
        for name, part in self.parts.items():
            if not _PART.fullmatch(name):
                raise ValueError(f"{name!r} is not the name of a part")
            if part.file != part_file(name):
                raise ValueError(f"the file of {name} should be {part_file(name)}, not {part.file!r}")
        return self


def part_file(part: str) -> str:
    """The file of a part."""
    return f"{part}.safetensors"


def canonical(value: Any) -> bytes:
    """The only way to write this value as JSON, so that a flipped bit between two words is found too.

    Raises:
        UsageError: it is not JSON: NaN, a key that is not a string, an array, or nested too deeply.

    Example:

    >>> canonical({"b": 1, "a": [True, None]})
    b'{\\n "a": [\\n  true,\\n  null\\n ],\\n "b": 1\\n}\\n'
    """
    try:
        return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"What is saved beside the arrays should be plain JSON: {error}.",
            fix=_PLAIN,
        ) from error


def check_json(value: Mapping[str, Any] | None) -> _JsonObject:
    """A JSON object as it is, or an empty one for None; it will be read back equal.

    Raises:
        UsageError: it is not plain JSON: see ``canonical``.
    """
    try:
        plain = _JSON_OBJECT.validate_python(dict(value or {}), strict=True)
    except (ValidationError, RecursionError) as error:
        first = error.errors(include_url=False, include_input=False)[0] if hasattr(error, "errors") else {}
        where = ".".join(str(key) for key in first.get("loc", ())[:4])
        raise UsageError(
            f"What is saved beside the arrays should be plain JSON: {where}: {first.get('msg', error)}.", fix=_PLAIN
        ) from error
    canonical(plain)
    return plain


def manifest_bytes(fields: dict[str, Any]) -> bytes:
    """A manifest's file: the fields with ``format``, ``schema_version`` and ``sha256`` added.

    Raises:
        UsageError: what it would say could not be read again.
    """
    content = {"format": FORMAT, "schema_version": SCHEMA_VERSION, **fields}
    data = canonical({**content, "sha256": hashlib.sha256(canonical(content)).hexdigest()})
    try:
        parse_manifest(data, Path(MANIFEST))
    except DamagedCheckpointError as error:
        raise UsageError(f"This cannot be the manifest of a checkpoint: {error.what}") from error
    return data


def parse_manifest(data: bytes, path: Path) -> Manifest:
    """The manifest in a file's bytes.

    Raises:
        DamagedCheckpointError: one bit is not what was written, or it does not fit the schema.
    """
    if len(data) > MAX_MANIFEST:
        raise DamagedCheckpointError(path, f"it is longer than {MAX_MANIFEST} bytes")
    content = parse_json(data, path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DamagedCheckpointError(path, f"it is not the manifest of an {FORMAT}")
    version = content.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise DamagedCheckpointError(
            path,
            f"its schema_version is {str(version)[:20]}, and this hvdkit reads up to {SCHEMA_VERSION}",
            fix="if a newer hvdkit wrote it, update this one: pip install -U hvdkit; else use another checkpoint.",
        )
    rest = {name: value for name, value in content.items() if name != "sha256"}
    with _complaints(path):
        if canonical(content) != data:
            raise DamagedCheckpointError(path, "it is not written as hvdkit writes it")
        if hashlib.sha256(canonical(rest)).hexdigest() != content.get("sha256"):
            raise DamagedCheckpointError(path, "its sha256 is not that of its content")
        return Manifest.model_validate(content)


def parse_part(data: bytes, path: Path) -> Part:
    """The record of a part that is done.

    Raises:
        DamagedCheckpointError: it does not fit the schema.
    """
    content = parse_json(data, path)
    with _complaints(path):
        return Part.model_validate(content)


def parse_json(data: bytes, path: Path, **options: Any) -> Any:
    """The value in a file's bytes; NaN, infinity, other bytes than ASCII and bottomless nesting are damage."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(data.decode("ascii"), parse_constant=refuse, **options)
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpointError(path, f"it is not the JSON that hvdkit writes: {_brief(error)}") from error


@contextlib.contextmanager
def _complaints(path: Path) -> Iterator[None]:
    """Say of a file what its schema says of its content."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(key) for key in first["loc"][:4])
        raise DamagedCheckpointError(path, _brief(f"{where}: {first['msg']}" if where else first["msg"])) from error
    except (UsageError, RecursionError) as error:
        raise DamagedCheckpointError(path, _brief(getattr(error, "what", error)).rstrip(".")) from error


def _brief(text: Any) -> str:
    """What somebody else's file brought along is not printed at length."""
    text = str(text).encode("ascii", "backslashreplace").decode().replace("\n", " ")
    return text if len(text) <= 200 else text[:200] + "..."


@contextlib.contextmanager
def damage(path: Path) -> Iterator[None]:
    """A file that cannot be read is damage, with its name."""
    try:
        yield
    except OSError as error:
        if error.errno in _NOT_THE_FILES_FAULT:
            raise
        missing = isinstance(error, FileNotFoundError)
        what = "it is missing" if missing else f"it cannot be read: {error.strerror or error}"
        raise DamagedCheckpointError(path, what) from error


def read_limited(path: Path, limit: int) -> bytes:
    """A small file's bytes.

    Raises:
        DamagedCheckpointError: it is not a regular file, is longer than ``limit``, or cannot be read.
    """
    with damage(path), disk.reading(path) as (descriptor, facts):
        if facts.st_size > limit:
            raise DamagedCheckpointError(path, f"it is longer than {limit} bytes")
        return disk.read_bytes(descriptor, limit + 1)
