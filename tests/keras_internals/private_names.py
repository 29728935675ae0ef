"""Finds where Python files touch what belongs to Keras or TensorFlow alone: by reading them, without running them."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path

# Modules that no version of Keras or TensorFlow promises, and the ways into them.
_MODULES = ("keras.src", "keras._tf_keras", "tensorflow.python", "tensorflow._api")
_WAYS_IN = ("__internal__", "src", "_tf_keras", "extended")
# What Python itself gives to named tuples.
_OF_PYTHON = ("_asdict", "_fields", "_make", "_replace")
# How the attributes begin that hvdkit puts on objects of others.
_OF_HVDKIT = "_hvdkit"
_BY_NAME = ("getattr", "setattr", "hasattr", "delattr")


def is_private(name: str) -> bool:
    """One leading underscore."""
    return name.startswith("_") and not name.startswith("__") and len(name) > 1


def own_names(tree: ast.AST) -> set[str]:
    """The private attributes that the classes of a file define: methods, fields, and what they set on ``self``."""
    found = {target.id for cls in _classes(tree) for part in cls.body for target in _targets(part)}
    found |= {part.name for cls in _classes(tree) for part in cls.body if isinstance(part, ast.FunctionDef)}
    stored = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)]
    of_thread = {n.attr for n in stored if isinstance(n.value, ast.Name) and n.value.id in ("_thread", "_step")}
    return {name for name in found | of_thread | _fields(tree) if is_private(name)}


def _classes(tree: ast.AST) -> list[ast.ClassDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def _targets(statement: ast.AST) -> list[ast.Name]:
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    return [target for target in targets if isinstance(target, ast.Name)]


def _fields(tree: ast.AST) -> set[str]:
    """What the classes of a file set on ``self``: theirs, whoever else has such a name."""
    inside = [node for cls in _classes(tree) for node in ast.walk(cls) if isinstance(node, ast.Attribute)]
    stores = [node for node in inside if isinstance(node.ctx, ast.Store)]
    return {node.attr for node in stores if isinstance(node.value, ast.Name) and node.value.id == "self"}


def touches(tree: ast.AST, own: set[str], foreign: set[str]) -> Iterator[tuple[int, str]]:
    """Each place where a file touches a private name of somebody else: its line, and the name.

    Args:
        tree: the file.
        own: the private attributes that the package itself defines.
        foreign: those that are known to be Keras' or TensorFlow's, and are so where the package uses the name too,
            but for files that define it themselves.
    """
    harmless, fields = own - foreign | set(_OF_PYTHON), _fields(tree)
    for node in ast.walk(tree):
        name = _touched(node, foreign)
        if name is None:
            continue
        of_self = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
        if name not in harmless and not (of_self and name in fields):
            yield node.lineno, name


def _touched(node: ast.AST, foreign: set[str]) -> str | None:
    """The private name, or the private module, that a piece of code names."""
    if isinstance(node, ast.Attribute) and (is_private(node.attr) or node.attr in _WAYS_IN):
        return node.attr
    if isinstance(node, ast.Import | ast.ImportFrom):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        return next((m for m in modules if m.startswith(_MODULES)), None)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
        return text if text in foreign or text.startswith((*_MODULES, _OF_HVDKIT)) else None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _BY_NAME:
        return _private_text(node.args[1]) if len(node.args) > 1 else None
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Call):
        called = node.value.func
        return _private_text(node.slice) if isinstance(called, ast.Name) and called.id == "vars" else None
    return None


def _private_text(node: ast.AST) -> str | None:
    text = node.value if isinstance(node, ast.Constant) else None
    return text if isinstance(text, str) and is_private(text) and text.isidentifier() else None


def overrides(tree: ast.AST, foreign: set[str]) -> Iterator[tuple[int, str]]:
    """Each method that takes the place of a private one of Keras or TensorFlow."""
    for cls in _classes(tree):
        for part in cls.body:
            if isinstance(part, ast.FunctionDef) and part.name in foreign:
                yield part.lineno, part.name


def of_package(root: Path, foreign: set[str], outside: tuple[str, ...]) -> dict[str, list[str]]:
    """Files of a package, outside of some folders and files of it, and what they touch: ``line: name``."""
    trees = {path.relative_to(root).as_posix(): ast.parse(path.read_text()) for path in sorted(root.rglob("*.py"))}
    own = set().union(*map(own_names, trees.values())) - set(dir(builtins))
    found = {}
    for path, tree in trees.items():
        if not path.startswith(outside):
            places = sorted({*touches(tree, own, foreign), *overrides(tree, foreign)})
            if places:
                found[path] = [f"{line}: {name}" for line, name in places]
    return found
