"""Files on their way to other machines: a zip archive, named by the SHA-256 of its bytes. The same files make the same archive.

Whoever unpacks one does so into a folder of its own, and nothing in it can be named outside.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import shutil
import zipfile
from collections.abc import AsyncIterable, Mapping
from pathlib import Path, PurePosixPath

from roadtrain.errors import PacketError, UsageError

BYTES_MAX = 2_000_000_000
"""Largest archive, packed or not."""
PARTIAL = ".partial"
"""How the name of a file ends that is not whole yet."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The oldest time that a zip archive can name."""


def pack(files: Mapping[str, Path]) -> tuple[str, bytes]:
    """The archive of `files`, by the names that they have in it, and its SHA-256 in hex. Raises UsageError."""
    made = io.BytesIO()
    try:
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, path in sorted(files.items()):
                if (size := path.stat().st_size) > BYTES_MAX:
                    raise UsageError(f"{path} has {size:,} bytes: too many to send", "have it on the machines already")
                entry = zipfile.ZipInfo(name, EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, path.read_bytes())
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read ({error.strerror})") from error
    raw = made.getvalue()
    return hashlib.sha256(raw).hexdigest(), raw


def unpack(archive: Path, folder: Path) -> None:
    """Into `folder`, whole or not at all; it may be there already. Raises PacketError for what is no archive, or too large."""
    if folder.is_dir():
        return
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        partial.mkdir(parents=True)
        with zipfile.ZipFile(archive) as packed:
            if sum(entry.file_size for entry in packed.infolist()) > BYTES_MAX:
                raise PacketError("an archive that is too large")
            for entry in packed.infolist():
                place = partial / check_name(entry.filename)
                place.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(entry) as source, place.open("wb") as file:
                    shutil.copyfileobj(source, file)
        try:
            partial.rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise PacketError(f"not an archive: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_name(name: str) -> PurePosixPath:
    """A name of a file in a folder. Raises PacketError for one that leads out of it."""
    path = PurePosixPath(name)
    parts = name.split("/")
    if not name or "\\" in name or "\0" in name or path.is_absolute() or {"..", ".", ""} & set(parts):
        raise PacketError(f"{name!r} is no name of a file here")
    return path


async def receive(path: Path, digest: str, stream: AsyncIterable[bytes]) -> None:
    """Write what comes to `path`, whole or not at all. Raises PacketError where it has not this SHA-256 (""; any), or is too
    long."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    found, size = hashlib.sha256(), 0
    try:
        with partial.open("wb") as file:
            async for chunk in stream:
                size += len(chunk)
                if size > BYTES_MAX:
                    raise PacketError("a file that is too large")
                found.update(chunk)
                file.write(chunk)
        if digest and found.hexdigest() != digest:
            raise PacketError("a file that is not the one that it is said to be")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
