// The C face's queues of numbered buffers.
#include <cerrno>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "loader/c_abi.h"
#include "loader/indexed_buffers.h"

using ramjet::c_abi::BadStruct;
using ramjet::c_abi::Fail;
using ramjet::c_abi::Read;
using ramjet::c_abi::Result;
using ramjet::c_abi::ResultOfCallbacks;

int ramjet_buffers_open(const ramjet_buffers_options* options, ramjet_buffers** buffers) {
  if (buffers == nullptr) return Fail(EINVAL, "buffers is NULL");
  *buffers = nullptr;
  const auto given = Read(options);
  if (!given) return BadStruct("ramjet_buffers_options");
  if (given->consume == nullptr) return Fail(EINVAL, "consume is NULL");
  if ((given->flags & ~RAMJET_BUFFERS_ANY_ORDER) != 0) {
    return Fail(EINVAL, absl::StrCat("flags ", given->flags, " are not known"));
  }
  if (given->producers > INT32_MAX) {
    return Fail(EINVAL, absl::StrCat(given->producers, " producers are too many"));
  }
  auto limit_of_all = given->queue_with != nullptr
                          ? given->queue_with->limit_of_all
                          : std::make_shared<ramjet::QueueLimit>(given->queue_bytes);
  auto created = ramjet::IndexedBuffers::Create(
      {.count = given->count,
       .limit_bytes = given->queue_bytes,
       .producers = static_cast<int>(given->producers),
       .any_order = (given->flags & RAMJET_BUFFERS_ANY_ORDER) != 0,
       .limit_of_all = limit_of_all},
      [consume = given->consume, opaque = given->opaque](uint64_t index,
                                                         absl::Span<const uint8_t> bytes) {
        ramjet::c_abi::LastError().clear();
        const int returned = consume(opaque, index, bytes.data(), bytes.size());
        return ramjet::c_abi::StatusOf(absl::StrCat("the consumer of buffer ", index), returned);
      });
  if (!created.ok()) return Result(created.status());
  *buffers = new ramjet_buffers{std::move(limit_of_all), *std::move(created)};
  return 0;
}

int ramjet_buffers_put(ramjet_buffers* buffers, uint64_t index, const void* bytes,
                       uint64_t length) {
  if (bytes == nullptr && length > 0) return Fail(EINVAL, "bytes is NULL");
  return ResultOfCallbacks(
      buffers->buffers->Put(index, {static_cast<const uint8_t*>(bytes), length}));
}

int ramjet_buffers_end(ramjet_buffers* buffers) {
  return ResultOfCallbacks(buffers->buffers->EndProducer());
}

int ramjet_buffers_wait(ramjet_buffers* buffers) {
  return ResultOfCallbacks(buffers->buffers->Wait());
}

int ramjet_buffers_cancel(ramjet_buffers* buffers) {
  buffers->buffers->Cancel(absl::CancelledError("the buffers were cancelled"));
  return 0;
}

void ramjet_buffers_close(ramjet_buffers* buffers) { delete buffers; }
