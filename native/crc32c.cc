// The crc32 instruction takes three cycles but one can start in each, so that three stripes of the data are summed side
// by side and joined: a sum over A then B is the sum of A pushed through |B| zero bytes, xor the sum of B. The push is
// linear in the 32 bits of the sum, hence four tables of 256 for a fixed length. With stripes of 1360 bytes a 4 KiB
// block is one round and 16 bytes.
#include "crc32c.h"

#include <array>
#include <cstring>

namespace sledge {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // 0x1edc6f41 with its bits reversed
constexpr size_t kLongStripe = 1360;
constexpr size_t kShortStripe = 168;

using ByteTable = std::array<uint32_t, 256>;
using WordTables = std::array<ByteTable, 4>;
using SliceTables = std::array<ByteTable, 8>;

// slices[k][b]: the sum of byte b followed by k zero bytes.
constexpr SliceTables MakeSlices() {
  SliceTables slices = {};
  for (uint32_t byte = 0; byte < 256; byte++) {
    uint32_t sum = byte;
    for (int bit = 0; bit < 8; bit++) sum = (sum >> 1) ^ ((sum & 1) != 0 ? kPolynomial : 0);
    slices[0][byte] = sum;
  }
  for (size_t slice = 1; slice < 8; slice++) {
    for (uint32_t byte = 0; byte < 256; byte++) {
      const uint32_t before = slices[slice - 1][byte];
      slices[slice][byte] = (before >> 8) ^ slices[0][before & 0xff];
    }
  }
  return slices;
}

constexpr SliceTables kSlices = MakeSlices();

uint32_t ByTables(uint32_t sum, const uint8_t* data, size_t bytes) {
  while (bytes >= 8) {
    uint32_t low = sum ^ (static_cast<uint32_t>(data[0]) | static_cast<uint32_t>(data[1]) << 8 |
                          static_cast<uint32_t>(data[2]) << 16 | static_cast<uint32_t>(data[3]) << 24);
    sum = kSlices[7][low & 0xff] ^ kSlices[6][(low >> 8) & 0xff] ^ kSlices[5][(low >> 16) & 0xff] ^
          kSlices[4][low >> 24] ^ kSlices[3][data[4]] ^ kSlices[2][data[5]] ^ kSlices[1][data[6]] ^ kSlices[0][data[7]];
    data += 8;
    bytes -= 8;
  }
  for (; bytes > 0; bytes--) sum = (sum >> 8) ^ kSlices[0][(sum ^ *data++) & 0xff];
  return sum;
}

#if defined(__x86_64__)

WordTables MakePush(size_t zeroBytes) {
  std::array<uint32_t, 32> bits;
  for (uint32_t bit = 0; bit < 32; bit++) {
    uint32_t sum = 1u << bit;
    for (size_t count = 0; count < zeroBytes; count++) sum = (sum >> 8) ^ kSlices[0][sum & 0xff];
    bits[bit] = sum;
  }
  WordTables push = {};
  for (size_t place = 0; place < 4; place++) {
    for (uint32_t byte = 0; byte < 256; byte++) {
      for (uint32_t bit = 0; bit < 8; bit++) {
        if ((byte >> bit & 1) != 0) push[place][byte] ^= bits[place * 8 + bit];
      }
    }
  }
  return push;
}

const WordTables kLongPush = MakePush(kLongStripe);
const WordTables kShortPush = MakePush(kShortStripe);

inline uint32_t Push(const WordTables& push, uint32_t sum) {
  return push[0][sum & 0xff] ^ push[1][(sum >> 8) & 0xff] ^ push[2][(sum >> 16) & 0xff] ^ push[3][sum >> 24];
}

inline uint64_t Load(const uint8_t* data) {
  uint64_t word;
  std::memcpy(&word, data, sizeof word);
  return word;
}

template <size_t Stripe>
__attribute__((target("sse4.2"))) inline uint32_t ThreeStripes(const WordTables& push, uint32_t sum, const uint8_t* data) {
  uint64_t first = sum, second = 0, third = 0;
  for (size_t at = 0; at < Stripe; at += 8) {
    first = __builtin_ia32_crc32di(first, Load(data + at));
    second = __builtin_ia32_crc32di(second, Load(data + at + Stripe));
    third = __builtin_ia32_crc32di(third, Load(data + at + 2 * Stripe));
  }
  const uint32_t joined = Push(push, static_cast<uint32_t>(first)) ^ static_cast<uint32_t>(second);
  return Push(push, joined) ^ static_cast<uint32_t>(third);
}

__attribute__((target("sse4.2"))) uint32_t ByInstruction(uint32_t sum, const uint8_t* data, size_t bytes) {
  for (; bytes >= 3 * kLongStripe; bytes -= 3 * kLongStripe, data += 3 * kLongStripe) {
    sum = ThreeStripes<kLongStripe>(kLongPush, sum, data);
  }
  for (; bytes >= 3 * kShortStripe; bytes -= 3 * kShortStripe, data += 3 * kShortStripe) {
    sum = ThreeStripes<kShortStripe>(kShortPush, sum, data);
  }
  for (; bytes >= 8; bytes -= 8, data += 8) sum = static_cast<uint32_t>(__builtin_ia32_crc32di(sum, Load(data)));
  for (; bytes > 0; bytes--) sum = __builtin_ia32_crc32qi(sum, *data++);
  return sum;
}

const bool kHasInstruction = __builtin_cpu_supports("sse4.2");

#endif

}  // namespace

uint32_t Crc32cByTables(uint32_t seed, const uint8_t* data, size_t bytes) { return ~ByTables(~seed, data, bytes); }

uint32_t Crc32c(uint32_t seed, const uint8_t* data, size_t bytes) {
#if defined(__x86_64__)
  if (kHasInstruction) return ~ByInstruction(~seed, data, bytes);
#endif
  return Crc32cByTables(seed, data, bytes);
}

const char* Crc32cKind() {
#if defined(__x86_64__)
  if (kHasInstruction) return "sse4.2";
#endif
  return "tables";
}

}  // namespace sledge
