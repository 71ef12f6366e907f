#!/usr/bin/python3
"""What is written for the vectors and instructions of aarch64 passes its tests there: built by gcc, run by QEMU; and clang takes it.

The tests are the same as this machine's. Run by Bazel; by hand: at the top of the source.
"""

import os
import shutil
import subprocess
import sys
import tempfile

GCC = "aarch64-linux-gnu-g++"
QEMU = "qemu-aarch64"
ABSEIL = "/usr/local/share/ramjet/abseil"
GOOGLETEST = "/usr/src/googletest/googletest"
OURS = ["mappedram/zero_scan.cc", "mappedram/crc32c.cc"]
TESTS = ["tests/mappedram_zero_scan_test.cc", "tests/mappedram_crc32c_test.cc"]
THEIRS = [GOOGLETEST + "/src/gtest-all.cc", GOOGLETEST + "/src/gtest_main.cc"]
THEIRS += [ABSEIL + "/absl/base/internal/%s.cc" % name for name in ("raw_logging", "throw_delegate")]

FLAGS = ["-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", "-fno-exceptions", "-I."]
FLAGS += ["-isystem" + path for path in (ABSEIL, GOOGLETEST, GOOGLETEST + "/include")]


def main():
    lacking = [program for program in (GCC, QEMU) if shutil.which(program) is None]
    lacking += [path for path in THEIRS if not os.path.exists(path)]
    if lacking:
        print("SKIPPED: no %s here" % ", ".join(lacking))
        return 0
    for source in OURS if shutil.which("clang++") else []:
        subprocess.run(["clang++", "--target=aarch64-linux-gnu", *FLAGS, "-c", source, "-o", os.devnull], check=True)
    with tempfile.TemporaryDirectory() as directory:
        program = os.path.join(directory, "aarch64_test")
        # Static, or QEMU would look for the libraries of another architecture here.
        subprocess.run([GCC, *FLAGS, "-static", *OURS, *TESTS, *THEIRS, "-o", program], check=True)
        return subprocess.run([QEMU, program], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
