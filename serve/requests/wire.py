"""Conversion of arrays to bytes and back: npy and npz, read without pickle and with checks of all sizes.

Part of the runtime half: standard library and numpy only. The client uses the same functions.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from ...core.counts import counted
from ...core.errors import InputError, LimitError
from ...core.signature import Signature
from ...core.tensors import BATCH, Array, TensorSpec
from ..settings import Limits

NPY, NPZ, JSON = "application/x-npy", "application/x-npz", "application/json"
MAGIC_NPY, MAGIC_NPZ = b"\x93NUMPY", b"PK\x03\x04"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_USUAL_RATIO = 20
"""Bytes per compressed byte up to which arrays are no padding of the same value."""
_MAX_HEADER_BYTES = 4096
_LARGEST_SIZE = 2**48


def read_npy(body: bytes | bytearray, limits: Limits, name: str = "") -> Array:
    """An array from npy bytes, without a copy where alignment allows.

    Raises:
        InputError: the bytes are not npy, have an object or structured dtype, or their length does not fit the header.
        LimitError: the array has more axes than allowed.
    """
    shape, fortran, dtype, start = _read_header(body, name)
    if len(shape) > limits.axes:
        message = f"{_where(name)} has {len(shape)} axes"
        raise LimitError(message, f"at most {limits.axes} are allowed", input=name or None)
    _check_length(shape, dtype, len(body) - start, name)
    array = np.frombuffer(body, dtype, math.prod(shape), start).reshape(shape, order="F" if fortran else "C")
    return array if array.flags.aligned else array.copy()


def _check_length(shape: tuple[int, ...], dtype: np.dtype[np.generic], found: int, name: str) -> None:
    """Refuse a dtype that is no number, and data of another length than the header requires."""
    where, required = _where(name), math.prod(shape) * dtype.itemsize
    if dtype.kind not in "biuf" or dtype.names or dtype.hasobject:
        raise InputError(f"{where} has dtype {dtype}, which is not a number", "send a numeric array", input=name)
    if required != found:
        message = f"{where} has {counted(found, 'byte')} of data, but its header requires {required}"
        raise InputError(message, "the body was truncated or altered", input=name or None)


def _where(name: str) -> str:
    return f"input '{name}'" if name else "the body"


def _read_header(body: bytes | bytearray, name: str) -> tuple[tuple[int, ...], bool, np.dtype[np.generic], int]:
    """Shape, order and dtype that the first bytes of an npy file declare, and the length of its header.

    Raises:
        InputError: they are no npy header, or a size in it is not valid.
    """
    where = _where(name)
    if body[:6] != MAGIC_NPY or len(body) < 12 or body[6] not in (1, 2):
        raise InputError(f"{where} is not in npy format", "send the output of numpy.save", input=name or None)
    width = 2 if body[6] == 1 else 4
    start = 8 + width + int.from_bytes(body[8 : 8 + width], "little")
    if start > min(len(body), _MAX_HEADER_BYTES):
        raise InputError(f"{where} has a damaged npy header", "send the output of numpy.save", input=name or None)
    try:
        shape, fortran, dtype = _npy_header(body[6], bytes(body[8:start]))
    except Exception as error:  # numpy evaluates the header as a Python literal, which can fail in many ways
        raise InputError(f"{where} has a damaged npy header", "send the output of numpy.save", input=name) from error
    if not all(map(is_size, shape)):
        raise InputError(
            f"{where} has the shape {str(shape)[:80]}", "send the output of numpy.save", input=name or None
        )
    return shape, fortran, dtype, start


def is_size(value: object) -> bool:
    """Whether a value from the wire can be the size of an axis; numpy takes no larger ones, and True is no size."""
    return type(value) is int and 0 <= value <= _LARGEST_SIZE


@lru_cache(maxsize=256)
def _npy_header(version: int, header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    reader = np.lib.format.read_array_header_1_0 if version == 1 else np.lib.format.read_array_header_2_0
    return reader(io.BytesIO(header), max_header_size=_MAX_HEADER_BYTES)


def read_npz(body: bytes | bytearray, limits: Limits, signature: Signature | None = None) -> dict[str, Array]:
    """Named arrays from npz bytes; names and sizes are checked before anything is unpacked.

    Args:
        signature: the arrays must have the names of its inputs, and their headers must fit it.

    Raises:
        InputError: the bytes are not npz, or a member is damaged, duplicate, not npy or no input.
        LimitError: there are too many members, or they are too large when unpacked.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = archive.infolist()
            _check_members(members, limits)
            if signature is not None:
                _check_headers(archive, members, signature, limits)
                _check_free(members, signature, max(limits.request_bytes, _USUAL_RATIO * len(body)))
            contents = {member.filename: _unpack(archive, member) for member in members}
    except (InputError, LimitError):
        raise
    except Exception as error:  # zipfile raises six unrelated classes on damaged input
        raise InputError("the body is not in npz format, or is damaged", "send the output of numpy.savez") from error
    return {name[:-4]: read_npy(content, limits, name[:-4]) for name, content in contents.items()}


def _check_members(members: list[zipfile.ZipInfo], limits: Limits) -> None:
    if len(members) > limits.members:
        raise LimitError(f"the npz has {len(members)} members", f"at most {limits.members} are allowed")
    if sum(member.file_size for member in members) > limits.expanded_bytes:
        raise LimitError("the npz is too large when unpacked", f"at most {limits.expanded_bytes} bytes are allowed")
    names = [member.filename for member in members]
    plain = all(member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members)
    if len(set(names)) != len(names) or not plain or not all(name.endswith(".npy") for name in names):
        message = "the npz has duplicate members, members that are not npy, or an unknown compression"
        raise InputError(message, "send the output of numpy.savez")


def _check_headers(
    archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], signature: Signature, limits: Limits
) -> None:
    """Check each npy header, of which only the first bytes are unpacked, against the signature and the directory.

    What is unpacked is then at most what the model takes, however well it was compressed.
    """
    signature.check_names([member.filename[:-4] for member in members])
    specs = {spec.name: spec for spec in signature.inputs}
    for member in members:
        with archive.open(member) as stream:
            start = stream.read(_MAX_HEADER_BYTES)
        name = member.filename[:-4]
        shape, _, dtype, header_bytes = _read_header(start, name)
        check_rows(specs[name], shape, limits)
        specs[name].check_shape(shape)
        _check_length(shape, dtype, member.file_size - header_bytes, name)


def _check_free(members: list[zipfile.ZipInfo], signature: Signature, allowed: int) -> None:
    """Check the size of inputs with free axes, of which a few bytes could ask for all that any model may take.

    Args:
        allowed: what a request can hold without compression, or more if it is large and compressed as usual.
    """
    free = {
        f"{spec.name}.npy" for spec in signature.inputs if any(isinstance(n, str) and n != BATCH for n in spec.shape)
    }
    if sum(member.file_size for member in members if member.filename in free) > allowed:
        raise LimitError("the npz is too large when unpacked", f"at most {allowed} bytes are allowed")


def check_rows(spec: TensorSpec, shape: tuple[int, ...], limits: Limits) -> None:
    """Refuse more rows than allowed.

    Raises:
        LimitError: there are more.
    """
    axis = spec.shape.index(BATCH) if BATCH in spec.shape else len(shape)
    if axis < len(shape) and shape[axis] > limits.rows:
        raise LimitError(f"the request has {shape[axis]} rows", f"at most {limits.rows} are allowed", input=spec.name)


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    # a read without a length would unpack everything before it checks the declared size
    with archive.open(member) as stream:
        return stream.read(member.file_size)


def write_npy(array: Array) -> bytes:
    """An array as npy bytes, C order, little endian."""
    plain = np.ascontiguousarray(array).reshape(np.shape(array))
    if plain.dtype.byteorder == ">":
        plain = plain.astype(plain.dtype.newbyteorder("<"))
    return _written_header(plain.dtype.str, plain.shape) + plain.tobytes()


@lru_cache(maxsize=256)
def _written_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def write_npz(arrays: Mapping[str, Array]) -> bytes:
    """Named arrays as npz bytes, not compressed, the same bytes for equal arrays."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), write_npy(array))
    return stream.getvalue()
