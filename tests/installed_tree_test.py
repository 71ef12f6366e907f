#!/usr/bin/python3
"""What tools/install installs is what a VMM's author and an operator need, and hides what they do not.

Builds programs against the installed tree as its users do, with cc, c++ and pkg-config. Run by Bazel, which cannot run in
itself, so tools/install gets what Bazel has built; by hand: in the root of the runfiles, or with BUILT set to bazel-bin/tools.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
INSTALL = os.path.join(ROOT, "tools", "install")
BUILT = os.environ.get("BUILT", os.path.join(ROOT, "tools"))
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
C99 = ["cc", "-std=c99", "-x", "c"] + STRICT
CXX17 = ["c++", "-std=c++17", "-x", "c++"] + STRICT
CXX20 = ["c++", "-std=c++20", "-x", "c++"] + STRICT
NO_USERFAULTFD = 77


def run(command, **options):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def output(command, **options):
    result = run(command, **options)
    assert result.returncode == 0, "%s\n%s%s" % (" ".join(command), result.stdout, result.stderr)
    return result.stdout


def install(*arguments):
    return run([INSTALL, "--from", BUILT, *arguments])


def global_symbols(command, path):
    """As (type, name) pairs; `type` is as nm(1) has it."""
    lines = output(["nm"] + command + [path]).splitlines()
    return [tuple(line.split()[-2:]) for line in lines if len(line.split()) > 1]


def tree(directory):
    """Path to mode and content, or to where a link leads."""
    found = {}
    for parent, directories, files in os.walk(directory):
        for name in directories + files:
            path = os.path.join(parent, name)
            relative = os.path.relpath(path, directory)
            if os.path.islink(path):
                found[relative] = "-> " + os.readlink(path)
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    digest = hashlib.sha256(file.read()).hexdigest()
                found[relative] = "%o %s" % (os.stat(path).st_mode & 0o7777, digest)
    return found


class InstalledTree(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
        cls.prefix = os.path.join(cls.scratch, "usr")
        result = install("--prefix", cls.prefix)
        assert result.returncode == 0, result.stderr
        cls.lib = os.path.join(cls.prefix, "lib")
        cls.archive = os.path.join(cls.lib, "libramjet.a")
        cls.library = os.path.join(cls.lib, "libramjet.so")
        cls.environment = dict(os.environ, PKG_CONFIG_PATH=os.path.join(cls.lib, "pkgconfig"))
        with open(os.path.join(cls.prefix, "include", "ramjet.h"), encoding="utf-8") as header:
            cls.face = set(re.findall(r"^RAMJET_API [^(]*?(ramjet_\w+)\(", header.read(), re.MULTILINE))

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.scratch)

    def directory(self):
        return tempfile.mkdtemp(dir=self.scratch)

    def pkg_config(self, *arguments, module="ramjet"):
        return output(["pkg-config", *arguments, module], env=self.environment).split()

    def shared(self):
        return self.pkg_config("--libs") + ["-Wl,-rpath," + self.lib]

    def static(self):
        return self.pkg_config("--libs", module="ramjet-static")

    def build(self, compiler, source, libraries, *more):
        program = os.path.join(self.directory(), "client")
        command = compiler + self.pkg_config("--cflags") + [os.path.join(HERE, source), "-x", "none"]
        output(command + list(more) + ["-pthread", "-o", program] + libraries)
        return program

    def run_client(self, program):
        result = run([program, self.directory()])
        if result.returncode == NO_USERFAULTFD:
            self.skipTest(result.stdout.strip())
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stdout.split(), ["ramjet"] + self.pkg_config("--modversion"))

    def needed(self, path):
        return set(re.findall(r"\(NEEDED\).*\[(.*)\]", output(["readelf", "-dW", path])))

    # --- Programs ---

    def test_c_client_with_the_shared_library(self):
        program = self.build(C99, "installed_client.c", self.shared())
        self.assertIn("libramjet.so.0", self.needed(program))
        self.run_client(program)

    def test_cxx_client_with_the_shared_library(self):
        for compiler in CXX17, CXX20:
            program = self.build(compiler, "installed_client.cc", self.shared())
            self.assertIn("libramjet.so.0", self.needed(program))
            self.run_client(program)

    def test_c_client_with_the_archive(self):
        program = self.build(C99, "installed_client.c", self.static())
        self.assertNotIn("libramjet.so.0", self.needed(program))
        self.run_client(program)

    def test_cxx_client_with_the_archive(self):
        program = self.build(CXX17, "installed_client.cc", self.static())
        self.assertNotIn("libramjet.so.0", self.needed(program))
        self.run_client(program)

    def test_clients_that_are_static_altogether(self):
        for compiler, source in (C99, "installed_client.c"), (CXX20, "installed_client.cc"):
            program = self.build(compiler, source, ["-static"] + self.pkg_config("--static", "--libs"))
            self.assertEqual(self.needed(program), set())
            self.run_client(program)

    def test_clients_that_have_every_name_of_our_insides(self):
        # As a program would that has another Abseil; its functions here are fatal, so whoever takes one of them for ours, or
        # loses one of ours for it, ends.
        inside = {symbol for _, symbol in global_symbols(["--defined-only"], self.archive)
                  if re.match(r"_Z[A-Z]*(K?4absl|K?6ramjet|K?8nlohmann)", symbol)}
        self.assertGreater(len(inside), 500)
        names = os.path.join(self.directory(), "names.s")
        with open(names, "w", encoding="utf-8") as source:
            source.write('.section .note.GNU-stack,"",@progbits\n.text\n')
            for name in sorted(inside):
                source.write('.globl "%s"\n.type "%s", @function\n"%s": ud2\n' % (name, name, name))
        for libraries in self.shared(), self.static():
            program = self.build(C99, "installed_client.c", libraries, names, "-rdynamic")
            self.assertTrue(inside <= {name for _, name in global_symbols(["-D", "--defined-only"], program)})
            self.run_client(program)

    def test_header_alone(self):
        source = "#include <ramjet.h>\nstruct ramjet_options options = RAMJET_OPTIONS_INIT;\n" \
                 "struct ramjet_block block = RAMJET_BLOCK_INIT;\n" \
                 "struct ramjet_block_info info = RAMJET_BLOCK_INFO_INIT;\n" \
                 "struct ramjet_device_loader loader = RAMJET_DEVICE_LOADER_INIT;\n" \
                 "struct ramjet_load_devices_options devices = RAMJET_LOAD_DEVICES_OPTIONS_INIT;\n"
        for compiler in C99, CXX17, CXX20, [*C99, "-std=c11"], [*CXX17, "-fno-exceptions", "-fno-rtti"]:
            output(compiler + self.pkg_config("--cflags") + ["-fsyntax-only", "-"], input=source)

    # --- Libraries ---

    def test_shared_library_exports_the_face_and_nothing_else(self):
        symbols = global_symbols(["-D", "--defined-only"], self.library)
        self.assertEqual({name for kind, name in symbols if kind == "T"},
                         {name + "@@RAMJET_0" for name in self.face})
        self.assertEqual([name for kind, name in symbols if kind != "T"], ["RAMJET_0"])

    def test_shared_library_needs_only_libc(self):
        dynamic = output(["readelf", "-dW", self.library])
        self.assertLessEqual(self.needed(self.library), {"libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2"})
        self.assertEqual(re.findall(r"\(SONAME\).*\[(.*)\]", dynamic), ["libramjet.so.0"])
        self.assertRegex(dynamic, r"\(FLAGS_1\).* NOW")
        self.assertNotRegex(dynamic, r"RPATH|RUNPATH|TEXTREL")

    def test_shared_library_has_the_names_that_linkers_look_for(self):
        version, = self.pkg_config("--modversion")
        self.assertEqual(os.readlink(self.library), "libramjet.so.0")
        self.assertEqual(os.readlink(self.library + ".0"), "libramjet.so." + version)
        self.assertFalse(os.path.islink(self.library + "." + version))

    def test_archive_defines_the_face_and_nothing_else(self):
        symbols = global_symbols(["-g", "--defined-only"], self.archive)
        self.assertEqual(set(symbols), {("T", name) for name in self.face})
        # What it needs, it needs: a weak reference brings nothing out of another archive. (The compiler's own knows that.)
        undefined = global_symbols(["-u"], self.archive)
        self.assertEqual([name for kind, name in undefined if kind != "U"], ["__cxa_pure_virtual"])
        self.assertFalse([name for _, name in undefined if re.match(r"_Z[A-Z]*(K?4absl|K?6ramjet)", name)])
        # A linker would choose between a group of ours and one of the program's.
        self.assertIn("There are no section groups", output(["readelf", "-gW", self.archive]))

    # --- The command ---

    def ramjet_run(self, ramjet, *command):
        environment = dict(os.environ)
        environment.pop("LD_PRELOAD", None)
        return run([ramjet, "run", "--", *command], env=environment)

    def test_command_finds_the_preload_library(self):
        preload = os.path.join(self.lib, "ramjet", "libramjet_preload.so")
        result = self.ramjet_run(os.path.join(self.prefix, "bin", "ramjet"), "cat", "/proc/self/maps")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn(os.path.realpath(preload), result.stdout)

    def test_command_prefers_the_preload_library_beside_it(self):
        prefix = os.path.join(self.directory(), "usr")
        shutil.copytree(self.prefix, prefix, symlinks=True)
        ramjet = os.path.join(prefix, "bin", "ramjet")
        beside = shutil.copy(os.path.join(self.lib, "ramjet", "libramjet_preload.so"), os.path.join(prefix, "bin"))
        result = self.ramjet_run(ramjet, "printenv", "LD_PRELOAD")
        self.assertEqual(result.stdout.strip(), os.path.realpath(beside), result.stderr)

    def test_command_without_a_preload_library_says_where_it_looked(self):
        directory = self.directory()
        ramjet = shutil.copy(os.path.join(self.prefix, "bin", "ramjet"), directory)
        result = self.ramjet_run(ramjet, "true")
        self.assertEqual(result.returncode, 1)
        self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
        self.assertIn(os.path.join(directory, "libramjet_preload.so"), result.stderr)
        self.assertIn(os.path.join(self.scratch, "lib", "ramjet", "libramjet_preload.so"), result.stderr)

    # --- tools/install ---

    def test_install_puts_everything_in_its_place(self):
        version, = self.pkg_config("--modversion")
        self.assertEqual(set(tree(self.prefix)), {
            "bin/ramjet",
            "include/ramjet.h",
            "lib/libramjet.a",
            "lib/libramjet.so",
            "lib/libramjet.so.0",
            "lib/libramjet.so." + version,
            "lib/pkgconfig/ramjet-static.pc",
            "lib/pkgconfig/ramjet.pc",
            "lib/ramjet/libramjet_preload.so",
            "share/doc/ramjet/CHANGELOG.md",
            "share/doc/ramjet/LICENSE",
            "share/doc/ramjet/README.md",
            "share/doc/ramjet/docs/performance.md",
            "share/doc/ramjet/docs/stats.md",
        })

    def test_install_again_changes_nothing(self):
        before = tree(self.prefix)
        self.assertEqual(install("--prefix=" + self.prefix).returncode, 0)
        self.assertEqual(tree(self.prefix), before)

    def test_install_replaces_an_earlier_ramjet_and_nothing_else(self):
        prefix = self.directory()
        os.makedirs(os.path.join(prefix, "lib"))
        os.symlink("libramjet.so.0.0.9", os.path.join(prefix, "lib", "libramjet.so.0"))
        for name in "libramjet.a", "libother.a":
            with open(os.path.join(prefix, "lib", name), "w", encoding="utf-8") as file:
                file.write("old")
        self.assertEqual(install("--prefix", prefix).returncode, 0)
        installed = tree(prefix)
        other = installed.pop("lib/libother.a")
        self.assertEqual(other.split()[1], hashlib.sha256(b"old").hexdigest())
        expected = tree(self.prefix)
        for module in "ramjet", "ramjet-static":  # in which the prefix stands
            self.assertNotEqual(installed.pop("lib/pkgconfig/%s.pc" % module), expected.pop("lib/pkgconfig/%s.pc" % module))
        self.assertEqual(installed, expected)

    def test_install_below_destdir_knows_only_the_prefix(self):
        destdir = self.directory()
        result = install("--prefix", "/opt/ramjet", "--destdir", destdir)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(set(tree(os.path.join(destdir, "opt", "ramjet"))), set(tree(self.prefix)))
        with open(os.path.join(destdir, "opt/ramjet/lib/pkgconfig/ramjet.pc"), encoding="utf-8") as file:
            self.assertNotIn(destdir, file.read())
        directory = os.path.join(destdir, "opt/ramjet/lib/pkgconfig")
        self.assertEqual(output(["pkg-config", "--cflags", "ramjet"],
                                env=dict(os.environ, PKG_CONFIG_PATH=directory)).strip(), "-I/opt/ramjet/include")

    def test_install_misused(self):
        for arguments in [], ["--prefix"], ["--prefix="], ["--prefix", "relative"], ["--prefix", "/a b"], \
                ["--prefix", "/a:b"], ["--prefix", "/a", "surplus"], ["--prefix", "/a", "--libdir", "/b"]:
            result = run([INSTALL] + arguments)
            self.assertEqual(result.returncode, 2, arguments)
            self.assertEqual(result.stdout, "")
            self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)

    def test_install_that_cannot(self):
        empty, prefix = self.directory(), self.directory()
        in_the_way = os.path.join(self.directory(), "file")
        with open(in_the_way, "w", encoding="utf-8"):
            pass
        for command, why in ([INSTALL, "--from", empty, "--prefix", prefix], os.path.join(empty, "ramjet")), \
                ([INSTALL, "--from", BUILT, "--prefix", in_the_way], in_the_way):
            result = run(command)
            self.assertEqual(result.returncode, 1)
            self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
            self.assertIn(why, result.stderr)
        self.assertEqual(os.listdir(prefix), [])

    def test_install_help_teaches(self):
        result = run([INSTALL, "--help"])
        self.assertEqual(result.returncode, 0)
        for word in "--prefix", "--destdir", "--from", "pkg-config", "libramjet.a":
            self.assertIn(word, result.stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
