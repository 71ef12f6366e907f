#!/usr/bin/python3
"""Writes what a snapshot has beside the content of its pages, for tests that need a real file and no guest.

    make_extents.py SNAPSHOT EXTENTS

EXTENTS is big-endian: the file's size, then for each extent its offset, its length and its bytes. All else is a hole.
microvm.extents: QEMU 10.0.2, `-machine microvm -m 2`, paused before its first instruction.
"""

import mmap
import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import independent_reader


def main():
    with open(sys.argv[1], "rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    extents, start = [], 0
    for block in independent_reader.describe(memory, None)["ram"]["blocks"]:
        bitmap_bytes = (block["used_length"] // block["page_size"] + 63) // 64 * 8
        extents.append((start, memory[start : block["bitmap_offset"] + bitmap_bytes]))
        start = block["pages_offset"] + block["used_length"]
    extents.append((start, memory[start:]))
    with open(sys.argv[2], "wb") as out:
        out.write(struct.pack(">Q", len(memory)))
        for offset, content in extents:
            out.write(struct.pack(">QQ", offset, len(content)) + content)


main()
