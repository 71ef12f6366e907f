#!/usr/bin/python3
"""`ramjet inspect --json`, without and with --devices, and independent_reader.py say the same of files that a real QEMU wrote.

Byte for byte, so any field, its order and its spelling count. Run by Bazel; by hand: in the root of the runfiles, or with
RAMJET set to the program.
"""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
RAMJET = os.environ.get("RAMJET", os.path.join(HERE, "..", "tools", "ramjet"))
READER = os.path.join(HERE, "independent_reader.py")
QEMU = os.environ.get("QEMU", "qemu-system-x86_64")
QEMU_ARM = os.environ.get("QEMU_ARM", "qemu-system-aarch64")


class Qemu:
    """A QEMU that is driven through QMP. Context manager: nothing of it is left."""

    def __init__(self, directory, arguments, emulator=QEMU):
        path = os.path.join(directory, "qmp")
        command = [emulator, "-accel", "tcg", "-display", "none", "-nodefaults", "-S"]
        command += ["-qmp", "unix:%s,server=on,wait=off" % path] + arguments
        self.process = subprocess.Popen(command)
        self.socket = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + 30
        while self.socket.connect_ex(path) != 0:
            assert time.monotonic() < deadline and self.process.poll() is None, command
            time.sleep(0.02)
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self.execute("qmp_capabilities")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.file.close()
        self.socket.close()

    def execute(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            reply = json.loads(self.file.readline())
            assert "error" not in reply, (command, reply)
            if "return" in reply:
                return reply["return"]

    def start_save(self, uri, capabilities, parameters):
        states = [{"capability": name, "state": True} for name in capabilities]
        self.execute("migrate-set-capabilities", capabilities=states)
        if parameters:
            self.execute("migrate-set-parameters", **parameters)
        self.execute("migrate", uri=uri)

    def finish_save(self):
        deadline = time.monotonic() + 60
        while True:
            status = self.execute("query-migrate")["status"]
            if status == "completed":
                return
            assert status not in ("failed", "cancelled") and time.monotonic() < deadline, status
            time.sleep(0.05)


class SavingTest(unittest.TestCase):
    """A snapshot of a machine of one's own."""

    def setUp(self):
        # Short, for a socket's name.
        self.directory = tempfile.mkdtemp(dir="/tmp", prefix="ramjet_")
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = os.path.join(self.directory, "snapshot")

    def save(self, arguments, offset=0, capabilities=("mapped-ram",), parameters=None, run_seconds=0, emulator=QEMU):
        uri = "file:" + self.path + (",offset=%d" % offset if offset else "")
        with Qemu(self.directory, arguments, emulator) as qemu:
            if run_seconds:
                qemu.execute("cont")
                time.sleep(run_seconds)
            qemu.start_save(uri, capabilities, parameters)
            qemu.finish_save()


class InspectAgrees(SavingTest):
    def expect_same(self, offset=None, complete=True):
        """Returns the description with the devices' fields."""

        def run(command, option, *flags):
            command = command + list(flags) + ([option, str(offset)] if offset is not None else [])
            return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)

        for flags in ([], ["--devices"]):
            ours = run([RAMJET, "inspect", self.path, "--json"], "--offset", *flags)
            theirs = run([sys.executable, READER, self.path], "--stream-offset", *flags)
            self.assertEqual(theirs.returncode, 0 if complete else 1, theirs.stderr)
            self.assertEqual(ours.stdout, theirs.stdout, ours.stderr)
            self.assertEqual(ours.returncode, 0 if complete else 1, ours.stderr)
            self.assertEqual(len(ours.stderr.splitlines()), 0 if complete else 1, ours.stderr)
            description = json.loads(ours.stdout)
            self.assertEqual(description["complete"], complete)
            text = run([RAMJET, "inspect", self.path], "--offset", *flags)
            self.assertEqual(text.returncode, ours.returncode)
            for block in description["ram"]["blocks"]:
                self.assertIn(block["idstr"], text.stdout)
            for device in description["devices"]:
                for name in device.get("fields") or []:
                    self.assertIn("\n  %s" % name, text.stdout)
        return description

    def fields(self, description, name):
        return next(device["fields"] for device in description["devices"] if device["name"] == name)

    def test_pc(self):
        self.save(["-M", "pc", "-m", "64"])
        description = self.expect_same()
        self.assertEqual(description["ram"]["blocks"][0]["idstr"], "pc.ram")
        self.assertGreater(len(description["devices"]), 20)
        # As the processor comes out of reset, and its timers.
        cpu = self.fields(description, "cpu")
        self.assertEqual(cpu["env.eip"], 0xFFF0)
        self.assertEqual(len(cpu["env.regs"]), 16)
        self.assertEqual(cpu["env.segs"][1]["base"], 0xFFFF0000)
        self.assertEqual(self.fields(description, "timer")["cpu_ticks_offset"], 0)
        ide = self.fields(description, "0000:00:01.1/ide")
        self.assertEqual(ide["parent_obj"]["config[0]"]["opaque"], "pci config")

    def test_q35(self):
        self.save(["-M", "q35", "-m", "96", "-smp", "2"])
        self.expect_same()

    def test_microvm(self):
        self.save(["-M", "microvm", "-m", "2"])
        self.expect_same()

    @unittest.skipIf(shutil.which(QEMU_ARM) is None, "no %s here" % QEMU_ARM)
    def test_virt(self):
        machine = ["-M", "virt,gic-version=3", "-cpu", "cortex-a57", "-smp", "2", "-m", "16"]
        self.save(machine, emulator=QEMU_ARM)
        description = self.expect_same()
        self.assertTrue(description["machine"].startswith("virt-"))
        self.assertEqual(len(self.fields(description, "cpu")["env.xregs"]), 32)

    def test_guest_that_ran(self):
        devices = "-vga std -usb -device usb-tablet -device e1000 -device virtio-balloon -device nec-usb-xhci"
        self.save(["-M", "pc", "-m", "64"] + devices.split(), run_seconds=2)
        description = self.expect_same()
        self.assertGreater(description["ram"]["blocks"][0]["nonzero_pages"], 10)

    def test_several_memory_backends(self):
        self.save(
            ["-M", "pc", "-m", "128", "-smp", "2"]
            + ["-object", "memory-backend-memfd,id=m0,size=64M", "-object", "memory-backend-ram,id=m1,size=64M"]
            + ["-numa", "node,memdev=m0,cpus=0", "-numa", "node,memdev=m1,cpus=1"]
        )
        self.assertIn("m1", [block["idstr"] for block in self.expect_same()["ram"]["blocks"]])

    def test_device_that_precedes_the_ram(self):
        self.save(
            ["-M", "q35", "-m", "64,maxmem=1G,slots=2", "-object", "memory-backend-ram,id=vm0,size=128M"]
            + ["-device", "virtio-mem-pci,id=v0,memdev=vm0,requested-size=64M"]
        )
        self.assertIn("early", self.expect_same()["devices"][0]["name"])

    def test_multifd(self):
        self.save(["-M", "pc", "-m", "64"], capabilities=("mapped-ram", "multifd"))
        self.expect_same()

    def test_without_vmdesc(self):
        self.save(["-M", "pc", "-m", "64"])
        described = self.expect_same()["devices"]
        self.save(["-M", "pc,suppress-vmdesc=on", "-m", "64"])
        for device in described:
            device["fields"] = None
        self.assertEqual(self.expect_same()["devices"], described)

    def test_uuid(self):
        uuid = "12345678-1234-1234-1234-123456789abc"
        self.save(["-M", "pc", "-m", "16", "-uuid", uuid], capabilities=("mapped-ram", "validate-uuid"))
        self.expect_same()

    def test_offset(self):
        self.save(["-M", "pc", "-m", "64"], offset=0x5000)
        self.assertEqual(self.expect_same(offset=0x5000)["stream_offset"], 0x5000)

    def test_libvirt_save_image(self):
        xml = b"<domain type='qemu'/>\0"
        for order in "<>":
            self.save(["-M", "pc", "-m", "16"], offset=92 + len(xml))
            with open(self.path, "r+b") as file:
                numbers = struct.pack(order + "19I", 2, len(xml), 1, 6, 0, *[0] * 14)
                file.write(b"LibvirtQemudSave" + numbers + xml)
            self.assertEqual(self.expect_same()["stream_offset"], 92 + len(xml))

    def test_files_cut_off(self):
        self.save(["-M", "pc", "-m", "16"])
        description = self.expect_same()
        last = description["ram"]["blocks"][-1]
        cpu = next(device for device in description["devices"] if device["name"] == "cpu")
        whole = os.path.getsize(self.path)
        for size in (whole - 1, cpu["offset"] + 10, last["pages_offset"] + last["used_length"] + 20):
            os.truncate(self.path, size)
            self.expect_same(complete=False)

    def test_save_that_was_killed(self):
        content = os.path.join(self.directory, "content")
        with open(content, "wb") as file:
            file.write(os.urandom(64 << 20))
        arguments = ["-M", "pc", "-m", "256", "-device", "loader,file=%s,addr=0x1000000,force-raw=on" % content]
        with Qemu(self.directory, arguments) as qemu:
            qemu.start_save("file:" + self.path, ("mapped-ram",), {"max-bandwidth": 4 << 20})
            deadline = time.monotonic() + 30
            while qemu.execute("query-migrate").get("ram", {}).get("transferred", 0) < 8 << 20:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            qemu.process.send_signal(signal.SIGKILL)
            qemu.process.wait()
        description = self.expect_same(complete=False)
        self.assertEqual(description["ram"]["nonzero_bytes"], 0)


if __name__ == "__main__":
    if shutil.which(QEMU) is None:
        print("SKIPPED: no %s here" % QEMU)
        sys.exit(0)
    unittest.main(verbosity=2)  # so that reasons to skip are told
