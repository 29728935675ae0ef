"""The configuration of ``hvdkit train``: defaults < YAML < ``--set a.b=c``, one frozen Config."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hvdkit.app import strict_yaml
from hvdkit.app.choices import DATA, MODELS, STRATEGIES
from hvdkit.app.old_names import OldNames
from hvdkit.app.schema import Config, Section, section_of
from hvdkit.app.strict_yaml import shown
from hvdkit.engines import ENGINES
from hvdkit.errors import ConfigError, UsageError
from hvdkit.launch.launcher import LAUNCHERS, starters
from hvdkit.utils.registry import suggestion


def load_config(path: str | Path, overrides: tuple[str, ...] = ()) -> Config:
    """Read a YAML file, lay ``a.b=c`` overrides over it, and validate.

    Args:
        path: the YAML file.
        overrides: ``"a.b=c"`` each; the value is read as YAML.

    Raises:
        ConfigError: the file does not exist or is no YAML, a key is unknown (the nearest is named), a value does not
            fit, or an override has no ``=``.
    """
    path = Path(path)
    tree, names = _read(path), OldNames()
    names.rename(tree, str(path))
    for override in overrides:
        _apply_override(tree, override, names)
    for key, field in Config.model_fields.items():
        if isinstance(field.default, Section) and tree.get(key, key) is None:  # all that is in it is commented out
            del tree[key]
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        what, fix = _first_error(error, tree, names)
        raise ConfigError(f"{path}: {what}", fix=fix) from None
    _check_choices(config, path)
    return config


def _check_choices(config: Config, path: Path) -> None:
    """Refuse names of nothing before any rank starts; optimizers, losses and metrics only Keras knows."""
    strategy = config.strategy if isinstance(config.strategy, str) else config.strategy.name
    named = {"data.name": (config.data.name, DATA), "model.name": (config.model.name, MODELS)}
    named |= {"strategy": (strategy, STRATEGIES)}
    chosen = {key: (*each, None) for key, each in named.items() if ":" not in each[0]}  # else it is the user's own
    chosen["engine"] = (config.engine, ENGINES, ["auto", *ENGINES.names()])
    chosen["launch.launcher"] = (config.launch.launcher, LAUNCHERS, ["auto", *starters()])
    for key, (name, choice, known) in chosen.items():
        try:
            choice.check(name, known)
        except UsageError as error:
            raise ConfigError(f"{path}: `{key}`: {error.what}", fix=error.fix) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = strict_yaml.read_file(path)
    except FileNotFoundError:
        folder = path.parent
        near = suggestion(path.name, [p.name for p in folder.glob("*.y*ml")]) if folder.is_dir() else None
        raise ConfigError(f"The configuration {path} does not exist.", fix=near) from None
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ConfigError(f"The configuration {path} should be a mapping of keys to values, but is a {_kind(tree)}.")
    return tree


def _apply_override(tree: dict[str, Any], override: str, names: OldNames) -> None:
    whole, (key, equals, text) = tree, override.partition("=")
    written = key.split(".")
    if not equals or not all(written) or len(written) > strict_yaml.DEEPEST + 1:
        raise ConfigError(
            f"--set takes key=value, such as --set optimizer.learning_rate=0.01. Received: {shown(override)}."
        )
    *parents, last = names.rename_override(written)
    for parent, as_written in zip(parents, written, strict=False):
        if tree.get(parent) is None:
            tree[parent] = {}
        child = tree[parent]
        if not isinstance(child, dict):
            raise ConfigError(f"--set {_key_text(key)}: {shown(as_written)} is a {_kind(child)}, which has no keys.")
        tree = child
    tree[last] = strict_yaml.read_text(text, f"--set {_key_text(key)}: the value {shown(text)}")
    names.rename(whole, f"--set {_key_text(key)}")


def _kind(value: Any) -> str:
    return {list: "list", str: "text", int: "number", float: "number", bool: "yes or no"}.get(type(value), "value")


def _key_text(key: Any) -> str:
    """A key as the user wrote it, or in quotes where it would not be seen as what it is."""
    text = str(key)
    return text if text.isprintable() and len(text) <= 80 else shown(text, 80)


def _first_error(error: ValidationError, tree: dict[str, Any], names: OldNames) -> tuple[str, str | None]:
    """What is wrong first, at the place where the user wrote it, and what to do."""
    located = [(_key_path(each, tree), each) for each in error.errors(include_url=False)]
    begin = located[0][0]
    # If a value may be one of several kinds, each kind has an error: the most specific ones are those with the longest
    # path of keys.
    same_start = [(key_path, each) for key_path, each in located if key_path[: len(begin)] == begin]
    where = max((key_path for key_path, _ in same_start), key=len)
    each = [each for key_path, each in same_start if key_path == where]
    named = ".".join(_key_text(part) for part in names.as_written(where))
    for kind, says in (("extra_forbidden", f"unknown key `{named}`."), ("missing", f"the key `{named}` is missing.")):
        if each[0]["type"] == kind:
            return says, _near(each[0]["loc"]) if kind == "extra_forbidden" else None
    reasons = dict.fromkeys(_reason(one) for one in each)
    return f"`{named}`: {', or '.join(reasons)}. Received: {shown(each[0]['input'])}.", None


def _key_path(each: Any, tree: Any) -> tuple[int | str, ...]:
    """The path of keys that stand in the file: pydantic's own also names kinds, as `constrained-int`."""
    key_path = []
    for part in each["loc"]:
        if (isinstance(tree, dict) and part in tree) or (isinstance(tree, list) and part in range(len(tree))):
            tree = tree[part]
            key_path.append(part)
    return (*key_path, each["loc"][-1]) if each["type"] == "missing" else tuple(key_path)


def _reason(each: Any) -> str:
    if each["type"] == "value_error":  # hvdkit's own, which may name an argument of Python's and what it received
        text = str(each["ctx"]["error"]).splitlines()[0].partition(" Received: ")[0].removesuffix(".")
        return re.sub(r"^`\w+` ", "", text)
    return f"{each['msg'][0].lower()}{each['msg'][1:]}"


def _near(loc: tuple[int | str, ...]) -> str:
    section: type[Section] = Config
    for part in loc[:-1]:
        section = section_of(section, part) or section
    known = [field.alias or name for name, field in section.model_fields.items()]
    return suggestion(str(loc[-1]), known) or f"known here: {', '.join(known)}."
