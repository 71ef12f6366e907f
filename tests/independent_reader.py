#!/usr/bin/python3
"""Describes a mapped-ram snapshot as `ramjet inspect --json` does, by code that shares nothing with it.

Written from a description of the format alone, so that a misunderstanding in one of the two readers shows as a
difference. It reads files that QEMU wrote; what damaged ones come to is tested elsewhere.

    independent_reader.py FILE [--stream-offset N]
"""

import argparse
import json
import mmap
import re
import struct
import sys


class Stream:
    def __init__(self, memory, position):
        self.memory = memory
        self.at = position

    def take(self, count):
        if self.at + count > len(self.memory):
            raise EOFError("the file ends at %d" % len(self.memory))
        self.at += count
        return self.memory[self.at - count : self.at]

    def number(self, count):
        return int.from_bytes(self.take(count), "big")

    def name(self):
        return self.take(self.number(1)).decode("ascii")


def size_of(state):
    """Of fields and subsections as the vmdesc has them."""
    total = 0
    for field in state.get("fields", []):
        total += field["size"] * field.get("array_len", 1)
    for section in state.get("subsections", []):
        total += 1 + 1 + len(section["vmsd_name"]) + 4 + size_of(section)
    return total


def device_sizes(memory):
    """Payload sizes in the order of the stream, or None if the file has no vmdesc."""
    at = len(memory)
    while True:
        at = memory.rfind(b"\x00\x06", max(0, len(memory) - (64 << 20)), at)
        if at < 0:
            return None
        if at + 6 <= len(memory):
            (length,) = struct.unpack(">I", memory[at + 2 : at + 6])
            if length and at + 6 + length == len(memory):
                description = json.loads(memory[at + 6 :])
                return [(d["name"], d["instance_id"], size_of(d)) for d in description["devices"]]
        at += 1


def payload_end(memory, start, section):
    """Where the footer of a section stands whose size nothing tells."""
    footer = b"\x7e" + struct.pack(">I", section)
    next_record = re.compile(rb"\x00(\Z|\x06)|[\x01\x04].{4}[\x01-\xff][ -~]|[\x02\x03]\x00|\x08\x00", re.DOTALL)
    at = memory.find(footer, start)
    while at >= 0:
        if next_record.match(memory, at + 5):
            return at
        at = memory.find(footer, at + 1)
    raise EOFError("no footer of section %d" % section)


def read_configuration(stream, result):
    result["machine"] = stream.take(stream.number(4)).decode("ascii")
    while stream.memory[stream.at] == 5:
        stream.take(1)
        name, version = stream.name(), stream.number(4)
        assert version == 1, (name, version)
        if name == "configuration/capabilities":
            result["capabilities"] = [stream.name() for _ in range(stream.number(4))]
        elif name == "configuration/target-page-bits":
            stream.number(4)
        elif name == "configuration/uuid":
            stream.take(16)
        else:
            raise ValueError(name)


def read_blocks(stream, result):
    word = stream.number(8)
    assert word & 0xFFF == 4
    left = word - 4
    blocks = result["ram"]["blocks"]
    while left > 0:
        block = {"idstr": stream.name(), "used_length": stream.number(8)}
        if "x-ignore-shared" in result["capabilities"]:
            stream.take(8)
        assert stream.number(4) == 1
        block["page_size"] = stream.number(8)
        block["bitmap_offset"] = stream.number(8)
        block["pages_offset"] = stream.number(8)
        block["nonzero_pages"] = 0
        blocks.append(block)
        left -= block["used_length"]
        if block["pages_offset"]:
            stream.at = block["pages_offset"] + block["used_length"]
    assert left == 0
    for block in blocks:
        pages = block["used_length"] // block["page_size"]
        bits = stream.memory[block["bitmap_offset"] : block["bitmap_offset"] + (pages + 63) // 64 * 8]
        if block["pages_offset"]:
            block["nonzero_pages"] = bin(int.from_bytes(bits, "little")).count("1")
        result["ram"]["total_bytes"] += block["used_length"]
        result["ram"]["nonzero_bytes"] += block["nonzero_pages"] * block["page_size"]


def read_records(stream, result):
    memory = stream.memory
    sizes = device_sizes(memory)
    live = {}
    while True:
        kind = stream.number(1)
        if kind == 0:
            break
        if kind == 8:
            stream.take(2)
            stream.take(stream.number(2))
            continue
        assert kind in (1, 2, 3, 4), kind
        section = stream.number(4)
        if kind in (1, 4):
            name, instance, version = stream.name(), stream.number(4), stream.number(4)
        if kind == 1:
            live[section] = name
        start = stream.at
        if kind == 4:
            if sizes is None:
                size = payload_end(memory, start, section) - start
            else:
                wanted, wanted_instance, size = sizes[len(result["devices"])]
                assert (wanted, wanted_instance) == (name, instance)
            result["devices"].append(
                {"name": name, "instance_id": instance, "version_id": version, "offset": start, "size": size}
            )
            stream.take(size)
        elif live[section] == "ram":
            if kind == 1:
                read_blocks(stream, result)
            assert stream.number(8) == 0x10
        else:
            stream.at = payload_end(memory, start, section)
        assert (stream.number(1), stream.number(4)) == (0x7E, section)
    if stream.at < len(memory):
        assert stream.number(1) == 6
        stream.take(stream.number(4))
    assert stream.at == len(memory)
    assert sizes is None or len(sizes) == len(result["devices"])


def describe(memory, base):
    if base is None:
        base = 0
        if memory[:16] == b"LibvirtQemudSave":
            numbers = struct.unpack("<5I", memory[16:36])
            if numbers[0] > 2:
                numbers = struct.unpack(">5I", memory[16:36])
            assert numbers[3] == 6
            base = 92 + numbers[1]
    result = {
        "schema": "ramjet.inspect/1",
        "format": "mapped-ram",
        "stream_offset": base,
        "machine": None,
        "capabilities": [],
        "complete": False,
        "ram": {"total_bytes": 0, "nonzero_bytes": 0, "blocks": []},
        "devices": [],
    }
    stream = Stream(memory, base)
    assert stream.take(4) == b"QEVM"
    assert stream.number(4) == 3
    assert stream.number(1) == 7
    read_configuration(stream, result)
    assert "mapped-ram" in result["capabilities"]
    try:
        read_records(stream, result)
        result["complete"] = True
    except EOFError as error:
        print("incomplete: %s" % error, file=sys.stderr)
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--stream-offset", type=lambda text: int(text, 0))
    arguments = parser.parse_args()
    with open(arguments.file, "rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        result = describe(memory, arguments.stream_offset)
    print(json.dumps(result, separators=(",", ":")))
    return 0 if result["complete"] else 1


if __name__ == "__main__":
    sys.exit(main())
