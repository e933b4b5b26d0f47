"""Compiled functions on memory addresses, for other compiled functions: a fast copy, and the crc32.

`copy_past_cache` writes to memory without reading it into the cache first ("non-temporal"), and requests the first
bytes of each page of what is copied next, because the processor's own prefetching ends with a page. Measured, 64 clips
of 32 kB from a memory map into one of six buffers: 335 us; with libc's memcpy 551 us (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]  # comes with numba
from numba.core import cgutils
from numba.extending import intrinsic

from kws.audio.kernels import compiled

_VECTOR, _VECTORS = 32, 4
"""Bytes of a vector, which are written at once to an address that is a multiple of it, and vectors of a turn."""
_PAGE = 4096
_TABLES = 16
"""Bytes that the crc32 takes at a time, and its number of tables. As fast as with 32."""
_ALL_ONES, _BYTE = np.uint32(0xFFFFFFFF), np.uint32(0xFF)
_INT64, _VOID = numba.types.int64, numba.types.void


def address_of(array: npt.NDArray[Any]) -> int:
    """Returns the address of the first element, valid while the array exists."""
    address: int = array.__array_interface__["data"][0]
    return address


# --- single instructions --------------------------------------------------------------------------------------


def _write_memcpy(typing: Any, target: Any, source: Any, size: Any) -> Any:
    def write(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        to, of = (builder.inttoptr(address, cgutils.voidptr_t) for address in arguments[:2])
        cgutils.raw_memcpy(builder, to, of, arguments[2], 1)  # type: ignore[no-untyped-call]

    return _VOID(_INT64, _INT64, _INT64), write


def _write_stream(typing: Any, target: Any, source: Any) -> Any:
    vector = ir.VectorType(ir.IntType(8), _VECTOR)

    def write(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        places = [ir.Constant(ir.IntType(64), number * _VECTOR) for number in range(_VECTORS)]
        to, of = (
            [builder.inttoptr(builder.add(base, place), vector.as_pointer()) for place in places] for base in arguments
        )
        loaded = [builder.load(pointer, align=1) for pointer in of]
        for value, pointer in zip(loaded, to, strict=True):
            stored = builder.store(value, pointer, align=_VECTOR)
            stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))

    return _VOID(_INT64, _INT64), write


def _write_prefetch(typing: Any, address: Any) -> Any:
    def write(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [cgutils.voidptr_t], kind)
        to_read, keep, data = number(0), number(3), number(1)
        builder.call(function, [builder.inttoptr(arguments[0], cgutils.voidptr_t), to_read, keep, data])

    return _VOID(_INT64), write


def _write_fence(typing: Any) -> Any:
    def write(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
        builder.fence("seq_cst")

    return _VOID(), write


def _write_load_byte(typing: Any, address: Any) -> Any:
    def write(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.load(builder.inttoptr(arguments[0], cgutils.voidptr_t))

    return numba.types.uint8(_INT64), write


_memcpy: Any = intrinsic(_write_memcpy)
"""(target, source, bytes)"""
_stream: Any = intrinsic(_write_stream)
"""(target, source): copies _VECTORS vectors past the cache; the target is a multiple of _VECTOR."""
_prefetch: Any = intrinsic(_write_prefetch)
"""(address), which need not exist"""
complete_stores: Any = intrinsic(_write_fence)
"""(): what was written past the cache is seen by other threads and devices before anything that is written later."""
_byte_at: Any = intrinsic(_write_load_byte)
"""(address)"""


# --- compiled functions ---------------------------------------------------------------------------------------


@compiled
def copy_past_cache(target: Any, source: Any, size: Any, following: Any) -> None:
    """Copies `size` bytes; meanwhile it fetches the start of each page at `following` (0: of none), which is copied
    next. The caller ends with `complete_stores`."""
    at = min(-target % _VECTOR, size)
    _memcpy(target, source, at)
    fetched = 0
    while at + _VECTOR * _VECTORS <= size:
        if following and at >= fetched:
            _prefetch(following + fetched)
            _prefetch(following + fetched + 64)
            fetched += _PAGE
        _stream(target + at, source + at)
        at += _VECTOR * _VECTORS
    _memcpy(target + at, source + at, size - at)


def _crc32_tables() -> npt.NDArray[np.uint32]:
    """Returns the tables of the reflected polynomial of zip and Ethernet: entry [k, b] is the crc32 of byte b followed
    by k zero bytes, without the inversions at both ends, (_TABLES, 256)."""
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = np.where(values & 1, (values >> 1) ^ np.uint32(0xEDB88320), values >> 1).astype(np.uint32)
    tables = [values]
    for _ in range(_TABLES - 1):
        tables.append((tables[-1] >> np.uint32(8)) ^ values[tables[-1] & _BYTE])
    return np.array(tables, np.uint32)


_CRC32 = _crc32_tables()


@compiled
def crc32_of(address: Any, size: Any) -> Any:
    """The crc32 of memory, as zlib.crc32 (method: slicing by 16; Kounavis and Berry, 2005)."""
    crc, end = _ALL_ONES, address + size
    while address + _TABLES <= end:
        first = np.uint32(0)
        for place in range(4):
            first |= np.uint32(_byte_at(address + place)) << np.uint32(8 * place)
        first ^= crc
        crc = np.uint32(0)
        for place in range(4):
            crc ^= _CRC32[_TABLES - 1 - place, (first >> np.uint32(8 * place)) & _BYTE]
        for place in range(4, _TABLES):
            crc ^= _CRC32[_TABLES - 1 - place, _byte_at(address + place)]
        address += _TABLES
    while address < end:
        crc = (crc >> np.uint32(8)) ^ _CRC32[0, (crc ^ np.uint32(_byte_at(address))) & _BYTE]
        address += 1
    return crc ^ _ALL_ONES
