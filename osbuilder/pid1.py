"""What is PID 1 in a guest. A leaf: requests, recipes and composition name it, it names nobody."""

from __future__ import annotations

import enum


class Init(enum.Enum):
    """What is PID 1 in the guest: systemd, which starts the agent, or the agent itself."""

    SYSTEMD = "systemd"
    AGENT = "agent"
