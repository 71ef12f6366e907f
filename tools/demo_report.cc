#include "tools/demo_report.h"

#include <sys/utsname.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace ramjet {
namespace {

using nlohmann::json;

constexpr char kColdBy[] = "posix_fadvise(DONTNEED) after fsync";
constexpr CacheState kCacheStates[] = {CacheState::kWarm, CacheState::kCold};

const char* NameOf(Loader loader) { return loader == Loader::kStock ? "stock" : "ramjet"; }
const char* NameOf(CacheState cache) { return cache == CacheState::kWarm ? "warm" : "cold"; }

double Ratio(double stock, double ramjet) { return ramjet > 0 ? stock / ramjet : 0; }

struct Machine {
  std::string kernel;
  int64_t cpus = 0;
  uint64_t memory_bytes = 0;
};

Machine ThisMachine() {
  utsname name = {};
  uname(&name);
  const auto pages = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES));
  return {absl::StrCat(name.sysname, " ", name.release), sysconf(_SC_NPROCESSORS_ONLN),
          pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE))};
}

std::string Time(double seconds) {
  if (seconds < 1) return absl::StrFormat("%.1f ms", seconds * 1e3);
  return absl::StrFormat("%.2f s", seconds);
}

// One row: what stock needs, what ramjet needs, and how many times less that is; warm, then cold.
std::string TimeRow(const char* label, const Medians (&stock)[2], const Medians (&ramjet)[2],
                    double Medians::*value) {
  std::string row = absl::StrFormat("%-20s", label);
  for (int i = 0; i < 2; ++i) {
    absl::StrAppendFormat(&row, "%12s%12s%8.1fx", Time(stock[i].*value), Time(ramjet[i].*value),
                          Ratio(stock[i].*value, ramjet[i].*value));
  }
  return row + "\n";
}

bool Embedded(const DemoResult& result) { return result.qemu_version.empty(); }

std::string DescribeVmm(const DemoResult& result) {
  if (!Embedded(result)) {
    return absl::StrFormat("QEMU %s (%s, %s)", result.qemu_version, result.guest.machine,
                           result.guest.accel);
  }
  return absl::StrFormat(
      "embedded VM (%d vCPU%s, %s)\n%sStock: reads the file before it runs.", result.vcpus,
      result.vcpus == 1 ? "" : "s", result.guest.accel,
      result.backend_reason.empty() ? "" : absl::StrCat("Not KVM: ", result.backend_reason, ".\n"));
}

json GuestJson(const DemoResult& result) {
  json guest = {{"machine", result.guest.machine},
                {"accel", result.guest.accel},
                {"memory_bytes", result.guest.memory_mib << 20},
                {"random_bytes", result.guest.fill_mib << 20}};
  if (!Embedded(result)) return guest;
  guest["vcpus"] = result.vcpus;
  guest["accel_reason"] = result.backend_reason.empty() ? json() : json(result.backend_reason);
  return guest;
}

json ToJson(const Medians& medians) {
  return {{"to_resume_s", medians.to_resume_s},     {"to_first_work_s", medians.to_first_work_s},
          {"to_resident_s", medians.to_resident_s}, {"faults", medians.faults},
          {"fault_p50_us", medians.fault_p50_us},   {"fault_p99_us", medians.fault_p99_us}};
}

json ToJson(const Restore& restore) {
  return {{"round", restore.round},
          {"cache", NameOf(restore.cache)},
          {"loader", NameOf(restore.loader)},
          {"to_resume_s", restore.to_resume_s},
          {"to_first_work_s", restore.to_first_work_s},
          {"to_resident_s", restore.to_resident_s},
          {"stats", restore.stats}};
}

}  // namespace

std::string DemoTable(const DemoResult& result) {
  const Machine machine = ThisMachine();
  Medians stock[2];
  Medians ramjet[2];
  for (int i = 0; i < 2; ++i) {
    stock[i] = MediansOf(result.restores, Loader::kStock, kCacheStates[i]);
    ramjet[i] = MediansOf(result.restores, Loader::kRamjet, kCacheStates[i]);
  }
  std::string table = absl::StrFormat(
      "%s, %d CPUs, %.1f GiB; %s\n"
      "Guest of %d MiB, %d MiB of them random; its snapshot has %d MiB. Medians of %d rounds.\n"
      "Cold: the snapshot is dropped from the page cache by %s.\n\n",
      machine.kernel, machine.cpus, static_cast<double>(machine.memory_bytes) / (1 << 30),
      DescribeVmm(result), result.guest.memory_mib, result.guest.fill_mib,
      result.snapshot_bytes >> 20, result.rounds, kColdBy);
  absl::StrAppendFormat(&table, "%-20s%12s%12s%9s%12s%12s%9s\n", "", "stock", "ramjet", "warm",
                        "stock", "ramjet", "cold");
  table += TimeRow("time to resume", stock, ramjet, &Medians::to_resume_s);
  table += TimeRow("first work of guest", stock, ramjet, &Medians::to_first_work_s);
  table += TimeRow("all memory resident", stock, ramjet, &Medians::to_resident_s);
  const auto lazy_row = [&](const char* label, double Medians::*value, const char* unit) {
    absl::StrAppendFormat(&table, "%-20s%12s%12s%9s%12s%12s\n", label, "-",
                          absl::StrFormat("%.0f%s", ramjet[0].*value, unit), "", "-",
                          absl::StrFormat("%.0f%s", ramjet[1].*value, unit));
  };
  lazy_row("faults served", &Medians::faults, "");
  lazy_row("a fault, median", &Medians::fault_p50_us, " us");
  lazy_row("a fault, 99 of 100", &Medians::fault_p99_us, " us");
  absl::StrAppendFormat(&table, "\nequal memory: %s (%s)\n", result.equal_memory ? "yes" : "NO",
                        Embedded(result) ? "the guest's own sum of all its RAM, each restore"
                                         : "sha256 of all guest RAM, restored both ways");
  return table;
}

json DemoJson(const DemoResult& result) {
  const Machine machine = ThisMachine();
  json medians;
  for (const CacheState cache : kCacheStates) {
    const Medians stock = MediansOf(result.restores, Loader::kStock, cache);
    const Medians ramjet = MediansOf(result.restores, Loader::kRamjet, cache);
    medians[NameOf(cache)] = {
        {"stock", ToJson(stock)},
        {"ramjet", ToJson(ramjet)},
        {"stock_over_ramjet",
         {{"to_resume", Ratio(stock.to_resume_s, ramjet.to_resume_s)},
          {"to_first_work", Ratio(stock.to_first_work_s, ramjet.to_first_work_s)},
          {"to_resident", Ratio(stock.to_resident_s, ramjet.to_resident_s)}}}};
  }
  json restores = json::array();
  for (const Restore& restore : result.restores) restores.push_back(ToJson(restore));
  return {{"schema", "ramjet.demo/1"},
          {"kernel", machine.kernel},
          {"machine", {{"cpus", machine.cpus}, {"memory_bytes", machine.memory_bytes}}},
          {"qemu", Embedded(result) ? json() : json(result.qemu_version)},
          {"guest", GuestJson(result)},
          {"snapshot_bytes", result.snapshot_bytes},
          {"cold_by", kColdBy},
          {"rounds", result.rounds},
          {"restores", restores},
          {"medians", medians},
          {"equal_memory", result.equal_memory}};
}

}  // namespace ramjet
