"""How an agent that makes no report is known to serve: what it prints on the console, or a port that it opens.

Owns the two, what may be said of them, and what QEMU says when they come true. versions.yaml and the flags of `inv
boot` both end here.

Source: VSERPORT_CHANGE of QEMU's QMP reference ("Emitted when the guest opens or closes a virtio-serial port").
"""

from __future__ import annotations

import dataclasses
import re
from typing import Final

from osbuilder.errors import UsageError

# A name that udev can make a file of in /dev/virtio-ports, and that means nothing to QEMU's option lists.
_PORT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")

# In QMP's output, for grep -E. Members of an object have no order; only this port has an identity, so that no other
# one is ever told of.
_OPENED: Final = '"VSERPORT_CHANGE".*"open": true|"open": true.*"VSERPORT_CHANGE"'


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Either `console`, what a line of the console matches once the agent serves, or `port`, which it opens then.

    `console` is an extended regular expression of grep(1), `port` the name of a virtio-serial port: the guest has it as
    /dev/virtio-ports/NAME. Raises ValueError for what can be neither.
    """

    console: str | None = None
    port: str | None = None

    def __post_init__(self) -> None:
        if (self.console is None) == (self.port is None):
            raise ValueError("expected either console, a pattern, or port, a name")
        if self.console is not None and ("\n" in self.console or not self.console.strip()):
            raise ValueError(f"console: expected one line that is not empty, got {self.console!r}")
        if self.port is not None and not _PORT.fullmatch(self.port):
            raise ValueError(
                f"port: expected the name of a virtio-serial port (letters, digits and _.:-), got {self.port!r}"
            )

    @classmethod
    def of_flags(cls, console: str | None, port: str | None) -> Ready | None:
        """Return what --ready and --ready-port mean, None without either. Raises UsageError."""
        if console is None and port is None:
            return None
        if console is not None and port is not None:
            raise UsageError("--ready and --ready-port exclude each other", hint="Either tells that the agent serves.")
        try:
            return cls(console=console, port=port)
        except ValueError as error:
            flag = "ready" if port is None else "ready-port"
            raise UsageError(f"--{flag}: {str(error).partition(': ')[2]}") from error

    @property
    def pattern(self) -> str:
        """What a line matches once the agent serves: of the console, or of QMP's output."""
        return self.console or _OPENED

    def told(self, line: str) -> str:
        """Return, for a person, what a line that matched says."""
        return line if self.port is None else f"the agent has opened its port {self.port}"

    @property
    def lacking(self) -> str:
        """What is wrong as long as no line matches."""
        if self.port is None:
            return f"no line of its console matches {self.console!r}"
        return f"nobody opened its port {self.port}"

    @property
    def hint(self) -> str:
        """What to look at then."""
        if self.port is None:
            return "The pattern is `ready` of the agent in versions.yaml, or --ready."
        return (
            "The port is `ready` of the agent in versions.yaml, or --ready-port. The agent finds it in "
            "/sys/class/virtio-ports, or where udev runs as /dev/virtio-ports/NAME; the kernel needs the capability "
            "virtio-console."
        )
