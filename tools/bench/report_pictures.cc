#include "tools/bench/report_pictures.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "tools/bench/report_text.h"

namespace ramjet::bench {
namespace {

using nlohmann::json;

// --- charts ---

struct Point {
  double x;
  double y;
};

struct Line {
  std::string contestant;
  std::string hover;
  std::vector<Point> points;  // along the axes, 0 to 1
  std::optional<Point> ring = {};
  bool ends = true;  // inside the picture
};

struct Tick {
  double at;  // along the axis, 0 to 1
  std::string label;
};

struct Axis {
  std::string name;
  std::vector<Tick> ticks;
};

// In units of the SVG, where text is 12 high.
constexpr double kWidth = 480;
constexpr double kHeight = 270;
constexpr double kLeft = 62;
constexpr double kRight = 24;
constexpr double kTop = 22;
constexpr double kBottom = 44;

double PixelX(double x) { return kLeft + std::clamp(x, 0.0, 1.0) * (kWidth - kLeft - kRight); }
double PixelY(double y) {
  return kHeight - kBottom - std::clamp(y, 0.0, 1.0) * (kHeight - kTop - kBottom);
}

// Leaves out what the eye could not tell apart.
std::string PathOf(const std::vector<Point>& points) {
  std::string path;
  Point last = {};
  for (size_t i = 0; i < points.size(); ++i) {
    const Point at = {PixelX(points[i].x), PixelY(points[i].y)};
    const bool near = std::abs(at.x - last.x) < 0.7 && std::abs(at.y - last.y) < 0.7;
    if (i > 0 && i + 1 < points.size() && near) continue;
    absl::StrAppendFormat(&path, "%c%.1f %.1f", i == 0 ? 'M' : 'L', at.x, at.y);
    last = at;
  }
  return path;
}

std::string Chart(const std::string& caption, const Axis& x, const Axis& y,
                  const std::vector<Line>& lines) {
  if (lines.empty()) return "";
  std::string svg = absl::StrFormat(
      "<figure><svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"%s\">"
      "<text class=\"axis\" x=\"2\" y=\"12\">%s</text>"
      "<text class=\"axis\" x=\"%.0f\" y=\"%.0f\" text-anchor=\"end\">%s</text>\n",
      kWidth, kHeight, Escape(caption), y.name, kWidth - kRight, kHeight - 6, x.name);
  for (const Tick& tick : y.ticks) {
    const double at = PixelY(tick.at);
    absl::StrAppendFormat(&svg,
                          "<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/><text x=\"%.1f\" y=\"%.1f\" "
                          "text-anchor=\"end\">%s</text>\n",
                          kLeft, at, kWidth - kRight, kLeft - 6, at + 4, tick.label);
  }
  for (const Tick& tick : x.ticks) {
    const double at = PixelX(tick.at);
    absl::StrAppendFormat(&svg,
                          "<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/><text x=\"%.1f\" y=\"%.1f\" "
                          "text-anchor=\"middle\">%s</text>\n",
                          at, PixelY(0), kTop, at, PixelY(0) + 16, tick.label);
  }
  for (const Line& line : lines) {
    const Point& end = line.points.back();
    absl::StrAppendFormat(&svg, "<g class=\"line %s\"><title>%s</title><path d=\"%s\"/>",
                          ClassOf(line.contestant), Escape(line.hover), PathOf(line.points));
    if (line.ring.has_value()) {
      absl::StrAppendFormat(&svg, "<circle class=\"ring\" cx=\"%.1f\" cy=\"%.1f\" r=\"5\"/>",
                            PixelX(line.ring->x), PixelY(line.ring->y));
    }
    if (line.ends) {
      absl::StrAppendFormat(&svg, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>", PixelX(end.x),
                            PixelY(end.y));
    }
    svg += "</g>\n";
  }
  absl::StrAppend(&svg, "</svg><figcaption>", Escape(caption), "</figcaption></figure>\n");
  return svg;
}

// The pairs of numbers in `pairs`; others are left out.
std::vector<Point> PointsOf(const json& pairs) {
  std::vector<Point> points;
  for (const json& pair : pairs) {
    if (!pair.is_array() || pair.size() != 2) continue;
    const std::optional<double> x = NumberOf(pair[0]);
    const std::optional<double> y = NumberOf(pair[1]);
    if (x.has_value() && y.has_value()) points.push_back({*x, *y});
  }
  return points;
}

// The height at `x` of a line through `points`, which rise in x.
double HeightAt(const std::vector<Point>& points, double x) {
  const auto after =
      std::find_if(points.begin(), points.end(), [&](const Point& point) { return point.x >= x; });
  if (after == points.end()) return points.back().y;
  if (after == points.begin() || after->x <= (after - 1)->x) return after->y;
  const Point before = *(after - 1);
  return before.y + (after->y - before.y) * (x - before.x) / (after->x - before.x);
}

// One line for each picture that has points in its member `key`.
std::vector<Line> LinesOf(const Pictures& pictures, const char* key) {
  std::vector<Line> lines;
  for (const json* picture : pictures) {
    Line line = {TextOf(Member(*picture, "contestant")), "", PointsOf(Member(*picture, key))};
    if (!line.points.empty()) lines.push_back(std::move(line));
  }
  return lines;
}

// "1.50 s" as "1.5 s": ticks are round numbers.
std::string TickLabel(std::string number) {
  const size_t point = number.find('.');
  const size_t unit = number.find(' ');
  if (point == std::string::npos || unit == std::string::npos) return number;
  size_t end = unit;
  while (number[end - 1] == '0') --end;
  if (end == point + 1) --end;
  return number.erase(end, unit - end);
}

// 1, 2 or 5 times a power of ten, so that about `count` of them fit into `range`.
double RoundStep(double range, int count) {
  const double rough = range / count;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  for (const double times : {1, 2, 5}) {
    if (power * times >= rough * 0.999) return power * times;
  }
  return power * 10;
}

// --- the memory map ---

struct Why {
  absl::string_view name;  // in the schema, and the class of its colour
  absl::string_view label;
};

// In the order of the legend; its first letter stands for each in the data that is hovered over.
constexpr std::array<Why, 5> kWhys = {{
    {"working-set", "of the working set: ahead of need, in the order recorded"},
    {"demand", "on demand: the guest touched it and had to wait"},
    {"eager", "eager: ahead of need, in the background"},
    {"present", "there before the guest ran, or not seen coming"},
    {"zero", "zero: nothing to load"},
}};

// Of brightness.
constexpr size_t kLevels = 6;

struct Cell {
  size_t why;                // of kWhys
  std::optional<double> ms;  // since the restore began
};

std::vector<std::optional<Cell>> CellsOf(const json& cells) {
  std::vector<std::optional<Cell>> result;
  for (const json& cell : cells) {
    result.emplace_back();
    if (!cell.is_array() || cell.empty()) continue;
    const std::string why = TextOf(cell[0]);
    for (size_t i = 0; i < kWhys.size(); ++i) {
      if (kWhys[i].name != why) continue;
      result.back() = {.why = i, .ms = cell.size() > 1 ? NumberOf(cell[1]) : std::nullopt};
    }
  }
  return result;
}

std::string HoverData(const std::vector<std::optional<Cell>>& cells) {
  std::string data;
  std::string token;
  size_t repeated = 0;
  const auto flush = [&] {
    if (repeated > 0) absl::StrAppend(&data, data.empty() ? "" : " ", token);
    if (repeated > 1) absl::StrAppend(&data, "*", repeated);
  };
  for (const std::optional<Cell>& cell : cells) {
    std::string next = cell.has_value() ? std::string(1, kWhys[cell->why].name[0]) : "-";
    if (cell.has_value() && cell->ms.has_value()) absl::StrAppendFormat(&next, "%.1f", *cell->ms);
    if (next != token) {
      flush();
      token = std::move(next);
      repeated = 0;
    }
    ++repeated;
  }
  flush();
  return data;
}

std::string MemoryMap(const json& picture, double ram_bytes) {
  const json& map = Member(picture, "map");
  const std::vector<std::optional<Cell>> cells = CellsOf(Member(map, "cells"));
  const auto columns =
      static_cast<size_t>(std::clamp(NumberOf(Member(map, "columns")).value_or(128), 1.0, 1024.0));
  const size_t rows = (cells.size() + columns - 1) / columns;

  double last_ms = 0;
  size_t known = 0;
  std::array<size_t, kWhys.size()> counts = {};
  for (const std::optional<Cell>& cell : cells) {
    if (!cell.has_value()) continue;
    ++known;
    ++counts[cell->why];
    last_ms = std::max(last_ms, cell->ms.value_or(0));
  }
  if (known == 0) return "";
  // One path of horizontal strokes for each colour and brightness.
  std::array<std::array<std::string, kLevels>, kWhys.size()> paths;
  const auto level_of = [&](const Cell& cell) {
    const double part = last_ms > 0 ? std::max(cell.ms.value_or(0), 0.0) / last_ms : 0;
    return std::min(static_cast<size_t>(part * kLevels), kLevels - 1);
  };
  for (size_t i = 0; i < cells.size();) {
    const size_t begin = i++;
    if (!cells[begin].has_value()) continue;
    const size_t why = cells[begin]->why;
    const size_t level = level_of(*cells[begin]);
    while (i < cells.size() && i % columns != 0 && cells[i].has_value() && cells[i]->why == why &&
           level_of(*cells[i]) == level) {
      ++i;
    }
    absl::StrAppendFormat(&paths[why][level], "M%u %u.5h%u", begin % columns, begin / columns,
                          i - begin);
  }

  const std::string contestant = TextOf(Member(picture, "contestant"));
  std::string shares;
  for (size_t why = 0; why < kWhys.size(); ++why) {
    if (counts[why] == 0) continue;
    const double percent =
        100.0 * static_cast<double>(counts[why]) / static_cast<double>(cells.size());
    absl::StrAppend(&shares, shares.empty() ? "" : ", ",
                    absl::StrReplaceAll(kWhys[why].name, {{"-", " "}}), " ", FormatDigits(percent),
                    " %");
  }
  if (last_ms > 0) absl::StrAppend(&shares, "; the last after ", FormatSeconds(last_ms / 1000));
  std::string html = absl::StrFormat(
      "<figure class=\"%s\"><figcaption><b>%s</b>%s</figcaption>"
      "<svg class=\"map\" viewBox=\"0 0 %u %u\" role=\"img\" aria-label=\"%s\" "
      "data-columns=\"%u\" data-cell-mib=\"%.6g\" data-cells=\"%s\">\n",
      ClassOf(contestant), Escape(contestant), shares, columns, rows,
      Escape(absl::StrCat("memory map of ", contestant, ": ", shares)), columns,
      ram_bytes / static_cast<double>(cells.size()) / (1 << 20), HoverData(cells));
  for (size_t why = 0; why < kWhys.size(); ++why) {
    for (size_t level = 0; level < kLevels; ++level) {
      if (paths[why][level].empty()) continue;
      absl::StrAppendFormat(&html, "<path class=\"%s l%u\" d=\"%s\"/>\n", kWhys[why].name, level,
                            paths[why][level]);
    }
  }
  return html + "</svg></figure>\n";
}

}  // namespace

std::string ResidentChart(const Pictures& pictures, const std::map<std::string, double>& resumed,
                          const std::string& caption) {
  std::vector<Line> lines = LinesOf(pictures, "resident");
  if (lines.empty()) return "";
  double bytes = 1 << 20;
  std::vector<double> ends;
  for (Line& line : lines) {
    std::vector<Point>& points = line.points;
    // Up to when nothing more came.
    while (points.size() > 2 && points[points.size() - 2].y >= points.back().y * 0.999) {
      points.pop_back();
    }
    for (const Point& point : points) bytes = std::max(bytes, point.y);
    ends.push_back(points.back().x);
    line.hover = absl::StrCat(line.contestant, ": ", FormatBytes(points.back().y),
                              " resident after ", FormatSeconds(points.back().x));
  }
  // One that takes very long would press the others together.
  std::sort(ends.begin(), ends.end());
  const double seconds = std::max(std::min(ends.back(), 3 * ends[(ends.size() - 1) / 2]), 1e-3);
  std::string beyond;
  for (Line& line : lines) {
    std::vector<Point>& points = line.points;
    if (points.back().x <= seconds) continue;
    line.ends = false;
    absl::StrAppend(&beyond, "; ", line.contestant, " ends at ", FormatSeconds(points.back().x));
    const double height = HeightAt(points, seconds);
    std::erase_if(points, [&](const Point& point) { return point.x >= seconds; });
    points.push_back({seconds, height});
  }
  for (Line& line : lines) {
    const auto found = resumed.find(line.contestant);
    if (found == resumed.end() || found->second > seconds) continue;
    line.ring = {found->second, HeightAt(line.points, found->second)};
  }
  Axis time = {"time since the restore began", {}};
  const double step = RoundStep(seconds, 6);
  for (int i = 0; i * step <= seconds; ++i) {
    time.ticks.push_back({i * step / seconds, TickLabel(FormatSeconds(i * step))});
  }
  Axis memory = {"resident memory", {}};
  const double bytes_step = std::exp2(std::ceil(std::log2(bytes / 5)));
  bytes *= 1.04;
  for (int i = 0; i * bytes_step <= bytes; ++i) {
    memory.ticks.push_back({i * bytes_step / bytes, i == 0 ? "0" : FormatBytes(i * bytes_step)});
  }
  for (Line& line : lines) {
    for (Point& point : line.points) point = {point.x / seconds, point.y / bytes};
    if (line.ring.has_value()) line.ring = {line.ring->x / seconds, line.ring->y / bytes};
  }
  return Chart(caption + beyond, time, memory, lines);
}

std::string StallChart(const Pictures& pictures, const std::string& caption) {
  std::vector<Line> lines = LinesOf(pictures, "stalls");
  if (lines.empty()) return "";
  constexpr double kLeastUs = 0.1;
  double low = 1e12;
  double high = kLeastUs;
  for (Line& line : lines) {
    for (Point& point : line.points) {
      point.x = std::max(point.x, kLeastUs);
      low = std::min(low, point.x);
      high = std::max(high, point.x);
    }
    line.hover = absl::StrCat(line.contestant, ": the longest stall is ",
                              FormatSeconds(line.points.back().x / 1e6));
  }
  const double first = std::floor(std::log10(low));
  const double last = std::max(std::ceil(std::log10(high)), first + 1);
  Axis time = {"how long the guest waited for a page (logarithmic)", {}};
  for (int i = 0; i <= last - first; ++i) {
    const double decade = first + i;
    time.ticks.push_back(
        {(decade - first) / (last - first), TickLabel(FormatSeconds(std::pow(10, decade - 6)))});
  }
  // Logarithmic in what is left, so that the slowest, who matter most, have room.
  constexpr double kNines = 3;
  const auto height = [](double fraction) {
    return -std::log10(std::max(1 - fraction, std::pow(10, -kNines))) / kNines;
  };
  const Axis share = {"waits no longer than that",
                      {{height(0), "0"},
                       {height(0.5), "50 %"},
                       {height(0.9), "90 %"},
                       {height(0.99), "99 %"},
                       {height(0.999), "99.9 %"}}};
  for (Line& line : lines) {
    for (Point& point : line.points) {
      point = {(std::log10(point.x) - first) / (last - first), height(std::min(point.y, 1.0))};
    }
  }
  return Chart(caption, time, share, lines);
}

std::string MemoryMaps(const Pictures& pictures, double ram_bytes) {
  std::string maps;
  for (const json* picture : pictures) absl::StrAppend(&maps, MemoryMap(*picture, ram_bytes));
  return maps;
}

std::string MemoryMapLegend() {
  std::string legend = "<ul class=\"legend\">";
  for (const Why& why : kWhys) {
    absl::StrAppend(&legend, "<li><svg class=\"swatch\" viewBox=\"0 0 6 1\">");
    for (size_t level = 0; level < (why.name == "zero" ? 1 : kLevels); ++level) {
      absl::StrAppendFormat(&legend, "<path class=\"%s l%u\" d=\"M%u .5h%u\"/>", why.name, level,
                            level, why.name == "zero" ? 6 : 1);
    }
    absl::StrAppend(&legend, "</svg> ", why.label, "</li>");
  }
  return legend + "</ul>\n";
}

}  // namespace ramjet::bench
