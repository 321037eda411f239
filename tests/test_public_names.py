"""The names of `import roadtrain as rt`."""

from __future__ import annotations

from importlib.util import find_spec

import roadtrain as rt


def test_no_package_takes_the_place_of_a_public_name() -> None:
    """A package that is imported becomes an attribute of roadtrain, and would hide what is called the same."""
    assert [name for name in rt.__all__ if find_spec(f"roadtrain.{name}") is not None] == []
