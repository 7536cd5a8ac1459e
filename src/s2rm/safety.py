"""What is asked of a file from elsewhere before it is read: that it is one file, of a size its name does not hide."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

FREE_BYTES, MOST_TIMES = 2**28, 100
"""a file may unpack to so many bytes, and to so many times its size more"""
CODECS = {
    "adler32", "astype", "base64", "bitround", "blosc", "bytes", "bz2", "categorize", "crc32", "crc32c", "delta",
    "endian", "fixedscaleoffset", "fletcher32", "gzip", "jenkins_lookup3", "json2", "lz4", "lzma", "msgpack2",
    "packbits", "pcodec", "quantize", "sharding_indexed", "shuffle", "transpose", "vlen-array", "vlen-bytes",
    "vlen-utf8", "zfpy", "zlib", "zstd",
}  # fmt: skip
"""the codecs of Zarr that compute; `pickle` and what is not known here could run code"""


def most_bytes(path: Path) -> int:
    """Bytes to which a file or folder may unpack."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return FREE_BYTES + MOST_TIMES * sum(file.stat().st_size for file in files)


def expect_bytes(size: int, path: Path) -> None:
    """Refuse what unpacks to more bytes than a file of its size may."""
    if size > FREE_BYTES and size > (most := most_bytes(path)):
        raise ValueError(
            f"read: {path.name} unpacks to more than {most / 1e9:,.1f} GB, which is the most that is read of a file of "
            "its size; take a part of it, or read it yourself and give the DataFrame or Dataset"
        )


class Unpacked(gzip.GzipFile):
    """The text in a .csv.gz file, refused as soon as it is too long."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self.path, self.most, self.bytes = path, most_bytes(path), 0

    def read(self, size: int | None = -1) -> bytes:
        return self._counted(super().read(self.most + 1 if size is None or size < 0 else size))

    def read1(self, size: int = -1) -> bytes:
        return self._counted(super().read1(size))

    def _counted(self, content: bytes) -> bytes:
        self.bytes += len(content)
        if self.bytes > self.most:
            expect_bytes(self.bytes, self.path)
        return content


def expect_parquet(path: Path) -> None:
    """Refuse a Parquet file that unpacks to far more than its size."""
    from pyarrow.parquet import read_metadata

    if path.is_file():
        about = read_metadata(path)
        packed = sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups))
        expect_bytes(max(packed, 8 * about.num_rows * about.num_columns), path)


def expect_netcdf(path: Path) -> None:
    """Refuse a NetCDF file whose contents lie in other files, or whose coordinates unpack to far more than its size."""
    import h5py

    if not h5py.is_hdf5(path):
        return
    # HDF5 does not let errors through; what it visits is noted.
    elsewhere: list[str] = []
    longest = 0

    def look(name: bytes, link: Any) -> None:
        if link.type == h5py.h5l.TYPE_EXTERNAL:
            elsewhere.append(name.decode(errors="replace"))

    def check(name: str, item: Any) -> None:
        nonlocal longest
        if isinstance(item, h5py.Dataset):
            if item.is_virtual or item.external:
                elsewhere.append(name)
            elif item.ndim == 1:  # as coordinates they are read when the file is opened
                longest = max(longest, item.nbytes)

    with h5py.File(path, "r") as file:
        file.id.links.visit(look, info=True)
        if not elsewhere:
            file.visititems(check)
    if elsewhere:
        raise ValueError(
            f"read: {elsewhere[0]!r} of {path.name} lies in another file, to which it only links; copy it into one file"
        )
    expect_bytes(longest, path)


def expect_zarr(path: Path) -> None:
    """Refuse a Zarr store with codecs that could run code, or whose chunks or coordinates unpack to far too much."""
    for file in sorted([*path.rglob(".zarray"), *path.rglob("zarr.json")]):
        about = json.loads(file.read_text())
        for codec in _codecs(about):
            if codec.removeprefix("numcodecs.") not in CODECS:
                raise ValueError(
                    f"read: expected codecs that only compress in {path.name}, got {codec!r} in {file.parent.name!r}; "
                    "write it again without"
                )
        shape = about.get("shape") or []
        chunks = about.get("chunks") or about.get("chunk_grid", {}).get("configuration", {}).get("chunk_shape") or []
        # A chunk is unpacked whole, a coordinate is read when the store is opened.
        for part in (chunks, shape if len(shape) == 1 else []):
            expect_bytes(int(np.prod(part, dtype=object)) * _item_size(about), path)


def _codecs(about: Any) -> Iterator[str]:
    """The names of all codecs in the metadata of an array, in those of others too."""
    if isinstance(about.get("compressor"), dict):
        yield str(about["compressor"].get("id"))
    for codec in about.get("filters") or []:
        yield str(codec.get("id"))
    for kind in ("codecs", "index_codecs", "storage_transformers"):
        for codec in about.get(kind) or []:
            yield str(codec.get("name") if isinstance(codec, dict) else codec)
            if isinstance(codec, dict) and isinstance(codec.get("configuration"), dict):
                yield from _codecs(codec["configuration"])


def _item_size(about: Any) -> int:
    """Bytes of a number or text in an array of Zarr, at least 1."""
    kind = about.get("dtype", about.get("data_type"))
    if isinstance(kind, dict):
        return int(kind.get("configuration", {}).get("length_bytes", 8))
    try:
        return np.dtype(kind).itemsize or 8
    except TypeError:
        return 8
