#!/usr/bin/python3
"""Describes a mapped-ram snapshot as `ramjet inspect --json [--devices]` does, by code that shares nothing with it.

Written from a description of the format alone, so that a misunderstanding in one of the two readers shows as a
difference. It reads files that QEMU wrote; what damaged ones come to is tested elsewhere.

    independent_reader.py FILE [--stream-offset N] [--devices]
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


def value_of(stream, field):
    kind, size = field["type"], field["size"]
    if kind == "struct":
        return fields_of(stream, field["struct"])
    if kind == "tmp":
        return fields_of(stream, field)
    content = stream.take(size)
    match = re.fullmatch(r"(u?)int(8|16|32|64)( equal| le)?", kind)
    if match:
        assert int(match[2]) == 8 * size
        return int.from_bytes(content, "big", signed=not match[1])
    if kind == "timer":
        return int.from_bytes(content, "big", signed=True)
    if kind == "bool":
        return content != b"\0"
    if kind == "nullptr":
        assert content == b"0"
        return None
    if kind in ("buffer", "unused_buffer", "bitmap", "float64"):
        return content.hex()
    return {"opaque": kind, "bytes": content.hex()}


def fields_of(stream, state):
    """By name: what is there once is a value, what has a length, an index or a namesake is a list."""
    values = {}
    for field in state.get("fields", []):
        name = field["name"]
        if "array_len" in field or "index" in field:
            values.setdefault(name, [])
        elif name in values and not isinstance(values[name], list):
            values[name] = [values[name]]
        for _ in range(field.get("array_len", 1)):
            start = stream.at
            value = value_of(stream, field)
            assert stream.at == start + field["size"], field
            if name in values:
                values[name].append(value)
            else:
                values[name] = value
    for section in state.get("subsections", []):
        assert stream.number(1) == 5
        name = stream.name()
        assert name == section["vmsd_name"]
        stream.number(4)
        values[name] = fields_of(stream, section)
    return values


def device_descriptions(memory):
    """In the order of the stream, or None if the file has no vmdesc."""
    at = len(memory)
    while True:
        at = memory.rfind(b"\x00\x06", max(0, len(memory) - (64 << 20)), at)
        if at < 0:
            return None
        if at + 6 <= len(memory):
            (length,) = struct.unpack(">I", memory[at + 2 : at + 6])
            if length and at + 6 + length == len(memory):
                return json.loads(memory[at + 6 :])["devices"]
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


def read_records(stream, result, with_fields):
    memory = stream.memory
    described = device_descriptions(memory)
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
            fields = None
            if described is None:
                size = payload_end(memory, start, section) - start
            else:
                wanted = described[len(result["devices"])]
                assert (wanted["name"], wanted["instance_id"]) == (name, instance)
                size = size_of(wanted)
                payload = Stream(memory, start)
                fields = fields_of(payload, wanted)
                assert payload.at == start + size
            device = {"name": name, "instance_id": instance, "version_id": version, "offset": start, "size": size}
            if with_fields:
                device["fields"] = fields
            result["devices"].append(device)
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
    assert described is None or len(described) == len(result["devices"])


def describe(memory, base, with_fields=False):
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
        read_records(stream, result, with_fields)
        result["complete"] = True
    except EOFError as error:
        print("incomplete: %s" % error, file=sys.stderr)
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--stream-offset", type=lambda text: int(text, 0))
    parser.add_argument("--devices", action="store_true")
    arguments = parser.parse_args()
    with open(arguments.file, "rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        result = describe(memory, arguments.stream_offset, arguments.devices)
    print(json.dumps(result, separators=(",", ":")))
    return 0 if result["complete"] else 1


if __name__ == "__main__":
    sys.exit(main())
