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
        "none": "hvdkit.strategies.no_strategy:none",
        "mirrored": "hvdkit.strategies.mirrored_strategy:mirrored",
        "mirrored_per_host": "hvdkit.strategies.mirrored_per_host_strategy:mirrored_per_host",
    },
)
