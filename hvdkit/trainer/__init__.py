"""What ``fit``, ``evaluate`` and ``predict`` do differently while several ranks train."""
