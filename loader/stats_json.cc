#include "loader/stats_json.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace ramjet {
namespace {

using Json = nlohmann::ordered_json;

double Microseconds(uint64_t ns) { return static_cast<double>(ns) / 1000; }

Json OrNull(absl::Duration duration) {
  return duration == absl::InfiniteDuration() ? Json() : Json(absl::ToDoubleSeconds(duration));
}

Json PageCountsJson(const StatsContent& content, const LoadStats& stats) {
  return {
      {"total", content.lazy_pages},     {"eager", stats.eager.load()},
      {"queued", stats.queued.load()},   {"working_set", stats.working_set.load()},
      {"faulted", stats.faulted.load()}, {"zero", content.lazy_pages - content.lazy_nonzero_pages},
      {"removed", stats.removed.load()}, {"poisoned", stats.poisoned.load()},
      {"missing", content.missing_pages}};
}

Json FaultsJson(const LatencyHistogram& faults) {
  return {{"count", faults.count()},
          {"p50", Microseconds(faults.QuantileNs(0.5))},
          {"p90", Microseconds(faults.QuantileNs(0.9))},
          {"p99", Microseconds(faults.QuantileNs(0.99))},
          {"p999", Microseconds(faults.QuantileNs(0.999))},
          {"max", Microseconds(faults.max_ns())}};
}

}  // namespace

std::string FormatStats(const StatsContent& content, const LoadStats* stats) {
  static const LoadStats* const kNone = new LoadStats();
  const LoadStats& counted = stats != nullptr ? *stats : *kNone;
  Json blocks = Json::array();
  for (const StatsContent::Block& block : content.blocks) {
    blocks.push_back({{"idstr", block.idstr},
                      {"pages", block.pages},
                      {"nonzero", block.nonzero},
                      {"lazy", block.lazy}});
  }
  const std::string unread = content.missing_pages > 0 ? counted.unread().why : "";
  const Json json = {
      {"schema", "ramjet.stats/1"},
      {"mode", stats != nullptr && content.lazy ? "lazy" : "stock"},
      {"complete", content.complete},
      {"fallback", content.fallback.empty() ? Json() : Json(content.fallback)},
      {"blocks", std::move(blocks)},
      {"pages", PageCountsJson(content, counted)},
      {"seconds",
       {{"to_resume", OrNull(content.to_resume)},
        {"to_complete", OrNull(content.to_complete)},
        {"cpu", absl::ToDoubleSeconds(content.cpu)}}},
      {"fault_us", FaultsJson(counted.fault_ns)},
      {"window_us", FaultsJson(counted.window_ns)},
      {"read_retries", counted.read_retries.load()},
      {"no_memory", counted.no_memory.load()},
      {"unread", unread.empty() ? Json() : Json(unread)},
      {"rescued", counted.rescued.load()},
      {"errors", counted.errors()},
      {"notes", counted.notes()},
  };
  // File names and idstrs are whatever bytes somebody chose.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace ramjet
