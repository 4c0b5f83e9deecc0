// On its own since the kernel's <linux/stat.h> and the C library's <sys/stat.h> both define struct statx, and the
// library's may be too old for these fields.
#include "statx.h"

#include <fcntl.h>
#include <linux/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace sledge {

uint32_t DirectAlignment([[maybe_unused]] int fd) {
#ifdef STATX_DIOALIGN
  struct statx status = {};
  if (syscall(__NR_statx, fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) < 0) return 0;
  if ((status.stx_mask & STATX_DIOALIGN) == 0) return 0;
  return std::max(status.stx_dio_mem_align, status.stx_dio_offset_align);
#else
  return 0;
#endif
}

}  // namespace sledge
