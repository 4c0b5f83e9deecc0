// CRC32C (Castagnoli, RFC 3720 §B.4).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace sledge {

// Continues from `seed`, 0 to begin.
using Crc32cSum = uint32_t (*)(uint32_t seed, const uint8_t* data, size_t bytes);

struct Crc32cWay {
  const char* name;
  Crc32cSum sum;
};

// Those that this processor has, the fastest first.
std::vector<Crc32cWay> Crc32cWays();

// The fastest.
extern const Crc32cSum Crc32c;

}  // namespace sledge
