#!/usr/bin/python3
"""`ramjet inspect --devices --json` gives every value that QEMU's own scripts/analyze-migration.py gives of the same device state.

The script is no part of us, and no package has it: ANALYZE_MIGRATION says where it is (bazel test --test_env=ANALYZE_MIGRATION=PATH),
in the source of QEMU 9.0 or later. Of mapped-ram files only those from 10.1 on know, so it reads the same sections without the RAM.
"""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from inspect_agrees_test import QEMU, QEMU_ARM, RAMJET, SavingTest  # pylint: disable=wrong-import-position

SCRIPT = os.environ.get("ANALYZE_MIGRATION")


class AnalyzeAgrees(SavingTest):
    def expect_same_values(self, arguments, emulator=QEMU):
        self.save(arguments, run_seconds=1, emulator=emulator)
        ours = subprocess.run([RAMJET, "inspect", self.path, "--devices", "--json"], stdout=subprocess.PIPE, check=True)
        devices = json.loads(ours.stdout)["devices"]
        self.write_without_ram(devices)
        theirs = subprocess.run([sys.executable, SCRIPT, "-f", self.path + ".plain"], stdout=subprocess.PIPE, check=True)
        sections = json.loads(theirs.stdout)
        self.assertEqual(list(sections), ["%s (%d)" % (device["name"], i) for i, device in enumerate(devices)])
        self.values = 0
        for device, section in zip(devices, sections.values()):
            self.compare(device["name"], device["fields"], section)
        self.assertGreater(self.values, 500)
        print("%d devices, %d values" % (len(devices), self.values))

    def write_without_ram(self, devices):
        with open(self.path, "rb") as file, open(self.path + ".plain", "wb") as out:
            out.write(struct.pack(">4sI", b"QEVM", 3))
            for i, device in enumerate(devices):
                name = device["name"].encode()
                out.write(struct.pack(">BIB", 4, i, len(name)) + name)
                out.write(struct.pack(">II", device["instance_id"], device["version_id"]))
                file.seek(device["offset"])
                out.write(file.read(device["size"]) + struct.pack(">BI", 0x7E, i))
            file.seek(5, os.SEEK_CUR)  # the last footer
            out.write(file.read())

    def compare(self, where, ours, theirs):
        """The script has numbers in hexadecimal, an array of one as its element, and bytes where it knows no better."""
        self.values += 1
        if isinstance(ours, list):
            theirs = theirs if isinstance(theirs, list) else [theirs]
            self.assertEqual(len(ours), len(theirs), where)
            for i, (our, their) in enumerate(zip(ours, theirs)):
                self.compare("%s[%d]" % (where, i), our, their)
        elif ours is None:
            self.assertEqual(theirs, "nullptr", where)
        elif isinstance(ours, bool):
            self.assertIs(theirs, ours, where)
        elif isinstance(ours, int):
            # "0xff (-1)" and "0xff"; of timers, bytes.
            number = re.fullmatch(r"0x([0-9a-f]+)(?: \((-\d+)\))?|([0-9a-f ]+)", theirs)
            self.assertIsNotNone(number, where)
            if number[3]:
                self.assertEqual("%016x" % (ours % (1 << 64)), theirs.replace(" ", ""), where)
            else:
                self.assertEqual(ours, int(number[2] or number[1], 10 if number[2] else 16), where)
        elif isinstance(ours, dict) and set(ours) == {"tmp_mant", "tmp_exp"} and isinstance(theirs, str):
            self.assertEqual("%016x%04x" % (ours["tmp_mant"], ours["tmp_exp"]), theirs.replace(" ", ""), where)
        elif isinstance(ours, dict) and set(ours) != {"opaque", "bytes"}:
            # An array of none has no name there.
            self.assertEqual([name for name in ours if ours[name] != []], list(theirs), where)
            for name, their in theirs.items():
                self.compare("%s.%s" % (where, name), ours[name], their)
        else:
            ours = ours["bytes"] if isinstance(ours, dict) else ours
            self.assertIn(ours, (theirs, theirs.replace(" ", "")), where)

    def test_pc(self):
        devices = "-vga std -usb -device usb-tablet -device e1000 -device virtio-balloon -device nec-usb-xhci"
        self.expect_same_values(["-M", "pc", "-m", "64"] + devices.split())

    def test_q35(self):
        devices = "-device virtio-net-pci -device virtio-rng-pci -device virtio-scsi-pci -device ahci -device usb-ehci"
        self.expect_same_values(["-M", "q35", "-m", "96", "-smp", "2"] + devices.split())

    def test_microvm(self):
        self.expect_same_values(["-M", "microvm", "-m", "16"])

    @unittest.skipIf(shutil.which(QEMU_ARM) is None, "no %s here" % QEMU_ARM)
    def test_virt(self):
        self.expect_same_values(
            ["-M", "virt,gic-version=3", "-cpu", "cortex-a57", "-smp", "2", "-m", "16", "-device", "virtio-gpu-pci"], QEMU_ARM
        )


if __name__ == "__main__":
    if SCRIPT is None or not os.path.exists(SCRIPT):
        print("SKIPPED: ANALYZE_MIGRATION does not name QEMU's scripts/analyze-migration.py")
        sys.exit(0)
    if shutil.which(QEMU) is None:
        print("SKIPPED: no %s here" % QEMU)
        sys.exit(0)
    unittest.main(verbosity=2)
