// `ramjet verify`, `ramjet checksum` and `ramjet diff`: whether a snapshot is whole, whether it is
// what was saved, and how it differs from another.
#ifndef RAMJET_TOOLS_VERIFY_H_
#define RAMJET_TOOLS_VERIFY_H_

#include <string>

namespace ramjet {

// Reads every nonzero page of the snapshot `path`, and compares it with `checksums`, a file of
// `ramjet checksum`, unless that is empty. Says on stdout what it found: as text or, with `json`,
// as one object of the schema "ramjet.verify/1". Returns the exit status: 0; or 1, with one line on
// stderr, if the file is incomplete, has pages that cannot be read, or others than were saved.
int VerifySnapshot(const std::string& path, const std::string& checksums, bool json);

// Writes checksums of the snapshot `path` to the file `out`, and says on stdout how many. Returns
// the exit status: 0; or 1, with one line on stderr, and then `out` is as it was.
int ChecksumSnapshot(const std::string& path, const std::string& out);

// Says on stdout in which pages the RAM of two snapshots differs, block by block (their files and
// device state may differ in any way): as text or, with `json`, as one object of the schema
// "ramjet.diff/1". Returns the exit status: 0, the RAM is the same; or 1, with one line on stderr:
// it is not, or a file cannot be read.
int DiffSnapshots(const std::string& path_a, const std::string& path_b, bool json);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_VERIFY_H_
