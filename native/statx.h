// The alignment that a file asks of direct I/O, as the kernel tells it.
#pragma once

#include <cstdint>

namespace sledge {

// The larger of the alignments of memory and of positions; 0 where the kernel does not know.
uint32_t DirectAlignment(int fd);

}  // namespace sledge
