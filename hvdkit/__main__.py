"""``python -m hvdkit`` is ``hvdkit``."""

from hvdkit.cli import main

if __name__ == "__main__":
    main()
