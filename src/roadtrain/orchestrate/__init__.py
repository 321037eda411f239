"""A fleet: a coordinator that stays, machines that join it with one pasted ticket, and runs that are placed on them."""

from __future__ import annotations
