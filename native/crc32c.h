// CRC32C (Castagnoli, RFC 3720 §B.4). The fastest form this processor has is chosen when the addon loads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sledge {

// Continues from `seed`, 0 to begin.
uint32_t Crc32c(uint32_t seed, const uint8_t* data, size_t bytes);
// By tables alone, as processors without the instruction do it: for tests.
uint32_t Crc32cByTables(uint32_t seed, const uint8_t* data, size_t bytes);
const char* Crc32cKind();

}  // namespace sledge
