"""What a configuration chooses by name. A new one is one function, and one line here."""

from __future__ import annotations

from hvdkit.registry import Registry

DATA = Registry("data set", {"digits": "hvdkit.data.digits:load_digits"})

MODELS = Registry("model", {"cnn": "hvdkit.models:cnn", "mlp": "hvdkit.models:mlp", "resnet": "hvdkit.models:resnet"})

STRATEGIES = Registry(
    "strategy",
    {
        "horovod": "hvdkit.strategies.device_per_process:horovod",
        "mirrored": "hvdkit.strategies.one_process:mirrored",
        "hybrid": "hvdkit.strategies.process_per_host:hybrid",
    },
)
