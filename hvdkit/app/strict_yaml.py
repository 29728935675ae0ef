"""YAML that says one thing: plain values in lists and mappings, each key once, and no more than a person writes.

PyYAML does the reading. What it lets pass and a configuration should not (a key that stands there twice, an alias
inside of what it names, aliases of aliases that grow to millions of values), and what it leaves to Python's own
exceptions (a date in month 13), is one ``ConfigError`` with the line and the column here.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from hvdkit.errors import ConfigError

# Far more than anybody writes by hand, and little enough to be read at once.
LARGEST_FILE = 1 << 18
DEEPEST = 32
MOST_VALUES = 20_000
_WIDEST_INTEGER = 64  # bits
_LONGEST_NUMBER = 100  # characters
_OCTAL = re.compile(r"[-+]?0[0-9_]+")
_TAG = "tag:yaml.org,2002:"


def read_file(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: it cannot be read, is too large, or is not YAML of the kind that is read here.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "c.yaml")
    >>> _ = path.write_text("epochs: 3")
    >>> read_file(path)
    {'epochs': 3}
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise ConfigError(f"The configuration {path} is larger than {LARGEST_FILE >> 10} KiB.")
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration {path} cannot be read: {error}.") from None
    return read_text(text, f"The configuration {path}")


def read_text(text: str, what: str) -> Any:
    """What a YAML text holds; nothing in the result stands in it twice.

    Args:
        text: the YAML.
        what: how the error names it, at the beginning of a sentence.

    Raises:
        ConfigError: it is not YAML of the kind that is read here.

    Example:

    >>> read_text("{rate: 0.1, shape: [8, 8]}", "The text")
    {'rate': 0.1, 'shape': [8, 8]}
    >>> read_text("{rate: 0.1, rate: 1.0}", "The text")
    Traceback (most recent call last):
    ...
    hvdkit.errors.ConfigError: The text, line 1, column 13: the key 'rate' stands there twice.
    """
    try:
        return _own(yaml.load(text, _Loader))  # noqa: S506  a SafeLoader that takes less
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{what}, line {mark.line + 1}, column {mark.column + 1}" if mark else what
        if isinstance(error, _Refused):
            raise ConfigError(f"{where}: {error.problem}.") from None
        raise ConfigError(_not_yaml(where, error.problem or error.context)) from None
    except yaml.YAMLError as error:
        raise ConfigError(_not_yaml(what, error)) from None


def shown(value: Any, longest: int = 120) -> str:
    """A value as an error shows it: in one line, and cut where it is long.

    >>> shown("x" * 1000, longest=12) == "'xxxx...xxx'"
    True
    """
    text = repr(value)
    if len(text) <= longest:
        return text
    half = (longest - 3) // 2
    return f"{text[: longest - 3 - half]}...{text[-half:]}"


def _not_yaml(where: str, problem: Any) -> str:
    return f"{where} is not YAML: {' '.join(str(problem).split())[:300]}."


def _own(value: Any) -> Any:
    """Without what aliases share: who changes a value, as ``--set`` does, changes it in one place."""
    if isinstance(value, dict):
        return {key: _own(below) for key, below in value.items()}
    return [_own(below) for below in value] if isinstance(value, list) else value


class _Refused(yaml.constructor.ConstructorError):
    """It is YAML, and not what is read here."""

    def __init__(self, problem: str, mark: yaml.Mark):
        super().__init__(problem=problem, problem_mark=mark)


class _Loader(yaml.SafeLoader):
    def __init__(self, stream: str):
        super().__init__(stream)
        self._depth = self._values = 0
        self._flat: set[int] = set()  # the mappings whose own keys have been looked at
        self._sizes: dict[int, int] = {}  # of the nodes that are complete, with what their aliases stand for

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event = self.peek_event()
        before = self._values
        self._depth += 1
        if self._depth > DEEPEST:
            raise _Refused(f"more than {DEEPEST} values inside of one another", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if not isinstance(event, yaml.AliasEvent):
            self._values += 1
            self._sizes[id(node)] = self._values - before
        elif id(node) in self._sizes:
            self._values += self._sizes[id(node)]
        else:
            raise _Refused(f"the alias *{event.anchor} is part of what it stands for", event.start_mark)
        if self._values > MOST_VALUES:
            raise _Refused(f"more than {MOST_VALUES:,} values, aliases written out", event.start_mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if kind in ("int", "float") and len(node.value) > _LONGEST_NUMBER:
            raise _Refused(f"a number of more than {_LONGEST_NUMBER} characters", node.start_mark)
        if kind == "int" and isinstance(node, yaml.ScalarNode) and _OCTAL.fullmatch(node.value):
            raise _Refused(f"{node.value} begins with a zero, by which YAML means an octal number", node.start_mark)
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, str):
                value.encode()
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
        ) as error:  # Python's errors for invalid numbers and dates
            refused = f"{shown(node.value, 60)} is no value of the kind {kind} ({type(error).__name__})"
            raise _Refused(refused, node.start_mark) from None
        if isinstance(value, int) and value.bit_length() > _WIDEST_INTEGER:
            raise _Refused(f"an integer of more than {_WIDEST_INTEGER} bits", node.start_mark)
        return value

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # Before "<<" is put in its place: what a mapping says itself may stand in what it takes over, too.
        if id(node) not in self._flat:
            self._flat.add(id(node))
            seen = set()
            for name, _ in node.value:
                key = self.construct_object(name, deep=True) if name.tag != f"{_TAG}merge" else name
                if isinstance(key, Hashable):
                    if key in seen:
                        raise _Refused(f"the key {shown(key, 60)} stands there twice", name.start_mark)
                    seen.add(key)
        super().flatten_mapping(node)

    def refuse(self, node: yaml.Node) -> None:
        raise _Refused(f"values of the kind {shown(node.tag.removeprefix(_TAG), 60)} are not read", node.start_mark)


_PLAIN = {f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")}
_Loader.yaml_constructors = {
    **{tag: made for tag, made in yaml.SafeLoader.yaml_constructors.items() if tag in _PLAIN},
    None: _Loader.refuse,
}
# A date is text, as a user means it who writes `save: 2026-11-26`: no key has a date for its value. So is "=".
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in (f"{_TAG}timestamp", f"{_TAG}value")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# 1e-3 and 1.0e1 are numbers to everybody, and to YAML 1.2; PyYAML wants 1.0e-3 and 1.0e+1.
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)
