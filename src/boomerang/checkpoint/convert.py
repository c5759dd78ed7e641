"""Floating-point numbers from one width to another, in pieces, rounded as torch rounds them.

Everything goes through float32, to nearest and ties to even, which is what `torch.Tensor.to` does.
bfloat16, which numpy lacks, is the upper half of a float32.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from .header import DTYPE_BITS, Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# What can be converted; integers, booleans and quantised numbers are copied as they are.
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})

# Elements at a time: a megabyte of float32, which stays in the processor's cache (four times as
# fast as pieces that do not).
PIECE = 256 * 1024

Convert = Callable[[bytes], bytes]


def converter(source: str, target: str) -> Convert:
    """A function from the bytes of numbers in one dtype to their bytes in another.

    Args:
        source: The dtype of the input, as safetensors spells it.
        target: That of the output.

    Raises:
        CheckpointError: One of the two is no floating-point dtype that can be converted.
    """
    if source == target:
        return bytes
    if source not in FLOATS or target not in FLOATS:
        raise CheckpointError(f"{source} cannot be converted to {target}")
    import numpy as np

    def convert(data: bytes) -> bytes:
        with np.errstate(all="ignore"):
            return _from_float32(to_float32(data, source), target)

    return convert


def pieces(tensor: Tensor, target: str) -> Iterator[bytes]:
    """A tensor's bytes in another dtype (or its own), in bounded pieces.

    Raises:
        CheckpointError: The file cannot be read or has become shorter.
    """
    convert = converter(tensor.dtype, target)
    step = max(1, PIECE * DTYPE_BITS[tensor.dtype] // 8)
    with tensor.file.open("rb", buffering=0) as file:
        for begin in range(0, tensor.length, step):
            yield convert(
                read_exactly(file.fileno(), tensor, begin, min(step, tensor.length - begin))
            )


def read_exactly(descriptor: int, tensor: Tensor, begin: int, length: int) -> bytes:
    """Bytes `begin ... begin+length` of a tensor, from its open file.

    Raises:
        CheckpointError: They cannot be read, or the file ends before them.
    """
    parts: list[bytes] = []
    position = tensor.start + begin
    while length:
        try:
            part = os.pread(descriptor, length, position)
        except OSError as error:
            raise CheckpointError(f"cannot be read ({error.strerror})", where=tensor.file) from None
        if not part:
            raise CheckpointError("became shorter while it was read", where=tensor.file)
        parts.append(part)
        position += len(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def to_float32(data: bytes, dtype: str) -> NDArray[np.float32]:
    """Numbers of a dtype in `FLOATS`, as safetensors spells it, from their bytes; one dimension."""
    import numpy as np

    values = np.frombuffer(data, _NUMPY[dtype])
    if dtype == "BF16":
        return (values.astype("<u4") << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def _from_float32(values: NDArray[np.float32], dtype: str) -> bytes:
    import numpy as np

    if dtype != "BF16":
        return values.astype(_NUMPY[dtype]).tobytes()
    bits = values.view(np.uint32)
    # Half of the last place, less one when the result would already be even.
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    # Rounding could carry a NaN over into infinity: it stays a quiet NaN of its sign.
    nan = np.isnan(values)
    rounded[nan] = (bits[nan] >> 16) | 0x40
    return rounded.astype("<u2").tobytes()
