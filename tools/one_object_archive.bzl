"""A static library that is one object: all that a library of ours needs, and no names but its own.

An archive of the objects as they are would bring a second Abseil into programs that have one, and the linker would take
some functions from either. Here references are resolved when the library is built, and what is not of its face becomes
local. Groups of sections (inline functions, templates) are dissolved first: a linker keeps only one of several of a name,
and would drop ours for the program's, or leave the program with ours, which it can no longer name.
"""

load("@bazel_tools//tools/cpp:toolchain_utils.bzl", "find_cpp_toolchain")

def _objects(linker_inputs):
    """Those that are always linked, and those that are linked if something refers to them."""
    roots, others = [], []
    for linker_input in linker_inputs:
        for library in linker_input.libraries:
            objects = library.pic_objects or library.objects
            if library.alwayslink:
                roots += objects
            else:
                others += objects
    return roots, others

def _run(ctx, tool, inputs, output, arguments):
    ctx.actions.run(
        executable = tool,
        tools = find_cpp_toolchain(ctx).all_files,
        inputs = inputs,
        outputs = [output],
        arguments = [arguments],
        mnemonic = "OneObjectArchive",
        progress_message = "Making %s" % output.short_path,
    )

def _one_object_archive_impl(ctx):
    toolchain = find_cpp_toolchain(ctx)
    roots, others = _objects(ctx.attr.dep[CcInfo].linking_context.linker_inputs.to_list())
    if not roots:
        fail("nothing in %s is alwayslink, so nothing would be linked" % ctx.attr.dep.label)

    # q, for r would replace an object by another of the same name.
    needed = ctx.actions.declare_file(ctx.label.name + ".needed.a")
    arguments = ctx.actions.args()
    arguments.add("qcsD", needed)
    arguments.add_all(others)
    _run(ctx, toolchain.ar_executable, others, needed, arguments)

    linked = ctx.actions.declare_file(ctx.label.name + ".linked.o")
    arguments = ctx.actions.args()
    arguments.add_all(["-r", "--force-group-allocation", "-o", linked])
    arguments.add_all(roots)
    arguments.add(needed)
    _run(ctx, toolchain.ld_executable, roots + [needed], linked, arguments)

    # objcopy makes global and weak symbols local, but not the unique ones in which the compiler keeps the static variables of
    # inline functions; so these become weak before. Only they: a weak reference to libstdc++ would not be an order for it.
    # clang makes none, and a file without names is an error to objcopy, hence one that no object has.
    localised = ctx.actions.declare_file(ctx.label.name + ".o")
    ctx.actions.run_shell(
        command = """set -e -o pipefail
            nm="$1" objcopy="$2" linked="$3" exports="$4" localised="$5"
            { echo none; "$nm" --defined-only "$linked" | sed -n 's/^[0-9a-f]* u //p'; } >"$localised.unique"
            "$objcopy" --weaken-symbols="$localised.unique" "$linked" "$localised.weak"
            "$objcopy" --wildcard --keep-global-symbol="$exports" "$localised.weak" "$localised"
            rm "$localised.unique" "$localised.weak" """,
        arguments = [
            toolchain.nm_executable,
            toolchain.objcopy_executable,
            linked.path,
            ctx.attr.exports,
            localised.path,
        ],
        tools = toolchain.all_files,
        inputs = [linked],
        outputs = [localised],
        mnemonic = "OneObjectArchive",
        progress_message = "Making %s" % localised.short_path,
    )

    archive = ctx.actions.declare_file(ctx.label.name)
    arguments = ctx.actions.args()
    arguments.add_all(["qcsD", archive, localised])
    _run(ctx, toolchain.ar_executable, [localised], archive, arguments)
    return [DefaultInfo(files = depset([archive]))]

one_object_archive = rule(
    implementation = _one_object_archive_impl,
    attrs = {
        "dep": attr.label(
            mandatory = True,
            providers = [CcInfo],
            doc = "The library, of which what is alwayslink is in, and what that needs.",
        ),
        "exports": attr.string(
            mandatory = True,
            doc = "The names that stay global, with wildcards.",
        ),
        "_cc_toolchain": attr.label(default = "@bazel_tools//tools/cpp:current_cc_toolchain"),
    },
    toolchains = ["@bazel_tools//tools/cpp:toolchain_type"],
)
