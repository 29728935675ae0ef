"""One finding of the doctor."""

from __future__ import annotations

from dataclasses import asdict, dataclass

#: ``fail``: training on several ranks would fail. ``warn``: it works, but not as well or not for long. ``info``: good
#: to know.
STATUSES = ("ok", "info", "warn", "fail")


@dataclass(frozen=True)
class Finding:
    """``name``: what was looked at. ``detail``: the result. ``fix``: what to do, if anything."""

    name: str
    status: str
    detail: str
    fix: str | None = None

    def __post_init__(self):
        if self.status not in STATUSES:
            raise ValueError(f"Finding.status should be one of {STATUSES}. Received: {self.status!r}.")

    def as_dict(self) -> dict[str, str | None]:
        """The fields by name: an element of ``findings`` in ``hvdkit doctor --json``."""
        return asdict(self)
