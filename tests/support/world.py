"""An application, a config repository that pins it, and the product between them."""

from __future__ import annotations

from pathlib import Path

from support.product import Product
from support.repos import MAKEFILE, Application, Config, target, targets


class World:
    """One target named api, unless a test pins others. Both repositories lie below `git`, for servers of them."""

    def __init__(self, root: Path, settings: str = "", makefile: str = MAKEFILE, interval: str = "1s") -> None:
        self.app = Application(root / "git" / "app", makefile)
        self.config = Config(root / "git" / "config")
        self.product = Product(root, self.config.url, settings, interval)

    def pin(self, commit: str, **keys: str) -> str:
        """Pin api; values of `keys` are YAML. Return the config commit."""
        return self.config.pin(targets(target("api", self.app.url, commit, **keys)))

    def pin_both(self, commit: str) -> str:
        """Pin api and web to one commit."""
        return self.config.pin(targets(*(target(name, self.app.url, commit) for name in ("api", "web"))))
