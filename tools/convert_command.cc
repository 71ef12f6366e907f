#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <string>

#include "mappedram/snapshot_writer.h"
#include "tools/command_outputs.h"
#include "tools/commands.h"
#include "tools/convert.h"
#include "tools/guest_image.h"

namespace ramjet {
namespace {

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

}  // namespace

Command AddConvert(CLI::App& app) {
  struct Options : ConvertOptions {
    std::string from = {};
    std::string to_word = "mapped-ram";
    std::string zero_pages = "all";
    std::string sidecar = {};
  };
  const auto options = std::make_shared<Options>();
  CLI::App* const convert = app.add_subcommand("convert", kConvertDescription);
  convert->add_option("IN", options->in.path, "What is converted")->required();
  convert->add_option("OUT", options->out, "What becomes of it")->required();
  convert
      ->add_option("--from", options->from,
                   "What IN is; mapped-ram, libvirt and cloud-hypervisor are recognised")
      ->type_name("FORMAT")
      ->check(CLI::IsMember(ImageFormatNames()));
  convert->add_option("--to", options->to_word, "What OUT is to be (default: mapped-ram)")
      ->type_name("FORMAT")
      ->check(CLI::IsMember(ImageFormatNames()));
  convert
      ->add_option("--blocks", options->in.blocks,
                   "IN mapped-ram: these blocks first; to raw or firecracker: only these.\n"
                   "IN raw or firecracker: what it consists of, NAME:BYTES each, the last a NAME\n"
                   "(default: one block, \"ram\", or that of --like of the same length)")
      ->type_name("LIST")
      ->delimiter(',');
  convert
      ->add_option("--page-size", options->in.page_size,
                   "Of an IN that does not tell (default: 4096)")
      ->type_name("BYTES")
      ->check(CLI::Range(uint64_t{1024}, uint64_t{65536}));
  convert
      ->add_option("--offset", options->in.stream_offset,
                   "Where the stream begins in a mapped-ram IN, if not at the start")
      ->type_name("BYTES");
  convert
      ->add_option("--base", options->in.bases,
                   "What Firecracker's diff is one of; for a chain of diffs, the next one first")
      ->type_name("FILE")
      ->allow_extra_args(false);
  convert->add_flag(
      "--full", options->in.full,
      "IN without --base, or the last --base, is a full snapshot: its holes are zeros");
  convert
      ->add_option("--vmstate", options->in.vmstate,
                   "Firecracker's other file; refused if it is none, or damaged")
      ->type_name("FILE");
  convert
      ->add_option("--like", options->like,
                   "Take device state and other blocks from that mapped-ram file")
      ->type_name("FILE");
  convert
      ->add_option("--threads", options->threads,
                   "How many read and write (default: as suits the machine)")
      ->check(CLI::Range(1u, 64u));
  convert
      ->add_option("--zero-pages", options->zero_pages,
                   "Who finds them for mapped-ram: all threads (default), one, or none")
      ->check(CLI::IsMember({"all", "one", "none"}));
  convert->add_flag("--direct-io", options->direct, "Write OUT past the page cache");
  convert->add_flag(
      "--checksums", options->sidecar,
      "Also make checksums of mapped-ram's pages, as ramjet checksum does, in OUT.crc; or where\n"
      "--checksums=SIDECAR says");
  convert->add_flag("!--no-sync", options->sync, "Do not wait until OUT is on the disk");
  convert->add_flag("--json", options->json, "Print one JSON object (schema ramjet.convert/1)");
  convert->footer(kConvertFooter);
  return {convert, [options] {
            options->checksums = SidecarOf(options->out, options->sidecar);
            options->in.format = FormatOf(options->from);
            options->to = *FormatOf(options->to_word);
            options->zero_detection = options->zero_pages == "all"   ? ZeroDetection::kAllThreads
                                      : options->zero_pages == "one" ? ZeroDetection::kOneThread
                                                                     : ZeroDetection::kNone;
            return RunConvert(*options);
          }};
}

}  // namespace ramjet
