#include "tests/mappedram_bytes.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "mappedram/snapshot.h"

namespace ramjet {

Bytes::Bytes(const SnapshotContent& content) : bytes_(BytesOf(content)) {
  const TempFile temp(bytes_);
  absl::StatusOr<SnapshotDescription> description =
      Snapshot::Describe(temp.Open(), content.stream_offset);
  EXPECT_TRUE(description.ok()) << description.status();
  description_ = *std::move(description);
}

uint64_t Bytes::Find(const std::string& text) const {
  EXPECT_NE(bytes_.find(text), std::string::npos) << text;
  return bytes_.find(text);
}

void ExpectRefused(const Bytes& bytes, const std::string& message, absl::StatusCode code) {
  const TempFile temp(bytes.get());
  const std::string whole = absl::StrCat(temp.path(), ": ", message);
  EXPECT_THAT(Snapshot::Describe(temp.Open()).status(), StatusIs(code, whole));
  EXPECT_THAT(Snapshot::Open(temp.Open()).status(), StatusIs(code, whole));
}

SnapshotDescription ExpectIncomplete(const std::string& bytes, const std::string& message) {
  const TempFile temp(bytes);
  absl::StatusOr<SnapshotDescription> description = Snapshot::Describe(temp.Open());
  EXPECT_TRUE(description.ok()) << description.status();
  if (!description.ok()) return {};
  const std::string whole = absl::StrCat(temp.path(), ": ", message);
  EXPECT_THAT(description->complete, StatusIs(absl::StatusCode::kDataLoss, whole));
  EXPECT_THAT(Snapshot::Open(temp.Open()).status(), StatusIs(absl::StatusCode::kDataLoss, whole));
  EXPECT_EQ(description->eof_offset, 0);
  return *std::move(description);
}

}  // namespace ramjet
