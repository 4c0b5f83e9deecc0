// Assertions of the addon: always on, for bugs only. A broken invariant ends the process where it is found, with the
// place and the reason on stderr, because memory that the kernel writes to must never be guessed about.
#pragma once

#include <cstdio>
#include <cstdlib>

#define SLEDGE_ASSERT(condition, message)                                                        \
  do {                                                                                           \
    if (__builtin_expect(!(condition), 0)) {                                                     \
      std::fprintf(stderr, "sledge addon: %s:%d: %s\n", __FILE__, __LINE__, message);            \
      std::abort();                                                                              \
    }                                                                                            \
  } while (0)
