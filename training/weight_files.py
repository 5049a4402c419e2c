"""Files of weights that were made elsewhere, read as tensors alone: no code that is in them is run."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.errors import UserError

_DEEPEST = 3  # dicts inside each other
_AGAIN = "copy it again from where it was made"
_LONGEST_HEADER = 100_000_000
_SAFE_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
}


class CheckpointError(UserError):
    """A file of weights is not what is needed; the message names it and what is missing."""


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Tensors by key of a file of torch.save, or of safetensors by its ending; of dicts in dicts the first with any."""
    if not file.is_file():
        raise CheckpointError(f"{file}: {'a folder, no file' if file.is_dir() else 'no such file'}")
    if not file.stat().st_size:
        raise CheckpointError(f"{file}: empty (0 bytes): {_AGAIN}")
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    return _tensors(_read(file), _DEEPEST)


def _tensors(state: Mapping[Any, Any], depth: int) -> dict[str, Tensor]:
    """The tensors of the first dict that has any, `state` itself or one inside it."""
    found = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    inner = [value for value in state.values() if isinstance(value, Mapping)] if depth and not found else []
    return found or next((tensors for value in inner if (tensors := _tensors(value, depth - 1))), {})


def _read(file: Path) -> dict[Any, Any]:
    try:
        # torch does not compare the checksums.
        if zipfile.is_zipfile(file) and (damaged := zipfile.ZipFile(file).testzip()):
            raise CheckpointError(f"{file}: damaged at {damaged}: {_AGAIN}")
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise CheckpointError(f"{file}: damaged or cut short ({error or 'it ends too early'}): {_AGAIN}") from error
    # torch raises many types, with advice to load unsafely.
    except Exception as error:
        text = str(error)
        if "TorchScript" in text or "GLOBAL" in text or "not an allowed" in text:
            raise CheckpointError(
                f"{file}: holds Python objects, and loading them would run code from the file: refused. Where it was "
                f"made, save the tensors alone: torch.save(network.state_dict(), 'weights{file.suffix or '.pth'}')"
            ) from error
        reason = "cut short" if "EOF" in text or "central directory" in text else "no file of torch.save, or damaged"
        raise CheckpointError(f"{file}: {reason}: {_AGAIN}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{file}: holds {type(state).__name__}, not a state dict of tensors")
    return state


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    """The format of https://github.com/huggingface/safetensors: length of the header, header in JSON, numbers."""
    contents = bytearray(file.read_bytes())
    length = int.from_bytes(contents[:8], "little")
    try:
        if length > min(len(contents), _LONGEST_HEADER):
            raise ValueError("its header is longer than the file")
        header = json.loads(contents[8 : 8 + length])
        numbers = memoryview(contents)[8 + length :]
        return {str(name): _tensor(numbers, **one) for name, one in dict(header).items() if str(name) != "__metadata__"}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{file}: no file of safetensors, or damaged ({error}): {_AGAIN}") from error


def _tensor(numbers: memoryview, *, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
    kind = _SAFE_TYPES[dtype]
    begin, end = data_offsets
    count = math.prod(shape)
    if min(begin, *shape, 0) < 0 or end > len(numbers) or end - begin != count * kind.itemsize:
        raise ValueError(f"offsets {data_offsets} of a tensor {shape}")
    if not count:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(numbers, dtype=kind, count=count, offset=begin).view(shape)
