"""The system's libraries as one repository, @system, so that BUILD files name them like any other target.

Headers are on the compiler's default path. What has no more than headers is an empty target; the archives of GoogleTest
and Google Benchmark are linked by the names that pkg-config gives them.
"""

_MODULES = {
    "gtest_main": ["gtest_main"],
    "gmock": ["gmock"],
    "benchmark": ["benchmark"],
}

_HEADER_ONLY = ["cli11", "nlohmann_json"]

def _static_linkopts(repository_ctx, modules):
    result = repository_ctx.execute(["pkg-config", "--static", "--libs"] + modules)
    if result.return_code != 0:
        fail("pkg-config does not know %s: run tools/setup (%s)" % (modules, result.stderr.strip()))
    opts = []
    for opt in result.stdout.strip().split(" "):
        if opt not in opts:
            opts.append(opt)
    return opts

def _system_libraries_impl(repository_ctx):
    build = ["package(default_visibility = [\"//visibility:public\"])"]
    for name, modules in _MODULES.items():
        build.append("cc_library(name = %r, linkopts = %r)" % (
            name,
            _static_linkopts(repository_ctx, modules),
        ))
    for name in _HEADER_ONLY:
        build.append("cc_library(name = %r)" % name)
    repository_ctx.file("BUILD", "\n".join(build) + "\n")

system_libraries = repository_rule(
    implementation = _system_libraries_impl,
    local = True,
)
