"""The two lines by which a launcher and an engine are known."""

from hvdkit.engines import ENGINES
from hvdkit.launch.launcher import LAUNCHERS

LAUNCHERS.register("toy", "toy:ToyLauncher")
ENGINES.register("toy", "toy:ToyInfo")
