"""Telling systemd how we are: one datagram to the socket that it names. Without systemd nothing happens.

The socket is taken out of the environment when it is read, so no child ever speaks for us.
Source: sd_notify(3).
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress


class Notifier:
    """Speaks to the service manager that started this process, if there is one."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        watchdog_us = os.environ.pop("WATCHDOG_USEC", "")
        self.watchdog_s = int(watchdog_us) / 1_000_000 if watchdog_us.isdigit() else None

    def say(self, **facts: str) -> None:
        """Send facts, such as `ready="1"`. Never waits and never raises: the manager may be gone."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        text = "\n".join(f"{name.upper()}={value}" for name, value in facts.items())
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(0)
            sender.connect(address)
            sender.send(text.encode())
