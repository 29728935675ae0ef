"""``hvdkit doctor``: check this installation and suggest fixes."""

from __future__ import annotations

import json
import sys

import click

_MARKS = {"ok": ("ok", "green"), "info": ("--", "cyan"), "warn": ("!!", "yellow"), "fail": ("XX", "red")}


@click.command(epilog="Example: hvdkit doctor --json | python -m json.tool")
@click.option("--json", "as_json", is_flag=True, help="Print only JSON to stdout.")
def command(as_json):
    """Check this installation and suggest fixes.

    The line below a failed check says what to do. The exit code is 1 if training on several ranks would fail, and
    otherwise 0.

    --json prints {"schema": 1, "hvdkit": VERSION, "ok": BOOL, "findings": [{"name", "status", "detail", "fix"}, ...]}:
    status is ok, info, warn or fail; fix is null if there is nothing to do; ok is false if any status is fail.
    A name may occur more than once, and later versions may add findings and fields.
    """
    from hvdkit.doctor import examine
    from hvdkit.version import __version__

    findings = examine()
    good = all(finding.status != "fail" for finding in findings)
    if as_json:
        as_dicts = [finding.as_dict() for finding in findings]
        click.echo(json.dumps({"schema": 1, "hvdkit": __version__, "ok": good, "findings": as_dicts}, indent=2))
    else:
        _show(findings)
    sys.exit(0 if good else 1)


def _show(findings) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)  # a folded command cannot be copied
    for finding in findings:
        mark, colour = _MARKS[finding.status]
        console.print(Text(mark, style=colour), Text(f"{finding.name:16} {finding.detail}"))
        if finding.fix:
            console.print(Text(f"{'':19} fix: {finding.fix}"))
    counts = {status: sum(finding.status == status for finding in findings) for status in ("warn", "fail")}
    if counts["fail"]:
        verdict = f"Training on several ranks would fail: {counts['fail']} to fix (XX)."
    else:
        verdict = "Training on several ranks should work."
    console.print(verdict + (f" {counts['warn']} to look at (!!)." if counts["warn"] else ""))
