// The `ramjet` command. Exit status: 0 done; 1 the file, the VM or the machine said no; 2 usage.
//
// Compiled with exceptions, as the only file, for CLI11 reports errors by them; none leaves main().
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "loader/snapshot_loader.h"
#include "tools/bench/bench.h"
#include "tools/bench/vm_bench.h"
#include "tools/convert.h"
#include "tools/demo.h"
#include "tools/error_line.h"
#include "tools/inspect.h"
#include "tools/run.h"
#include "tools/same_file.h"
#include "tools/save.h"
#include "tools/verify.h"
#include "tools/workingset.h"

namespace {

constexpr char kDescription[] =
    "Resumes a virtual machine from a snapshot before its memory is loaded.\n"
    "\n"
    "  ramjet run --incoming vm.mr -- qemu-system-x86_64 -m 4G ...\n"
    "  ramjet save --qmp qmp.sock vm.mr\n"
    "  ramjet convert --from firecracker vm.mem vm.mr\n"
    "  ramjet inspect vm.mr\n"
    "  ramjet workingset --help\n"
    "  ramjet verify vm.mr\n"
    "  ramjet demo\n"
    "  ramjet bench";

constexpr char kInspectFooter[] =
    "With --devices, each device in the JSON object also has \"fields\", by name: numbers\n"
    "(timers in nanoseconds, -1 if off), true or false, null for a null pointer, arrays,\n"
    "objects for structs and subsections (\"device/subsection\"), strings of hexadecimal\n"
    "digits for plain bytes, and {\"opaque\": TYPE, \"bytes\": DIGITS} for what only the\n"
    "device's own code understands. \"fields\" is null if the file does not describe its\n"
    "devices (suppress-vmdesc=on, or cut off).";

constexpr char kRunDescription[] =
    "Runs an unpatched QEMU (9.0 or later) whose snapshot loads take milliseconds.";

constexpr char kRunFooter[] =
    "The guest runs at once; pages that it touches are fetched on demand, and the rest arrives "
    "behind\n"
    "its back. ramjet becomes QEMU: same process, standard streams, signals and exit status. "
    "Without\n"
    "--incoming, whatever mapped-ram load QEMU is told to do (-incoming, migrate-incoming) is "
    "lazy.\n"
    "\n"
    "What cannot be loaded lazily (memory that devices or other processes share, "
    "locked or\n"
    "preallocated memory) QEMU reads itself, as without ramjet; one line on stderr says why. Needs "
    "read\n"
    "and write access to /dev/userfaultfd, or CAP_SYS_PTRACE.\n"
    "\n"
    "With --record, pages come only when they are touched until the record ends; then the rest is "
    "loaded\n"
    "ahead. With --working-set, what it names is loaded first, before the eager threads begin. A "
    "page "
    "that\n"
    "the guest touches is served at once in any case.\n"
    "\n"
    "To write a snapshot: ramjet save.\n"
    "\n"
    "Example:\n"
    "  ramjet run --incoming vm.mr --stats load.json -- qemu-system-x86_64 -accel kvm -m 4G ...";

constexpr char kBenchDescription[] =
    "Loads a snapshot in every way there is, in turn, and compares them.";

constexpr char kBenchFooter[] =
    "Without SNAPSHOT a small Linux guest is booted and saved first. With one, and what its QEMU\n"
    "is started with (no -incoming, no snapshot) behind --, QEMU takes part; without that only a\n"
    "VM of our own does, whose vCPUs are threads that touch memory, or KVM's.\n"
    "\n"
    "  in QEMU:    stock, stock-multifd, ramjet, ramjet-ws (with a recorded working set),\n"
    "              floor (stock, without the content)\n"
    "  in our VM:  full-read, map-private (the file mapped as memory), one-page (a plain\n"
    "              userfaultfd handler), ramjet, ramjet-ws\n"
    "  workloads:  first-work (QEMU); touch-all, read-25, write-25, zipf, idle, faults (our VM)\n"
    "\n"
    "The machine's own limits are measured between the rounds, and ratios are given with the bars\n"
    "that ramjet is held to. Do nothing else on the machine meanwhile; five rounds of everything\n"
    "take long, so choose with --contestant and --workload. Ctrl-C shows the complete rounds.\n"
    "What the words mean: docs/performance.md.\n"
    "\n"
    "With --against, each round loads with this build, with the other and with this one again.\n"
    "Compared are first work and last page in QEMU, and stalls of our VM. This build is slower if\n"
    "the median of the paired ratios is above 1.05 and above the upper quartile of this build\n"
    "against itself.\n"
    "\n"
    "Examples:\n"
    "  ramjet bench --report /tmp/bench\n"
    "  ramjet bench --against ../before/bazel-bin/tools/ramjet\n"
    "  ramjet bench --cache warm --contestant map-private,ramjet --workload read-25,write-25\n"
    "  ramjet bench vm.mr --json -- qemu-system-x86_64 -accel kvm -m 4G -display none ...";

constexpr char kSaveDescription[] = "Saves a guest that runs in QEMU (9.0 or later) as a snapshot.";

constexpr char kSaveFooter[] =
    "The guest is stopped while its memory is written, and then runs on; with --live it runs "
    "meanwhile,\n"
    "and is stopped only for what it has changed last. FILE appears, or is replaced, when it is "
    "complete\n"
    "and on the disk, and so do its checksums. Ctrl-C gives up and leaves no file; "
    "the\n"
    "guest runs on.\n"
    "\n"
    "QEMU has its monitor there by -qmp unix:qmp.sock,server=on,wait=off. It is handed the open "
    "file, and\n"
    "needs no access to the directory.\n"
    "\n"
    "Example:\n"
    "  ramjet save --qmp qmp.sock vm.mr\n"
    "  ramjet run --incoming vm.mr -- qemu-system-x86_64 ...";

constexpr char kConvertDescription[] =
    "Converts snapshots of other VMMs, and raw images of memory, to mapped-ram and back.";

constexpr char kConvertFooter[] =
    "  mapped-ram        QEMU's snapshots, and ours; read also behind libvirt's header\n"
    "  libvirt           the same with that header, which comes from IN or --like\n"
    "  raw               plain bytes, the blocks of memory one behind the other; holes are zeros\n"
    "  firecracker       its memory file; holes are what --base has there, or zeros (--full)\n"
    "  cloud-hypervisor  its snapshot directory\n"
    "\n"
    "What only the VMM understands goes along: Firecracker's state file (--vmstate) and Cloud\n"
    "Hypervisor's JSON files become sections of the mapped-ram file, and files again on the way "
    "back.\n"
    "What has no place in OUT is named on stderr. OUT appears, or is replaced, when it is "
    "complete,\n"
    "and so do its checksums. No file that is read can be an output.\n"
    "\n"
    "A diff and a full snapshot with holes look alike, so one of --base and --full is needed "
    "where\n"
    "there are holes. A diff that is left out of the middle of a chain cannot be noticed. Copy\n"
    "diffs by tar -S or cp --reflink=always: plain cp turns zeros that are written into holes.\n"
    "\n"
    "Example:\n"
    "  ramjet convert vm.mr smaller.mr                       # pages of zeros become holes\n"
    "  ramjet convert --to raw --blocks pc.ram vm.mr vm.raw\n"
    "  ramjet convert --from raw --like vm.mr vm.raw new.mr  # other memory, the same devices\n"
    "  ramjet convert --from firecracker --base full.mem --vmstate diff.state diff.mem vm.mr\n"
    "  ramjet convert --to firecracker --base full.mem --vmstate vm.state vm.mr diff.mem\n"
    "  ramjet convert ch-snapshot/ vm.mr";

constexpr char kWorkingSetDescription[] =
    "Shows what is in a working set, or makes one of several.";

constexpr char kWorkingSetFooter[] =
    "A working set is a file that says which pages of a snapshot a guest touches first after its\n"
    "resume, in that order. `ramjet run --record` writes it; `ramjet run --working-set` loads "
    "those\n"
    "pages before all others, in bulk. It belongs to one snapshot and its copies.\n"
    "\n"
    "Example:\n"
    "  ramjet run --record vm.ws --incoming vm.mr -- qemu-system-x86_64 ...\n"
    "  ramjet workingset show vm.ws --snapshot vm.mr\n"
    "  ramjet workingset merge -o vm.ws monday.ws tuesday.ws\n"
    "  ramjet run --working-set vm.ws --incoming vm.mr -- qemu-system-x86_64 ...";

constexpr char kMergeDescription[] =
    "Writes the union of several records of one snapshot: pages that are in most of them first, "
    "and\n"
    "among those the ones that were touched the earliest.";

constexpr char kVerifyDescription[] =
    "Reads all of a snapshot: whether it is complete, its pages are readable and, with checksums, "
    "are what was saved.";

constexpr char kDiffDescription[] =
    "Says in which pages the RAM of two snapshots differs. Exit status 0: in none; 1: in some, or "
    "a "
    "file cannot be read.";

std::string SidecarOf(const std::string& snapshot) { return snapshot + ".crc"; }

// Where --checksums says that those of `snapshot` go; empty: nowhere.
std::string SidecarOf(const std::string& snapshot, const std::string& flag) {
  return flag == "true" ? SidecarOf(snapshot) : flag;  // of a flag without a value, CLI11 has that
}

void ExpectNoneReplaced(const std::vector<ramjet::NamedFile>& outputs,
                        const std::vector<ramjet::NamedFile>& inputs) {
  const std::string replaced = ramjet::WhichIsReplaced(outputs, inputs);
  if (!replaced.empty()) throw CLI::ValidationError(replaced);
}

}  // namespace

// What CLI11 throws beside ParseError would be our own misuse of it.
// NOLINTNEXTLINE(bugprone-exception-escape)
int main(int argc, char** argv) {
  CLI::App app(kDescription, "ramjet");
  app.require_subcommand(1);
  app.set_version_flag("--version", "ramjet 0.1.0");

  CLI::App* const inspect = app.add_subcommand(
      "inspect", "Says what is in a snapshot file, or in one line what is wrong with it.");
  std::string file;
  bool json = false;
  bool devices = false;
  std::optional<uint64_t> stream_offset;
  inspect->add_option("FILE", file, "The snapshot; behind libvirt's save image header, too")
      ->required();
  inspect->add_flag("--json", json, "Print one JSON object (schema ramjet.inspect/1)");
  inspect->add_flag("--devices", devices,
                    "Also decode the state of every device, field by field, as the file describes "
                    "it");
  inspect->add_option("--offset", stream_offset, "Where the stream begins, if not at the start")
      ->type_name("BYTES");

  inspect->footer(kInspectFooter);

  CLI::App* const run = app.add_subcommand("run", kRunDescription);
  ramjet::RunOptions run_options;
  std::string eager = "on";
  std::string whole_windows = "on";
  run->add_option("--incoming", run_options.incoming,
                  "Load this snapshot (adds -global migration.mapped-ram=on -incoming file:FILE)")
      ->type_name("FILE");
  run->add_option("--stats", run_options.stats_path,
                  "Write statistics there when everything is loaded, and at exit (ramjet.stats/1)")
      ->type_name("FILE");
  run->add_option("--eager", eager, "Load ahead what nobody has touched yet (default: on)")
      ->check(CLI::IsMember({"on", "off"}));
  run->add_option("--eager-threads", run_options.eager_threads,
                  "How many threads load ahead (default: 2 to 4, as suits the machine)")
      ->check(CLI::Range(1u, ramjet::SnapshotLoader::kMaxEagerThreads));
  run->add_option(
         "--eager-rate", run_options.eager_bytes_per_s,
         "Load ahead no more than that in a second, e.g. 200MB (default: no limit). Ignored "
         "where there is\nno lease on the snapshot, or somebody waits to write to it")
      ->type_name("BYTES")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(uint64_t{0}, uint64_t{1} << 60));  // -1 is a large number, too
  run->add_option("--whole-windows", whole_windows,
                  "Who touches a page gets the huge page around it, if the page cache has it, or "
                  "the guest goes\non asking a fast disk: a longer wait once, and then none "
                  "(default: on; off with --eager=off or\n--eager-rate)")
      ->check(CLI::IsMember({"on", "off"}));
  run->add_option(
         "--direct", run_options.direct,
         "What is loaded ahead and not in the page cache comes straight from the disk\n"
         "(auto), everything does (on), or goes through the page cache, for the next guest "
         "(off);\nthrough the page cache in any case where memory is short (default: auto)")
      ->check(CLI::IsMember({"auto", "on", "off"}));
  CLI::Option* const record =
      run->add_option("--record", run_options.record_path,
                      "Write there which pages the guest touches, in order of first touch; nothing "
                      "is loaded\nahead meanwhile (see: ramjet workingset --help)")
          ->type_name("FILE");
  run->add_option("--record-for", run_options.record_seconds,
                  "Record for that long after the resume, or until the guest has everything, or "
                  "ends\n(default: 5)")
      ->type_name("SECONDS")
      ->check(CLI::Range(0.0, 1e6))
      ->check([](const std::string& word) {  // nan is in every range
        return word.find_first_of("nN") == std::string::npos ? "" : "no number: " + word;
      })
      ->needs(record);
  run->add_option(
         "--working-set", run_options.working_set,
         "Load what that record names first; ignored, with a warning, if it is of another\n"
         "snapshot or damaged")
      ->type_name("FILE")
      ->excludes(record);
  run->add_option(
         "--checksums", run_options.checksums,
         "Give the guest no page that has changed since FILE was made (ramjet checksum, or\n"
         "--checksums of save and convert); such a page is as unreadable. What they cannot\n"
         "vouch for, as another snapshot or a stream from a socket, is not loaded (exit status 1)")
      ->type_name("FILE");
  run->footer(kRunFooter);

  CLI::App* const save = app.add_subcommand("save", kSaveDescription);
  ramjet::SaveOptions save_options;
  save->add_option("FILE", save_options.path, "The snapshot")->required();
  save->add_option("--qmp", save_options.socket, "QEMU's monitor: a unix socket that speaks QMP")
      ->type_name("SOCKET")
      ->required();
  save->add_flag("--live", save_options.live,
                 "Let the guest run meanwhile; if it changes its memory faster than that can be "
                 "written, it\nis stopped after some passes");
  save->add_flag("--leave-stopped", save_options.leave_stopped,
                 "Do not let the guest run on afterwards");
  CLI::Option* const channels =
      save->add_option("--multifd-channels", save_options.settings.multifd_channels,
                       "Let QEMU write with that many threads (default: its main one only)")
          ->type_name("N")
          ->check(CLI::Range(1, 255));
  save->add_flag("--direct-io", save_options.settings.direct_io,
                 "Write past the page cache; with --multifd-channels, QEMU 9.1 or later")
      ->needs(channels);
  save->add_option("--rate", save_options.settings.bytes_per_s,
                   "Write no more than that in a second, e.g. 200MB (default: no limit)")
      ->type_name("BYTES")
      ->transform(CLI::AsSizeValue(false));
  std::string sidecar;
  save->add_flag(
      "--checksums", sidecar,
      "Also make checksums of its pages, as ramjet checksum does, in FILE.crc; or where\n"
      "--checksums=SIDECAR says");
  save->add_flag("!--no-sync", save_options.sync, "Do not wait until the file is on the disk");
  save->add_flag("--json", save_options.json, "Print one JSON object (schema ramjet.save/1)");
  save->footer(kSaveFooter);

  CLI::App* const convert = app.add_subcommand("convert", kConvertDescription);
  ramjet::ConvertOptions convert_options;
  std::string from;
  std::string to = "mapped-ram";
  std::string zero_pages = "all";
  convert->add_option("IN", convert_options.in.path, "What is converted")->required();
  convert->add_option("OUT", convert_options.out, "What becomes of it")->required();
  convert
      ->add_option("--from", from,
                   "What IN is; mapped-ram, libvirt and cloud-hypervisor are recognised")
      ->type_name("FORMAT")
      ->check(CLI::IsMember(ramjet::ImageFormatNames()));
  convert->add_option("--to", to, "What OUT is to be (default: mapped-ram)")
      ->type_name("FORMAT")
      ->check(CLI::IsMember(ramjet::ImageFormatNames()));
  convert
      ->add_option("--blocks", convert_options.in.blocks,
                   "IN mapped-ram: these blocks first; to raw or firecracker: only these.\n"
                   "IN raw or firecracker: what it consists of, NAME:BYTES each, the last a NAME\n"
                   "(default: one block, \"ram\", or that of --like of the same length)")
      ->type_name("LIST")
      ->delimiter(',');
  convert
      ->add_option("--page-size", convert_options.in.page_size,
                   "Of an IN that does not tell (default: 4096)")
      ->type_name("BYTES")
      ->check(CLI::Range(uint64_t{1024}, uint64_t{65536}));
  convert
      ->add_option("--offset", convert_options.in.stream_offset,
                   "Where the stream begins in a mapped-ram IN, if not at the start")
      ->type_name("BYTES");
  convert
      ->add_option("--base", convert_options.in.bases,
                   "What Firecracker's diff is one of; for a chain of diffs, the next one first")
      ->type_name("FILE")
      ->allow_extra_args(false);
  convert->add_flag(
      "--full", convert_options.in.full,
      "IN without --base, or the last --base, is a full snapshot: its holes are zeros");
  convert
      ->add_option("--vmstate", convert_options.in.vmstate,
                   "Firecracker's other file; refused if it is none, or damaged")
      ->type_name("FILE");
  convert
      ->add_option("--like", convert_options.like,
                   "Take device state and other blocks from that mapped-ram file")
      ->type_name("FILE");
  convert
      ->add_option("--threads", convert_options.threads,
                   "How many read and write (default: as suits the machine)")
      ->check(CLI::Range(1u, 64u));
  convert
      ->add_option("--zero-pages", zero_pages,
                   "Who finds them for mapped-ram: all threads (default), one, or none")
      ->check(CLI::IsMember({"all", "one", "none"}));
  convert->add_flag("--direct-io", convert_options.direct, "Write OUT past the page cache");
  convert->add_flag(
      "--checksums", sidecar,
      "Also make checksums of mapped-ram's pages, as ramjet checksum does, in OUT.crc; or where\n"
      "--checksums=SIDECAR says");
  convert->add_flag("!--no-sync", convert_options.sync, "Do not wait until OUT is on the disk");
  convert->add_flag("--json", convert_options.json,
                    "Print one JSON object (schema ramjet.convert/1)");
  convert->footer(kConvertFooter);

  CLI::App* const demo = app.add_subcommand("demo",
                                            "Boots a small Linux guest, saves it, and restores it "
                                            "with and without ramjet. With --embedded\n"
                                            "the guest is a program of our own, on /dev/kvm or "
                                            "played by threads, and no QEMU is needed.");
  ramjet::DemoOptions demo_options;
  CLI::Option* const embedded =
      demo->add_flag("--embedded", demo_options.embedded, "A VM of our own instead of QEMU");
  demo->add_option("--memory", demo_options.memory_mib,
                   "Memory of the guest (default: 1024; embedded: 256, at most 3072)")
      ->type_name("MIB")
      ->check(CLI::Range(uint64_t{16}, uint64_t{65536}));
  demo->add_option("--vcpus", demo_options.vcpus, "vCPUs of the embedded VM (default: 1)")
      ->check(CLI::Range(1, 64))
      ->needs(embedded);
  demo->add_option("--rounds", demo_options.rounds, "Restores of each kind (default: 3)")
      ->check(CLI::Range(1, 100));
  demo->add_option("--accel", demo_options.accel, "QEMU's accelerator (default: tcg)")
      ->check(CLI::IsMember({"tcg", "kvm"}))
      ->excludes(embedded);
  demo->add_flag("--keep", demo_options.keep, "Leave the snapshot behind, and say where");
  demo->add_flag("--json", demo_options.json, "Print one JSON object (schema ramjet.demo/1)");

  CLI::App* const bench = app.add_subcommand("bench", kBenchDescription);
  ramjet::bench::BenchOptions bench_options;
  bool scaling = false;
  bench->add_option("SNAPSHOT", bench_options.snapshot, "What is loaded");
  CLI::Option* const against =
      bench
          ->add_option(
              "--against", bench_options.against,
              "Compare this build of ramjet with another one, and with itself; exit status 1\n"
              "if it is slower in anything")
          ->type_name("RAMJET")
          ->check(CLI::ExistingFile);
  bench
      ->add_option("--rounds", bench_options.rounds,
                   "Loads of each kind (default: 5; with --against, 20)")
      ->check(CLI::Range(1, 1000));
  bench
      ->add_option("--cache", bench_options.cache,
                   "What of the file is cached: warm, cold, both (default)")
      ->check(CLI::IsMember({"warm", "cold", "both"}));
  bench->add_option("--contestant", bench_options.contestants, "Only these (default: all)")
      ->type_name("LIST")
      ->delimiter(',')
      ->check(CLI::IsMember(ramjet::bench::ContestantNames()));
  bench->add_option("--workload", bench_options.workloads, "Only these (default: all)")
      ->type_name("LIST")
      ->delimiter(',')
      ->check(CLI::IsMember(ramjet::bench::WorkloadNames()));
  bench->add_option("--vcpus", bench_options.vcpus, "vCPUs of our VM (default: 1)")
      ->check(CLI::Range(1, 64));
  bench->add_option("--vcpu", bench_options.vcpu, "What they are: thread (default), kvm")
      ->check(CLI::IsMember({"thread", "kvm"}));
  bench->add_option("--memory", bench_options.memory_mib, "Memory of the guest (default: 1024)")
      ->type_name("MIB")
      ->check(CLI::Range(uint64_t{192}, uint64_t{65536}));
  bench->add_option("--fill", bench_options.fill_mib, "Of it random bytes (default: 424)")
      ->type_name("MIB")
      ->check(CLI::Range(uint64_t{8}, uint64_t{65536}));
  CLI::Option* const scaling_flag =
      bench
          ->add_flag("--scaling,!--no-scaling", scaling,
                     "Also resume sparse machines of 1 and 64 GiB (default: if QEMU takes part)")
          ->excludes(against);
  bench->add_flag("--json", bench_options.json,
                  "Print one JSON object (schema ramjet.bench/1; with --against, "
                  "ramjet.bench-against/1)");
  bench
      ->add_option("--report", bench_options.report_directory,
                   "Also write a page with pictures there: DIR/index.html")
      ->type_name("DIR")
      ->excludes(against);
  bench
      ->add_flag("--pictures", bench_options.pictures,
                 "Have the report's pictures in the JSON object: one more load of each kind")
      ->excludes(against);
  bench->add_flag("--quick", bench_options.quick, "A try: one round with a small guest, warm");
  bench->footer(kBenchFooter);

  // One load of `bench` in a process of its own.
  CLI::App* const bench_vm = app.add_subcommand("bench-vm", "")->group("");
  ramjet::bench::VmBenchOptions vm_options;
  vm_options.of.where = "vm";
  bench_vm->add_option("SNAPSHOT", vm_options.snapshot)->required();
  bench_vm->add_option("--contestant", vm_options.of.contestant)->required();
  bench_vm->add_option("--workload", vm_options.of.workload)->required();
  bench_vm->add_option("--cache", vm_options.of.cache)->required();
  bench_vm->add_option("--vcpus", vm_options.vcpus);
  bench_vm->add_option("--vcpu", vm_options.vcpu);
  bench_vm->add_option("--working-set", vm_options.working_set);
  bench_vm->add_option("--record", vm_options.record);
  bench_vm->add_flag("--picture", vm_options.picture);

  CLI::App* const workingset = app.add_subcommand("workingset", kWorkingSetDescription);
  workingset->require_subcommand(1);
  workingset->footer(kWorkingSetFooter);
  CLI::App* const show = workingset->add_subcommand(
      "show", "Says what is in a working set: how much of which block, and what comes first.");
  std::string snapshot;
  show->add_option("FILE", file, "The working set")->required();
  CLI::Option* const belongs =
      show->add_option("--snapshot", snapshot,
                       "Say, also by the exit status, whether it belongs to this snapshot")
          ->type_name("FILE");
  show->add_option("--offset", stream_offset,
                   "Where the stream begins in the snapshot, if not at the start")
      ->type_name("BYTES")
      ->needs(belongs);
  show->add_flag("--json", json, "Print one JSON object (schema ramjet.workingset/1)");
  CLI::App* const merge = workingset->add_subcommand("merge", kMergeDescription);
  std::string out;
  std::vector<std::string> files;
  merge->add_option("FILE", files, "Working sets of the same snapshot")->required();
  merge->add_option("-o,--output", out, "Where the union goes; may be one of them")
      ->type_name("FILE")
      ->required();

  CLI::App* const verify = app.add_subcommand("verify", kVerifyDescription);
  std::string checksums;
  verify->add_option("FILE", file, "The snapshot")->required();
  verify->add_option("--checksums", checksums, "What `ramjet checksum` wrote of it")
      ->type_name("SIDECAR");
  verify->add_flag("--json", json, "Print one JSON object (schema ramjet.verify/1)");
  CLI::App* const checksum =
      app.add_subcommand("checksum", "Writes checksums of a snapshot's pages to a small file.");
  checksum->add_option("FILE", file, "The snapshot")->required();
  checksum->add_option("SIDECAR", out, "Where they go (default: FILE.crc)");
  CLI::App* const diff = app.add_subcommand("diff", kDiffDescription);
  std::string other;
  diff->add_option("A", file, "A snapshot")->required();
  diff->add_option("B", other, "Another")->required();
  diff->add_flag("--json", json, "Print one JSON object (schema ramjet.diff/1)");

  // What comes after -- is the emulator's, whatever it looks like.
  char** const end = argv + argc;
  char** const separator = std::find(argv, end, std::string("--"));
  std::vector<std::string> behind_separator;
  if (separator != end) behind_separator.assign(separator + 1, end);
  run_options.command = bench_options.qemu_command = behind_separator;
  try {
    app.parse(static_cast<int>(separator - argv), argv);
    if (separator != end && !run->parsed() && !bench->parsed()) {
      throw CLI::ExtrasError({"--"});
    }
    if (separator != end && bench->parsed() && bench_options.snapshot.empty()) {
      throw CLI::RequiredError("SNAPSHOT, for there is something behind --,");
    }
    for (const std::string& contestant : bench_options.contestants) {
      if (against->count() > 0 && contestant != "ramjet" && contestant != "ramjet-ws") {
        throw CLI::ValidationError("--against", "compares ramjet and ramjet-ws, not " + contestant);
      }
    }
    if (run->parsed() && run_options.command.empty()) {
      throw CLI::RequiredError("-- EMULATOR [ARG...]");
    }
    save_options.checksums = SidecarOf(save_options.path, sidecar);
    convert_options.checksums = SidecarOf(convert_options.out, sidecar);
    ExpectNoneReplaced({{"FILE", save_options.path}, {"--checksums", save_options.checksums}}, {});
    if (checksum->parsed()) ExpectNoneReplaced({{"SIDECAR", out}}, {{"FILE", file}});
    ExpectNoneReplaced({{"--stats", run_options.stats_path}, {"--record", run_options.record_path}},
                       {{"--incoming", run_options.incoming},
                        {"--working-set", run_options.working_set},
                        {"--checksums", run_options.checksums}});
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    std::cerr << ramjet::ErrorLine(error.what()) << "Try: ramjet --help, ramjet run --help\n";
    return 2;
  }

  run_options.eager = eager == "on";
  run_options.whole_windows = whole_windows == "on";
  if (inspect->parsed()) return ramjet::RunInspect(file, {stream_offset, json, devices});
  if (run->parsed()) return ramjet::RunEmulator(run_options);
  if (save->parsed()) return ramjet::RunSave(save_options);
  if (convert->parsed()) {
    convert_options.in.format = ramjet::FormatOf(from);
    convert_options.to = *ramjet::FormatOf(to);
    convert_options.zero_detection = zero_pages == "all"   ? ramjet::ZeroDetection::kAllThreads
                                     : zero_pages == "one" ? ramjet::ZeroDetection::kOneThread
                                                           : ramjet::ZeroDetection::kNone;
    return ramjet::RunConvert(convert_options);
  }
  if (scaling_flag->count() > 0) bench_options.scaling = scaling;
  if (bench->parsed()) return ramjet::bench::RunBench(bench_options);
  if (bench_vm->parsed()) return ramjet::bench::RunVmProcess(vm_options);
  if (show->parsed()) return ramjet::ShowWorkingSet(file, snapshot, stream_offset, json);
  if (merge->parsed()) return ramjet::MergeWorkingSetFiles(files, out);
  if (verify->parsed()) return ramjet::VerifySnapshot(file, checksums, json);
  if (checksum->parsed()) {
    return ramjet::ChecksumSnapshot(file, out.empty() ? SidecarOf(file) : out);
  }
  if (diff->parsed()) return ramjet::DiffSnapshots(file, other, json);
  return ramjet::RunDemo(demo_options);
}
