// The fields of devices, for people and for scripts.
#ifndef RAMJET_TOOLS_DEVICE_REPORT_H_
#define RAMJET_TOOLS_DEVICE_REPORT_H_

#include <string>

#include "mappedram/device_fields.h"
#include "nlohmann/json.hpp"

namespace ramjet {

// An object with a member for each field: numbers, true or false, null for a null pointer, arrays,
// objects for structs and subsections; bytes are strings of hexadecimal digits, opaque ones
// {"opaque": type, "bytes": digits}.
nlohmann::ordered_json FieldsAsJson(const FieldStruct& fields);

// A line for each field, `indent` spaces in, and more for structs. Neighbours in an array which are
// equal are shown once; long arrays of numbers, and buffers, are cut short.
std::string FieldsAsText(const FieldStruct& fields, size_t indent);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_DEVICE_REPORT_H_
