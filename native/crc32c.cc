// Three ways, of which the fastest that this processor has is chosen when the addon loads:
//
// fold    Data is a polynomial over bits, and a piece of it may be moved D bits further on by multiplying it with x^D mod P.
//         So 256 bytes in four registers are moved onto the next 256, again and again, and at the end onto their own last
//         16, whose sum is that of all. Goes through memory in its order, which the processor reads ahead. (Gopal et al.,
//         Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction, Intel 2009.)
// stripes The crc32 instruction takes three cycles but one can start in each, so that three stripes of the data are summed
//         side by side and joined: a sum over A then B is the sum of A pushed through |B| zero bytes, xor the sum of B. The
//         push is linear in the 32 bits of the sum, hence four tables of 256 for a fixed length. With stripes of 1360
//         bytes a 4 KiB block is one round and 16 bytes.
// tables  Eight bytes at a time, on every processor.
#include "crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

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

// x^power mod P, as a factor of the carry-less product: bits reversed, and one up, as the product of two reversed numbers
// of 64 bits is one bit short of the reversed product.
constexpr uint64_t Power(size_t power) {
  uint32_t rest = 0x80000000;
  for (size_t count = 0; count < power; count++) rest = (rest >> 1) ^ ((rest & 1) != 0 ? kPolynomial : 0);
  return static_cast<uint64_t>(rest) << 1;
}

// Two factors that move 16 bytes by so many bits: of their first 8, which are 64 further away, and of their last.
template <size_t bits>
struct Move {
  static constexpr long long kFirst = static_cast<long long>(Power(bits + 32));
  static constexpr long long kLast = static_cast<long long>(Power(bits - 32));
};

constexpr size_t kFold = 256;

#define SLEDGE_FOLD_TARGET __attribute__((target("sse4.2,pclmul,avx512f,avx512vl,vpclmulqdq")))

// `from` moved, each 16 bytes of it by its factor, onto `onto`.
SLEDGE_FOLD_TARGET inline __m512i Fold(__m512i from, __m512i factor, __m512i onto) {
  constexpr int kXorOfThree = 0x96;
  return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(from, factor, 0x00),
                                   _mm512_clmulepi64_epi128(from, factor, 0x11), onto, kXorOfThree);
}

SLEDGE_FOLD_TARGET uint32_t ByFolding(uint32_t sum, const uint8_t* data, size_t bytes) {
  if (bytes < kFold) return ByInstruction(sum, data, bytes);
  __m512i parts[4];
  for (size_t part = 0; part < 4; part++) parts[part] = _mm512_loadu_si512(data + part * 64);
  parts[0] = _mm512_xor_si512(parts[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(sum))));
  const __m512i on = _mm512_broadcast_i32x4(_mm_set_epi64x(Move<2048>::kLast, Move<2048>::kFirst));
  for (data += kFold, bytes -= kFold; bytes >= kFold; data += kFold, bytes -= kFold) {
    for (size_t part = 0; part < 4; part++) {
      parts[part] = Fold(parts[part], on, _mm512_loadu_si512(data + part * 64));
    }
  }
  const __m512i next = _mm512_broadcast_i32x4(_mm_set_epi64x(Move<512>::kLast, Move<512>::kFirst));
  for (size_t part = 0; part < 3; part++) parts[part + 1] = Fold(parts[part], next, parts[part + 1]);
  // Its first three quarters onto the last, which stays.
  const __m512i quarters = _mm512_set_epi64(0, 0, Move<128>::kLast, Move<128>::kFirst, Move<256>::kLast, Move<256>::kFirst,
                                            Move<384>::kLast, Move<384>::kFirst);
  const __m512i moved = Fold(parts[3], quarters, _mm512_maskz_mov_epi64(0xc0, parts[3]));
  const __m128i left = _mm_xor_si128(
      _mm_xor_si128(_mm512_extracti32x4_epi32(moved, 0), _mm512_extracti32x4_epi32(moved, 1)),
      _mm_xor_si128(_mm512_extracti32x4_epi32(moved, 2), _mm512_extracti32x4_epi32(moved, 3)));
  uint8_t folded[16];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(folded), left);
  return ByInstruction(ByInstruction(0, folded, sizeof folded), data, bytes);
}

const bool kHasInstruction = __builtin_cpu_supports("sse4.2");
const bool kHasFolding = kHasInstruction && __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("avx512f") &&
                         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("vpclmulqdq");

#endif

template <uint32_t (*way)(uint32_t, const uint8_t*, size_t)>
uint32_t Whole(uint32_t seed, const uint8_t* data, size_t bytes) {
  return ~way(~seed, data, bytes);
}

}  // namespace

std::vector<Crc32cWay> Crc32cWays() {
  std::vector<Crc32cWay> ways;
#if defined(__x86_64__)
  if (kHasFolding) ways.push_back({"fold", Whole<ByFolding>});
  if (kHasInstruction) ways.push_back({"stripes", Whole<ByInstruction>});
#endif
  ways.push_back({"tables", Whole<ByTables>});
  return ways;
}

const Crc32cSum Crc32c = Crc32cWays().front().sum;

}  // namespace sledge
