#include "mappedram/vmstate/loops.h"

namespace ramjet::vmstate {

LoopReader::LoopReader(Reader& in, LoopForm form, size_t element_bytes, uint64_t at_most)
    : in_(in), form_(form), at_most_(at_most) {
  if (form_.count_bytes == 0) return;
  count_ = in_.ReadBigEndian(form_.count_bytes);
  if (count_ > at_most_) in_.Fail(count_, " elements are more than ", at_most_);
  in_.Expect(count_, element_bytes + (form_.markers ? 1 : 0));
}

bool LoopReader::Next() {
  if (!in_.ok()) return false;
  const bool counted = form_.count_bytes != 0;
  bool more = taken_ < count_;
  if (form_.markers) {
    const uint64_t marker = in_.ReadBigEndian(1);
    if (marker > 1) in_.Fail("marker ", marker, " is neither 0 nor 1");
    if (counted && (marker == 1) != more) {
      in_.Fail(more ? "only " : "more than ", taken_, " elements, where their count is ", count_);
    }
    more = marker == 1;
    if (more && taken_ == at_most_) in_.Fail("more than ", at_most_, " elements");
  }
  if (!more || !in_.ok()) return false;
  ++taken_;
  return true;
}

LoopWriter::LoopWriter(Writer& out, LoopForm form, uint64_t count, uint64_t at_most)
    : out_(out), form_(form) {
  const size_t bits = 8 * form_.count_bytes;
  const bool fits = bits == 0 || bits == 64 || count >> bits == 0;
  if (count > at_most || !fits) out_.Fail(count, " elements are too many");
  out_.WriteBigEndian(count, form_.count_bytes);
}

void LoopWriter::Next() {
  if (form_.markers) out_.WriteBigEndian(1, 1);
}

void LoopWriter::End() {
  if (form_.markers) out_.WriteBigEndian(0, 1);
}

}  // namespace ramjet::vmstate
