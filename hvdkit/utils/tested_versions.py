"""The versions of Keras and TensorFlow that hvdkit is tested with: here, and nowhere else in the code.

``setup.cfg`` and ``docs/versions.md`` say the same, which a test compares.
"""

from __future__ import annotations

from dataclasses import dataclass

from packaging.version import InvalidVersion, Version


@dataclass(frozen=True)
class Tested:
    """From the oldest version to the newest minor version, both among those that were tested."""

    name: str
    oldest: Version
    newest: Version
    install: str

    def is_older(self, version: Version) -> bool:
        """Whether a version is older than the oldest.

        >>> KERAS.is_older(Version("3.13.1")), KERAS.is_older(Version("3.13.2"))
        (True, False)
        """
        return version < Version(f"{self.oldest}.dev0")

    def is_newer(self, version: Version) -> bool:
        """Whether a version is of a newer minor version than the newest.

        >>> KERAS.is_newer(Version("3.15.9")), KERAS.is_newer(Version("3.16.0.dev1"))
        (False, True)
        """
        return version.release[:2] > self.newest.release[:2]

    def warning(self, version: str) -> str | None:
        """What to say about a version that was not tested; None of one that was.

        >>> print(KERAS.warning("3.16.0"))  # doctest: +NORMALIZE_WHITESPACE
        Keras 3.16.0 is newer than any that hvdkit is tested with (3.13.2 to 3.15): what it changed inside may fail in a
        training step. `hvdkit doctor` compares. For a tested one: pip install 'keras>=3.13.2,<3.16'
        """
        try:
            number = Version(version)
        except InvalidVersion:
            what = "has a version that hvdkit cannot read, and is tested with"
        else:
            if not self.is_older(number) and not self.is_newer(number):
                return None
            what = f"is {'older' if self.is_older(number) else 'newer'} than any that hvdkit is tested with"
        return (
            f"{self.name} {version} {what} ({self.oldest} to {self.newest}): what it changed inside may fail in a "
            f"training step. `hvdkit doctor` compares. For a tested one: {self.install}"
        )


#: ``safe_mode`` of a Keras before 3.13.2 was bypassed.
KERAS = Tested("Keras", Version("3.13.2"), Version("3.15"), "pip install 'keras>=3.13.2,<3.16'")
#: Of the minor versions that Horovod was built and trained with here.
TENSORFLOW = Tested(
    "TensorFlow",
    Version("2.16"),
    Version("2.21"),
    "pip install 'tensorflow-cpu>=2.16,<2.22' (NVIDIA GPUs: 'tensorflow[and-cuda]>=2.16,<2.22')",
)


def warnings(versions: dict[str, str]) -> list[str]:
    """What to say about these versions, by name.

    >>> warnings({"Keras": "3.15.1", "TensorFlow": "2.21.0"})
    []
    """
    tested = {one.name: one for one in (KERAS, TENSORFLOW)}
    texts = [tested[name].warning(version) for name, version in versions.items()]
    return [text for text in texts if text is not None]
