"""Write the tree of docs/architecture.md anew, from the first sentence of each file.

Example: python scripts/architecture.py
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- tree: python scripts/architecture.py -->\n", "<!-- end of the tree -->\n"


def tree(package: Path) -> str:
    """The folders of the package as Markdown, each with its files and what they are about."""
    lines: list[str] = []
    folders = [package, *sorted(path.parent for path in package.rglob("__init__.py") if path.parent != package)]
    for folder in folders:
        name = folder.relative_to(package.parent).as_posix()
        lines += ["", f"### `{name}/`", ""]
        lines += textwrap.wrap(sentence(folder / "__init__.py"), 118)
        lines.append("")
        for path in sorted(folder.glob("*.py")):
            if path.name != "__init__.py":
                lines += textwrap.wrap(f"- `{path.name}`: {sentence(path)}", 118, subsequent_indent="  ")
    return "\n".join(lines).lstrip("\n") + "\n"


def sentence(path: Path) -> str:
    """The first sentence of a file's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    paragraph = " ".join(text.split("\n\n")[0].split()).replace("``", "`")
    return re.split(r"(?<=[.])\s", paragraph)[0].rstrip(".") + "."


def with_tree(page: str) -> str:
    """The page with its tree as it should be."""
    head, _, rest = page.partition(BEGIN)
    return head + BEGIN + "\n" + tree(ROOT / "hvdkit") + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(with_tree(PAGE.read_text()))
