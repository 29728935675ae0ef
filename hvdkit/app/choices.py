"""What a configuration chooses by name. A new one is one function, and one line here."""

from __future__ import annotations

from hvdkit.utils.registry import Registry

DATA = Registry("data set", {"digits": "hvdkit.app.digits:load_digits"})

MODELS = Registry(
    "model", {"cnn": "hvdkit.app.models:cnn", "mlp": "hvdkit.app.models:mlp", "resnet": "hvdkit.app.models:resnet"}
)

STRATEGIES = Registry(
    "strategy",
    {
        "horovod": "hvdkit.strategies.device_per_process:horovod",
        "mirrored": "hvdkit.strategies.one_process:mirrored",
        "hybrid": "hvdkit.strategies.process_per_host:hybrid",
    },
)
