"""A class of the person's own, named in the plan as FILE.py:CLASS, alone or at the end of a chain (topk:0.01+FILE.py:CLASS).

The file is code that is run. It is named by the plan alone: by the person, or by the driver or coordinator that a worker
has joined with the run's token. Nothing that a peer sends can name one.
"""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from roadtrain.errors import UsageError, nearest

CHAIN = re.compile(r"((?:\w+:[\w.:-]*\s*\+\s*)*)(\S.*\.py(?::.*)?)")
"""A chain that ends with a file; a file's path may have a "+" in it."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """The class `name` of the Python file `file`."""

    file: Path
    name: str

    def __str__(self) -> str:
        return f"{self.file}:{self.name}"

    @staticmethod
    def parse(text: str) -> Plugin | None:
        """None where `text` names no Python file. Raises UsageError where it names a file but no class."""
        file, py, name = text.strip().rpartition(".py")
        if not py or name[:1] not in ("", ":"):
            return None
        if not file or not name[1:].isidentifier():
            raise UsageError(f"'{text.strip()}' names no class", "write FILE.py:CLASS")
        return Plugin(Path(file + py), name[1:])

    @staticmethod
    def of_chain(text: str) -> Plugin | None:
        """The one at the end of a chain, if there is one. Raises UsageError as `parse` does."""
        return Plugin.parse(split(text)[-1])

    def load(self) -> tuple[type, str]:
        """The class, and eight hex digits that stand for the file's content. Runs the file.

        Raises UsageError where the file cannot be read or run, or has no such class.
        """
        source = self._source()
        digest = hashlib.sha256(source).hexdigest()[:8]
        module = ModuleType(f"roadtrain_own_{digest}")
        module.__file__ = str(self.file)
        sys.modules[module.__name__] = module  # dataclasses look their module up
        try:
            exec(compile(source, str(self.file), "exec"), module.__dict__)
        except SyntaxError as error:
            raise UsageError(f"{self.file} is not Python: {error.msg} (line {error.lineno})") from error
        except (Exception, SystemExit) as error:
            raise UsageError(f"{self.file} cannot be run: {told(error)}") from error
        return self._class_of(module), digest

    def _source(self) -> bytes:
        try:
            return self.file.read_bytes()
        except FileNotFoundError:
            raise UsageError(
                f"there is no file {self.file}", f"write the path of the file that has {self.name}"
            ) from None
        except OSError as error:
            raise UsageError(f"{self.file} cannot be read: {error.strerror}") from None

    def _class_of(self, module: ModuleType) -> type:
        own = [n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        found = vars(module).get(self.name)
        if found is None:
            hint = nearest(self.name, own) if own else "it has no class at all"
            raise UsageError(f"{self.file} has no class '{self.name}'", hint)
        if not isinstance(found, type):
            raise UsageError(f"'{self.name}' in {self.file} is not a class", "name a class")
        return found


def split(chain: str) -> list[str]:
    """The links of a chain, which "+" joins."""
    found = CHAIN.fullmatch(chain.strip())
    parts = [*found[1].split("+")[:-1], found[2]] if found else chain.split("+")
    return [part.strip() for part in parts]


def absolute(chain: str) -> str:
    """`chain` with the absolute path of its file, so that it means the same in every folder; without a file as it is."""
    *before, last = split(chain)
    own = Plugin.parse(last)
    return chain if own is None else "+".join([*before, str(Plugin(own.file.expanduser().absolute(), own.name))])


def told(error: BaseException) -> str:
    """An exception of somebody else's code in one line."""
    words = str(error).strip().splitlines()
    return f"{type(error).__name__}: {words[0]}" if words else type(error).__name__
