#!/usr/bin/python3
"""Runs tests of ours under another Linux: in a small guest of two NUMA nodes, under TCG, from Debian's kernel packages.

    bazel run //tests:under_kernel -- 6.1 loader_failure_test --gtest_filter='*Poison*' [loader_ram_map_test ...]

builds the tests named, and runs each with the options that follow it, all in one guest. `tools/setup --checks` unpacks the kernels 6.1
and 6.12 into /usr/local/share/ramjet/kernels. By Bazel's rules (tests/BUILD) the tests come from the runfiles, and one that is skipped in
the guest is a failure: it is there because only this kernel can run it. Exit status: 0 all passed, or there is no such kernel or no QEMU
here, which is said; 1 one did not.

Its init lets shared memory have huge pages where that is advised, as Debian does not, and sets 16 pages of hugetlb aside. A test that finds
RAMJET_TEST_GUEST in its environment may change the settings of the machine.
"""

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time

KERNELS = "/usr/local/share/ramjet/kernels"
QEMU = "qemu-system-x86_64"
MEMORY_MIB = 1024
LIMIT_S = 800
CPUS = 2

INIT = r"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t ramfs tmp /tmp
exec </dev/null >/dev/console 2>&1
mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm
ip link set lo up
echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled
echo 16 >/proc/sys/vm/nr_hugepages
export PATH=/bin HOME=/tmp TEST_TMPDIR=/tmp TEST_SRCDIR=/runfiles TEST_WORKSPACE=ramjet RAMJET_TEST_GUEST=1 GTEST_COLOR=no
cd /runfiles/ramjet
echo "Linux $(uname -r)"
%s
poweroff -f
"""


def why_not(version):
    kernel = os.path.join(KERNELS, version, "vmlinuz")
    if not os.access(kernel, os.R_OK):
        return "there is no %s: run tools/setup --checks" % kernel
    for program in (QEMU, "busybox", "ldd"):
        if shutil.which(program) is None:
            return "there is no %s here: run tools/setup" % program
    return None


def parse(words):
    """[[test, option, ...], ...]"""
    tests = []
    for word in words:
        if word.startswith("-"):
            tests[-1].append(word)
        else:
            tests.append(["tests/" + os.path.basename(word)])
    return tests


def built(tests):
    """The directories whose content the tests find as their runfiles: our own under `bazel test`, else those of each."""
    workspace = os.environ.get("BUILD_WORKSPACE_DIRECTORY")
    if workspace is None:
        return [os.getcwd()]
    names = ["//tests:" + os.path.basename(test[0]) for test in tests]
    subprocess.run(["bazel", "build", "--noshow_progress", *names], cwd=workspace, check=True)
    return [os.path.join(workspace, "bazel-bin", test[0] + ".runfiles", "ramjet") for test in tests]


def libraries(programs):
    """What the programs want of the system, and their interpreter: whatever ldd finds by an absolute path out of our reach."""
    found = set()
    for program in programs:
        text = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
        for path in re.findall(r"(?:=> |^\t)(/\S+) \(0x", text, re.MULTILINE):
            if "/_solib" not in path:
                found.add(path)
    return found


def write_initramfs(path, root, tests):
    for directory in built(tests):
        shutil.copytree(directory, os.path.join(root, "runfiles/ramjet"), dirs_exist_ok=True)
    programs = [os.path.join(root, "runfiles/ramjet", test[0]) for test in tests]
    for library in libraries(programs):
        copy = root + library
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        shutil.copy(library, copy)
    os.makedirs(root + "/bin", exist_ok=True)
    shutil.copy(shutil.which("busybox"), root + "/bin/busybox")
    commands = ["%s; echo RESULT %s $?" % (" ".join("'%s'" % word for word in test), test[0]) for test in tests]
    with open(root + "/init", "w", encoding="utf-8") as init:
        init.write(INIT % "\n".join(commands))
    os.chmod(root + "/init", 0o755)
    names = "\n".join(sorted(os.path.relpath(os.path.join(directory, name), root)
                             for directory, below, files in os.walk(root) for name in below + files))
    with open(path, "wb") as archive:
        subprocess.run(["busybox", "cpio", "-o", "-H", "newc"], cwd=root, input=names.encode(), stdout=archive,
                       stderr=subprocess.DEVNULL, check=True)


def boot(version, initramfs):
    """What the guest says on its console, which is passed on as it comes."""
    # Without no_timer_check the kernel panics now and then on a busy machine: "IO-APIC + timer doesn't work".
    command = [QEMU, "-accel", "tcg", "-cpu", "max", "-smp", str(CPUS), "-m", str(MEMORY_MIB), "-display", "none", "-nodefaults",
               "-no-reboot", "-serial", "stdio", "-kernel", os.path.join(KERNELS, version, "vmlinuz"), "-initrd", initramfs,
               "-append", "console=ttyS0 panic=-1 quiet no_timer_check"]
    for node in range(2):
        command += ["-object", "memory-backend-ram,id=m%d,size=%dM" % (node, MEMORY_MIB // 2),
                    "-numa", "node,nodeid=%d,cpus=%d,memdev=m%d" % (node, node, node)]
    said = []
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as qemu:
        killed_at = time.monotonic() + LIMIT_S
        for line in qemu.stdout:
            said.append(line.decode(errors="replace").rstrip())
            print(said[-1], flush=True)
            if time.monotonic() > killed_at:
                qemu.kill()
    return said


def main():
    version, tests = sys.argv[1], parse(sys.argv[2:])
    why = why_not(version)
    if why is not None:
        print("SKIPPED: " + why)
        return 0
    with tempfile.TemporaryDirectory() as directory:
        initramfs = os.path.join(directory, "initramfs")
        write_initramfs(initramfs, os.path.join(directory, "root"), tests)
        print("an initramfs of %d MiB" % (os.path.getsize(initramfs) >> 20), flush=True)
        began = time.monotonic()
        said = boot(version, initramfs)
    results = [line.split()[1:] for line in said if line.startswith("RESULT ")]
    bad = [test[0] for test in tests if [test[0], "0"] not in results]
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    print("%.0f s in the guest, with %.0f s of processor time; %d of %d passed" %
          (time.monotonic() - began, spent.ru_utime + spent.ru_stime, len(tests) - len(bad), len(tests)))
    for test in bad:
        print("FAILED: %s under Linux %s" % (test, version))
    skipped = [line for line in said if line.startswith("[  SKIPPED ]") and " ms)" in line]
    if skipped and "BUILD_WORKSPACE_DIRECTORY" not in os.environ:
        print("FAILED: skipped where they must run")
        return 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
