"""How the values of several ranks become one: what is done with them before, in between and at the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Combination:
    """How values are combined.

    Attributes:
        operation: ``np.add``, ``np.minimum``, ...
        prescale: what each value is multiplied with first.
        divisor: what each value is divided by at the end.
        halves: the values are float16 in float32, and may travel as float16 between hosts.
    """

    operation: np.ufunc
    prescale: float = 1.0
    divisor: float = 1.0
    as_float16: bool = False

    def copy_in(self, x: np.ndarray, place: np.ndarray) -> None:
        """Copy a rank's values to where they are combined."""
        if self.prescale != 1.0:
            np.multiply(x, x.dtype.type(self.prescale), out=place)
        elif place is not x:
            np.copyto(place, x)

    def combine(self, parts: list[np.ndarray], out: np.ndarray) -> None:
        """Combine the same slice of all ranks of a host into ``out``, which may be the first of them."""
        if len(parts) == 1:
            np.copyto(out, parts[0])
        else:
            self.operation(parts[0], parts[1], out=out)
        for part in parts[2:]:
            self.operation(out, part, out=out)

    def finish(self, out: np.ndarray) -> np.ndarray:
        """Finish what all ranks have combined, in place."""
        return out if self.divisor == 1.0 else np.divide(out, out.dtype.type(self.divisor), out=out)
