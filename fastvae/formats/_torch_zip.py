"""Reads the records of a zip archive as ``torch.save`` writes it: stored, checksummed, in one folder."""

import io
import re
import struct
import zipfile
import zlib

__all__ = ["read_records"]

# 12,000 storages and a handful of records about them. Python spends some 700 bytes on each directory entry.
_MAX_ENTRIES = 12_100
_DIRECTORY_ENTRY = b"PK\x01\x02"
_END_OF_DIRECTORY = b"PK\x05\x06"
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_DATA_DESCRIPTOR, _UTF8 = 0x0008, 0x0800
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")


def read_records(data: bytes) -> dict[str, memoryview]:
    """Return the content of every entry of the archive ``data``, by its name within the one top folder.

    Nothing is copied or inflated. Raises ``ValueError`` or ``zipfile.BadZipFile`` (and ``struct.error``,
    ``NotImplementedError`` from below) unless every entry is stored, neither encrypted nor overlapping
    another, has the sizes and the checksum the directory states and a plain relative name.
    """
    if data[-22:-18] != _END_OF_DIRECTORY:
        raise ValueError("expected a zip archive that ends with its directory, found it truncated or extended")
    entries = data.count(_DIRECTORY_ENTRY)
    if entries > _MAX_ENTRIES:
        raise ValueError(f"expected at most {_MAX_ENTRIES} zip entries, found {entries}")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        directory = archive.start_dir
    if not infos or infos[0].header_offset != 0:
        raise ValueError("expected a zip archive from the first byte on, found none or bytes before it")
    records: dict[str, memoryview] = {}
    folders = set()
    free_from = 0
    view = memoryview(data)[:directory]
    for info in infos:
        if info.header_offset < free_from:
            raise ValueError(f"expected zip entries side by side, found {info.filename!r:.200} over another")
        content, free_from = _content(view, info)
        folder, name = _split_name(info.orig_filename)  # info.filename ends at the first NUL
        if name in records:
            raise ValueError(f"expected every zip entry once, found {info.filename!r:.200} twice")
        folders.add(folder)
        records[name] = content
    if len(folders) != 1:
        raise ValueError(f"expected one top folder, found {sorted(folders)!r:.200}")
    return records


def _content(view: memoryview, info: zipfile.ZipInfo) -> tuple[memoryview, int]:
    """Return the stored bytes of one entry, whose local header agrees with the directory, and their end."""
    name = f"zip entry {info.filename!r:.200}"
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise ValueError(f"{name}: expected stored bytes, found compression method {info.compress_type}")
    if info.flag_bits & ~(_DATA_DESCRIPTOR | _UTF8):
        raise ValueError(f"{name}: expected neither encryption nor patches, found flags {info.flag_bits:#06x}")
    header = view[info.header_offset : info.header_offset + _LOCAL_HEADER.size]
    if len(header) < _LOCAL_HEADER.size:
        raise ValueError(f"{name}: expected its header before the directory, found the file ends first")
    magic, _, flags, method, _, _, crc, stored, size, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    name_begin = info.header_offset + _LOCAL_HEADER.size
    local_name = view[name_begin : name_begin + name_length].tobytes()
    stated = (info.CRC, min(info.file_size, 0xFFFFFFFF), min(info.file_size, 0xFFFFFFFF))
    agrees = flags & _DATA_DESCRIPTOR or (crc, stored, size) == stated or stored == size == 0xFFFFFFFF
    encoding = "utf-8" if flags & _UTF8 else "cp437"
    if (magic, flags, method) != (b"PK\x03\x04", info.flag_bits, 0) or not agrees:
        raise ValueError(f"{name}: expected its header to agree with the directory, found it does not")
    if local_name.decode(encoding) != info.orig_filename:
        raise ValueError(f"{name}: expected its header to hold the same name, found {local_name!r:.200}")
    begin = name_begin + name_length + extra_length
    content = view[begin : begin + info.file_size]
    if len(content) != info.file_size:
        raise ValueError(f"{name}: expected {info.file_size} bytes in the file, found {len(content)}")
    if zlib.crc32(content) != info.CRC:
        raise ValueError(f"{name}: expected the checksum {info.CRC:#010x}, found {zlib.crc32(content):#010x}")
    return content, begin + info.file_size


def _split_name(filename: str) -> tuple[str, str]:
    """Split "folder/name/of/record" after its folder; ``ValueError`` unless it is a plain relative path."""
    folder, *rest = filename.split("/")
    if not rest or _FORBIDDEN.search(filename) or not {"", ".", ".."}.isdisjoint([folder, *rest]):
        raise ValueError(f"expected zip entries named folder/record, found {filename!r:.200}")
    return folder, "/".join(rest)
