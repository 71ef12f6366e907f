#include "tools/bench/ratios.h"

#include <functional>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace ramjet::bench {
namespace {

// With which ramjet loads ahead by default: from the page cache it leaves a processor to the guest.
// The limits are measured with powers of two.
int EagerThreads(const Judged& judged) { return judged.cpus >= 5 ? 4 : judged.cpus >= 3 ? 2 : 1; }
int EagerThreadsOfADisk(const Judged& judged) { return judged.cpus >= 5 ? 4 : 2; }

using Side = std::optional<Spread>;

constexpr int kLeastRounds = 3;  // fewer show no spread
constexpr double kMib = 1 << 20;

struct Bar {
  bool at_least;
  double value;

  bool Met(double measured) const { return at_least ? measured >= value : measured <= value; }
  std::string ToString() const { return absl::StrFormat("%s %.4g", at_least ? ">=" : "<=", value); }
};
constexpr Bar AtLeast(double value) { return {true, value}; }
constexpr Bar AtMost(double value) { return {false, value}; }

// a - b, each quantity of which may be off by its own spread.
Side Minus(const Side& a, const Side& b) {
  if (!a || !b) return std::nullopt;
  return Spread{a->median - b->median, a->min - b->max, a->max - b->min, a->low - b->high,
                a->high - b->low};
}

// factor / a: a rate from a time.
Side Inverse(double factor, const Side& a) {
  if (!a || a->low <= 0) return std::nullopt;
  return Spread{factor / a->median, factor / a->max, factor / a->min, factor / a->high,
                factor / a->low};
}

Side Times(const Side& a, double factor) {
  if (!a) return std::nullopt;
  return Spread{a->median * factor, a->min * factor, a->max * factor, a->low * factor,
                a->high * factor};
}

class RatioList {
 public:
  RatioList(const Judged& judged, std::string cache) : judged_(judged), cache_(std::move(cache)) {}

  Side Qemu(const char* contestant, const char* column) const {
    return judged_.summary.Find({contestant, "qemu", "first-work", cache_}, column);
  }
  Side Vm(const char* contestant, const char* workload, const char* column) const {
    return judged_.summary.Find({contestant, "vm", workload, cache_}, column);
  }
  bool warm() const { return cache_ == "warm"; }

  // Nothing, if either side was not run.
  void Divide(const std::string& name, const Side& over, const Side& under, Bar bar,
              const std::string& limit = "") {
    if (!over || !under || under->median <= 0) return;
    const double least = under->high > 0 ? over->low / under->high : 0;
    const double most =
        under->low > 0 ? over->high / under->low : std::numeric_limits<double>::infinity();
    Judge(name, over->median / under->median, least, most, bar, bar.ToString(), limit);
  }
  // The value itself against the bar, in `unit`.
  void Compare(const std::string& name, const Side& value, Bar bar, const char* unit) {
    if (!value) return;
    Judge(name, value->median, value->low, value->high, bar,
          absl::StrCat(bar.ToString(), " ", unit), "");
  }

  std::vector<Ratio> Take() && { return std::move(ratios_); }

 private:
  void Judge(const std::string& name, double value, double least, double most, Bar bar,
             std::string bar_words, const std::string& limit) {
    const bool met = bar.Met(value);
    ratios_.push_back(
        {name, cache_, value, std::move(bar_words), met,
         judged_.rounds >= kLeastRounds && bar.Met(least) == met && bar.Met(most) == met,
         met ? "" : limit});
  }

  const Judged& judged_;
  const std::string cache_;
  std::vector<Ratio> ratios_;
};

// At best: what nobody has done better in this run.
std::string InWords(const Judged& judged, const char* name, int threads = 1) {
  const Side limit = judged.limits.Find(name, threads);
  if (!limit) return "";
  return absl::StrFormat("%s (%d thread%s) %.2f GB/s at best, %.0f ms for the content. ", name,
                         threads, threads == 1 ? "" : "s", limit->max,
                         static_cast<double>(judged.nonzero_bytes) / limit->max / 1e6);
}

// What nobody can be better than.
std::string BestInWords(const Side& stock, const Side& best, const char* what) {
  if (!stock || !best || best->median <= 0) return "";
  return absl::StrFormat("%s %.1f ms, so %.1f at best. ", what, best->median * 1e3,
                         stock->median / best->median);
}

// Why a guest is slower while its memory is loaded: what a loading thread and its like, in the
// vCPU's place, cost each other.
std::string NeighbourInWords(const Judged& judged) {
  const Side alone = judged.limits.Find("fill", 1);
  const Side two = judged.limits.Find("fill", 2);
  if (!alone || !two) return "";
  return absl::StrFormat(
      "The rest is loaded meanwhile: of two threads that fill memory each takes %.2f times as long "
      "as one. ",
      2 * alone->max / two->max);
}

// Why a stall is longer than that of one page.
std::string WindowsInWords(const Judged& judged, bool warm, const Side& stalls,
                           const Side& stalls_of_pages) {
  const Side rate = judged.limits.Find(warm ? "fill" : "fill-direct");
  if (!rate || !stalls || !stalls_of_pages) return "";
  constexpr double kWindowBytes = 2 << 20;
  return absl::StrFormat(
      "A touch may bring 2 MiB, which take %.2f ms at %.2f GB/s: %.0f demand faults instead of "
      "%.0f. ",
      kWindowBytes / rate->median / 1e6, rate->median, stalls->median, stalls_of_pages->median);
}

// Why the stall of a page is longer while others are loaded.
std::string PagesInWords(const Judged& judged, bool warm) {
  if (warm) {
    return absl::StrFormat(
               "The vCPUs, the thread that serves them and what loads ahead share %d processors. ",
               judged.cpus) +
           NeighbourInWords(judged);
  }
  const Side disk = judged.limits.Find("disk-direct", 8);
  if (!disk) return "";
  constexpr double kBefore = 256 << 10;  // of what loads ahead, while faults come
  return absl::StrFormat("The disk may be busy with 256 KiB when a fault comes: %.2f ms. ",
                         kBefore / disk->max / 1e6);
}

// Why a guest still faults for what its working set has.
std::string SetInWords(const Side& with, const Side& without, const Side& page_by_page) {
  if (!with || !without) return "";
  return absl::StrFormat(
      "%.0f demand faults and %.0f: the guest runs at once, before its set is there, and without "
      "one a touch may bring 2 MiB, too%s. ",
      with->median, without->median,
      page_by_page ? absl::StrFormat(" (page by page: %.0f)", page_by_page->median) : "");
}

// Why it takes longer to begin: what does not come in one thread needs others.
std::string BeginningInWords(const Judged& judged, const Side& ramjet, const Side& one_page) {
  const Side start = judged.limits.Find("thread-start");
  if (!start || !ramjet || !one_page) return "";
  return absl::StrFormat(
      "%.2f ms more: it looks whether the memory is what it is said to be, and starts %d threads "
      "instead of one, %.3f ms each. ",
      (ramjet->median - one_page->median) * 1e3, 1 + EagerThreadsOfADisk(judged),
      start->median / 1e3);
}

// Why one loop is slower than another that does the same.
std::string WakingInWords(const Judged& judged) {
  const Side same = judged.limits.Find("thread-wake", 1);
  const Side other = judged.limits.Find("thread-wake", 2);
  if (!same || !other) return "";
  return absl::StrFormat(
      "Each fault wakes the guest, and its handler unless that is awake: %.1f us on the same "
      "processor, %.1f on another; the kernel chooses. ",
      same->median, other->median);
}

// What a machine of that size costs QEMU itself.
std::string FloorsInWords(const Judged& judged) {
  if (judged.sparse_1_gib.floor.empty() || judged.sparse_64_gib.floor.empty()) return "";
  const double small = SpreadOf(judged.sparse_1_gib.floor).median;
  const double large = SpreadOf(judged.sparse_64_gib.floor).median;
  return absl::StrFormat("The floors are %.1f and %.1f ms: %.2f. ", small * 1e3, large * 1e3,
                         large / small);
}

void AddQemu(const Judged& judged, RatioList* list) {
  const bool warm = list->warm();
  const std::string neighbour = warm ? NeighbourInWords(judged) : "";
  const std::string loading = warm
                                  ? InWords(judged, "fill", EagerThreads(judged)) + neighbour
                                  : InWords(judged, "disk-direct", 8) +
                                        InWords(judged, "fill-direct", EagerThreadsOfADisk(judged));
  const Side stock_resume = list->Qemu("stock", "to_resume");
  const Side ramjet_resume = list->Qemu("ramjet", "to_resume");
  const Side stock_work = list->Qemu("stock", "to_first_work");
  const Side ws_work = list->Qemu("ramjet-ws", "to_first_work");
  const Side floor = list->Qemu("floor", "to_resume");
  const Side stock_work_after = list->Qemu("stock", kWorkAfterResume);
  const std::string best_work =
      floor && stock_work_after
          ? BestInWords(stock_work, SpreadOf({floor->median + stock_work_after->median}),
                        "The floor and stock's work after its resume take") +
                neighbour
          : "";
  list->Divide("resume: stock / ramjet", stock_resume, ramjet_resume, AtLeast(warm ? 30 : 50),
               BestInWords(stock_resume, floor, "The floor is"));
  list->Compare("resume beyond its floor", Times(Minus(ramjet_resume, floor), 1e3), AtMost(2),
                "ms");
  list->Divide("resume + first work: stock / ramjet-ws", stock_work, ws_work,
               AtLeast(warm ? 1.8 : 3), best_work);
  list->Divide("resume + first work: stock / ramjet", stock_work,
               list->Qemu("ramjet", "to_first_work"), AtLeast(warm ? 1.8 : 1.6), best_work);
  list->Divide("first work after resume: ramjet-ws / stock",
               list->Qemu("ramjet-ws", kWorkAfterResume), stock_work_after,
               AtMost(warm ? 1.1 : 1.3), warm ? neighbour : loading);
  list->Divide("all resident: ramjet / stock", list->Qemu("ramjet", "to_resident"),
               list->Qemu("stock", "to_resident"), AtMost(warm ? 1.0 : 0.8), loading);
  const Side ws_faults = list->Qemu("ramjet-ws", "demand_faults");
  const Side faults = list->Qemu("ramjet", "demand_faults");
  list->Divide("demand faults: ramjet-ws / ramjet", ws_faults, faults, AtMost(0.02),
               SetInWords(ws_faults, faults, std::nullopt));
  list->Divide("huge pages: ramjet / stock", list->Qemu("ramjet", "huge_bytes"),
               list->Qemu("stock", "huge_bytes"), AtLeast(0.9));
  list->Divide("CPU seconds: ramjet / stock", list->Qemu("ramjet", "cpu"),
               list->Qemu("stock", "cpu"), AtMost(1.3), loading);
  list->Compare(
      "peak memory: ramjet beyond stock",
      Times(Minus(list->Qemu("ramjet", "peak_bytes"), list->Qemu("stock", "peak_bytes")), 1 / kMib),
      AtMost(16 + static_cast<double>(judged.pages) / 2 / kMib), "MiB");
}

void AddVm(const Judged& judged, RatioList* list) {
  const bool warm = list->warm();
  const Side rate = Inverse(static_cast<double>(judged.vm_nonzero_bytes) / 1e9,
                            list->Vm("ramjet", "idle", "to_resident"));
  if (warm) {
    list->Divide("eager rate / bare UFFDIO_COPY loop", rate,
                 judged.limits.Find("uffdio-copy", EagerThreads(judged)), AtLeast(0.85),
                 InWords(judged, "fill", EagerThreads(judged)));
    list->Divide("fault p50: ramjet / bare loop", list->Vm("ramjet-demand", "faults", "stall_p50"),
                 judged.limits.Find("fault-loop-p50"), AtMost(1.25), WakingInWords(judged));
  } else {
    list->Divide("eager rate / O_DIRECT read", rate, judged.limits.Find("disk-direct", 8),
                 AtLeast(0.85), InWords(judged, "fill-direct", EagerThreadsOfADisk(judged)));
  }
  list->Divide("fault p99: while loading ahead / without",
               list->Vm("ramjet", "faults", "stall_p99"),
               list->Vm("ramjet-demand", "faults", "stall_p99"), AtMost(3),
               WindowsInWords(judged, warm, list->Vm("ramjet", "faults", "demand_faults"),
                              list->Vm("ramjet-demand", "faults", "demand_faults")));
  list->Divide("fault p99, page by page: while loading ahead / without",
               list->Vm("ramjet-pages", "faults", "stall_p99"),
               list->Vm("ramjet-demand", "faults", "stall_p99"), AtMost(3),
               PagesInWords(judged, warm));
  const Side ws_faults = list->Vm("ramjet-ws", "read-25", "demand_faults");
  const Side faults = list->Vm("ramjet", "read-25", "demand_faults");
  const Side page_by_page = list->Vm("one-page", "read-25", "demand_faults");
  list->Divide("demand faults, read-25: ramjet-ws / ramjet", ws_faults, faults, AtMost(0.02),
               SetInWords(ws_faults, faults, page_by_page));
  list->Divide("demand faults, read-25: ramjet-ws / one-page", ws_faults, page_by_page,
               AtMost(0.02));
  if (warm) {
    list->Divide(
        "write-25: ramjet-ws / map-private", list->Vm("ramjet-ws", "write-25", "to_workload"),
        list->Vm("map-private", "write-25", "to_workload"), AtMost(1.0), NeighbourInWords(judged));
  }
  list->Divide("read-25: ramjet-ws / map-private", list->Vm("ramjet-ws", "read-25", "to_workload"),
               list->Vm("map-private", "read-25", "to_workload"), AtMost(warm ? 3 : 0.7));
  for (const char* const workload : {"touch-all", "read-25", "write-25", "zipf"}) {
    const std::string windows =
        WindowsInWords(judged, warm, list->Vm("ramjet", workload, "demand_faults"),
                       list->Vm("one-page", workload, "demand_faults"));
    const std::string beginning =
        BeginningInWords(judged, list->Vm("ramjet", workload, "to_resume"),
                         list->Vm("one-page", workload, "to_resume"));
    const std::string none;
    for (const auto& [column, words, bar, limit] :
         {std::tuple("to_resume", "resume", 1.0, &beginning),
          std::tuple("to_first_work", "first work", 1.0, &windows),
          std::tuple("to_workload", "workload", 1.0, &none),
          std::tuple("to_resident", "all resident", 0.5, &none),
          std::tuple("stall_p50", "fault p50", 1.0, &windows),
          std::tuple("stall_p99", "fault p99", 1.0, &windows),
          std::tuple("cpu", "CPU seconds", 1.0, &none)}) {
      list->Divide(absl::StrCat(words, ", ", workload, ": ramjet / one-page"),
                   list->Vm("ramjet", workload, column), list->Vm("one-page", workload, column),
                   AtMost(bar), *limit);
    }
  }
}

}  // namespace

std::vector<Ratio> ComputeRatios(const Judged& judged) {
  std::vector<Ratio> all;
  for (const char* const cache : {"warm", "cold"}) {
    RatioList list(judged, cache);
    AddQemu(judged, &list);
    AddVm(judged, &list);
    for (Ratio& ratio : std::move(list).Take()) all.push_back(std::move(ratio));
  }
  if (!judged.sparse_1_gib.ramjet.empty() && !judged.sparse_64_gib.ramjet.empty()) {
    RatioList list(judged, "warm");
    const Spread large = SpreadOf(judged.sparse_64_gib.ramjet);
    list.Divide("resume: sparse 64 GiB / 1 GiB", large, SpreadOf(judged.sparse_1_gib.ramjet),
                AtMost(2), FloorsInWords(judged));
    list.Compare("resume: sparse 64 GiB", Times(large, 1e3), AtMost(20), "ms");
    for (Ratio& ratio : std::move(list).Take()) all.push_back(std::move(ratio));
  }
  return all;
}

nlohmann::json ToJson(const std::vector<Ratio>& ratios) {
  nlohmann::json objects = nlohmann::json::array();
  for (const Ratio& ratio : ratios) {
    objects.push_back({{"name", ratio.name},
                       {"cache", ratio.cache},
                       {"value", ratio.value},
                       {"bar", ratio.bar},
                       {"met", ratio.met},
                       {"reliable", ratio.reliable},
                       {"note", ratio.note}});
  }
  return objects;
}

}  // namespace ramjet::bench
