from __future__ import annotations

from fixtures import gather, one_thread, scripts

__all__ = ["gather", "one_thread", "scripts"]
