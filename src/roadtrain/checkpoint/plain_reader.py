"""Reads checkpoints that may have come from another machine. Torch keeps what a checkpoint is made of as a pickle, which could
run anything when it is read; here it may name nothing but the few plain values that a checkpoint of tensors is made of."""

from __future__ import annotations

import pickle
from pathlib import PurePath
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from roadtrain.errors import UsageError

NAMES = frozenset(
    {
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    }
    | {
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        ("torch.serialization", "_get_layout"),
        ("torch", "Size"),
        ("pathlib", "PosixPath"),
        ("pathlib", "WindowsPath"),
        ("pathlib._local", "PosixPath"),
        ("pathlib._local", "WindowsPath"),
        ("collections", "OrderedDict"),
    }
)
"""Of modules and what of them a checkpoint's description may name; besides dtypes of torch."""


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        dtype = getattr(torch, name, None) if module == "torch" else None
        if isinstance(dtype, torch.dtype):
            return dtype
        if (module, name) in NAMES:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


class PlainReader(FileSystemReader):
    """Of one folder. What it describes is read from that folder alone."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Raises UsageError for a description that is none, or names what has no place in one."""
        path = self._get_metadata_path(kwargs.get("rank"))
        try:
            with self.fs.create_stream(path, "rb") as file:
                found = _Plain(file).load()
        except (pickle.UnpicklingError, EOFError, AttributeError, ValueError, TypeError, ImportError) as error:
            raise UsageError(
                f"{path} describes no checkpoint of roadtrain: {error}", "it is damaged, or foreign"
            ) from error
        if not isinstance(found, Metadata):
            raise UsageError(f"{path} describes no checkpoint", "it is damaged, or foreign")
        for info in (found.storage_data or {}).values():
            place = PurePath(info.relative_path)
            if place.is_absolute() or ".." in place.parts:
                raise UsageError(f"{path} names files outside of its folder", "it is damaged, or foreign")
        found.storage_meta = found.storage_meta or StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found
