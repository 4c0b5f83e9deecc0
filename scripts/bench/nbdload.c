/* nbdload - closed-loop load generator for NBD servers.
 *
 * Keeps N requests in flight on each of M connections for a fixed time and
 * reports IOPS, MiB/s, a latency distribution, and CPU time per operation of
 * this client and (given its PID) of the server.
 *
 * Two engines:
 *   raw     (default) own NBD client on plain sockets.  Requests of one batch
 *           leave in one sendmsg(), replies are read in bulk into one buffer
 *           and read payload is not touched unless --verify is given, so that
 *           the server, not the client, is what is measured.  Speaks simple,
 *           structured and extended headers.  No TLS.
 *   libnbd  what a real client costs; needed for nbds:// (TLS) URIs.
 *
 * Build:  cc -O2 -g -Wall -Wextra -pthread -DHAVE_LIBNBD nbdload.c -o nbdload -lnbd
 *    or:  cc -O2 -g -Wall -Wextra -pthread nbdload.c -o nbdload      (raw only)
 *
 * Exit status: 0 fine; 1 some request failed or --verify found bad data;
 *              2 could not start, protocol violation, or server stalled.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#ifdef HAVE_LIBNBD
#include <libnbd.h>
#endif

/* ------------------------------------------------------------ protocol -- */
#define NBD_MAGIC_INIT      UINT64_C(0x4e42444d41474943)
#define NBD_MAGIC_OPT       UINT64_C(0x49484156454F5054)
#define NBD_MAGIC_OPTREPLY  UINT64_C(0x0003e889045565a9)
#define NBD_MAGIC_REQ       0x25609513u
#define NBD_MAGIC_REQ_EXT   0x21e41c71u
#define NBD_MAGIC_SIMPLE    0x67446698u
#define NBD_MAGIC_STRUCT    0x668e33efu
#define NBD_MAGIC_EXT       0x6e8a278cu

enum { OPT_EXPORT_NAME = 1, OPT_GO = 7, OPT_STRUCTURED = 8, OPT_EXTENDED = 11 };
enum { REP_ACK = 1, REP_INFO = 3 };
#define REP_ERR_BASE  UINT32_C(0x80000000)
#define REP_ERR_UNSUP (REP_ERR_BASE + 1)

enum { CMD_READ = 0, CMD_WRITE = 1, CMD_DISC = 2, CMD_FLUSH = 3, CMD_TRIM = 4,
       CMD_ZERO = 6 };
enum { CF_FUA = 1, CF_NO_HOLE = 2, CF_FAST_ZERO = 16, CF_PAYLOAD_LEN = 32 };
enum { TF_READ_ONLY = 2, TF_FLUSH = 4, TF_FUA = 8, TF_TRIM = 32, TF_ZERO = 64,
       TF_MULTI = 256 };
enum { RT_NONE = 0, RT_DATA = 1, RT_HOLE = 2 };
#define RT_ERROR_BIT 0x8000
#define RF_DONE 1

/* ------------------------------------------------------------ settings -- */
enum op { OP_READ, OP_WRITE, OP_FLUSH, OP_TRIM, OP_ZERO, OP_COUNT };
static const char *const op_name[OP_COUNT] =
  { "read", "write", "flush", "trim", "zero" };
static const int op_cmd[OP_COUNT] =
  { CMD_READ, CMD_WRITE, CMD_FLUSH, CMD_TRIM, CMD_ZERO };

static struct {
  const char *uri;
  const char *workload;
  enum op main_op;              /* of a workload with one kind of request */
  bool random, mixed;
  int read_pct;
  uint32_t bs;
  int conns, qd, threads;
  double secs, ramp, timeout;
  bool fua, once, verify, json, force, libnbd;
  int hdr;                      /* 0 simple, 1 structured, 2 extended */
  uint32_t flush_every;
  uint64_t interval_ns, intervals;      /* --interval: its length, how many fit */
  uint64_t off, size;           /* range used; size 0: to the end */
  uint64_t seed;
  const char *label;
  int server_pid;
} cfg = {
  .workload = "randread", .bs = 4096, .conns = 1, .qd = 1, .threads = 1,
  .secs = 5, .ramp = 0.5, .timeout = 20, .read_pct = 70, .seed = 1,
  .hdr = -1, .main_op = OP_READ, .random = true,
};

static uint64_t export_size;
static uint32_t export_flags;
static uint64_t range_lo, range_blocks;
static int hdr_used;            /* what was negotiated, as cfg.hdr */

static void __attribute__((noreturn, format(printf, 1, 2)))
die(const char *fmt, ...)
{
  va_list ap;
  fputs("nbdload: ", stderr);
  va_start(ap, fmt);
  vfprintf(stderr, fmt, ap);
  va_end(ap);
  fputc('\n', stderr);
  _exit(2);
}

static void *xalloc(size_t n)
{
  void *p = calloc(1, n ? n : 1);
  if (!p) die("out of memory");
  return p;
}

static uint64_t now_ns(void)
{
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t) ts.tv_sec * 1000000000u + (uint64_t) ts.tv_nsec;
}

static inline uint64_t mix64(uint64_t z)
{
  z += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

/* ----------------------------------------------------------- histogram -- */
/* Log-linear: 64 buckets for each power of two, so below 1.6 % of error. */
#define H_SUB 6
#define H_LEN ((64 - H_SUB + 1) << H_SUB)
struct hist { uint64_t n, sum, max; uint32_t b[H_LEN]; };

static inline unsigned h_index(uint64_t v)
{
  if (v < (1u << H_SUB)) return (unsigned) v;
  unsigned e = 63u - (unsigned) __builtin_clzll(v);
  return ((e - H_SUB + 1) << H_SUB) + (unsigned) ((v >> (e - H_SUB)) - (1u << H_SUB));
}

static uint64_t h_value(unsigned i)            /* middle of the bucket */
{
  if (i < (1u << H_SUB)) return i;
  unsigned e = (i >> H_SUB) + H_SUB - 1;
  uint64_t lo = ((uint64_t) (i & ((1u << H_SUB) - 1)) + (1u << H_SUB)) << (e - H_SUB);
  return lo + ((UINT64_C(1) << (e - H_SUB)) >> 1);
}

static inline void h_add(struct hist *h, uint64_t v)
{
  h->n++; h->sum += v;
  if (v > h->max) h->max = v;
  h->b[h_index(v)]++;
}

static void h_merge(struct hist *to, const struct hist *h)
{
  to->n += h->n; to->sum += h->sum;
  if (h->max > to->max) to->max = h->max;
  for (unsigned i = 0; i < H_LEN; i++) to->b[i] += h->b[i];
}

static double h_pct_us(const struct hist *h, double pct)
{
  if (!h->n) return 0;
  uint64_t want = (uint64_t) (pct / 100.0 * (double) h->n + 0.5), seen = 0;
  if (want < 1) want = 1;
  for (unsigned i = 0; i < H_LEN; i++)
    if ((seen += h->b[i]) >= want) {
      uint64_t v = h_value(i);
      return (double) (v > h->max ? h->max : v) / 1000.0;
    }
  return (double) h->max / 1000.0;
}

/* ------------------------------------------------------------- objects -- */
struct worker;
struct conn;

struct slot {                   /* one place in the queue */
  struct conn *c;
  int idx;
  enum op op;
  uint64_t off, t0;
  uint32_t gen;                 /* guards against replies to old requests */
  int err;                      /* NBD error of the current request */
  uint32_t got;                 /* read bytes received so far */
  uint32_t since_flush;         /* writes answered since its last flush */
  bool busy, early;             /* early: answered before wholly sent */
  int unsent;                   /* raw: pieces still in the out queue */
  unsigned char *buf;           /* own payload: --verify or libnbd */
  unsigned char hdr[32];
};

struct seg { struct slot *s; const unsigned char *p; size_t n; };

struct conn {
  struct worker *w;
  int id, inflight;
  struct slot *slots;
  uint64_t pos, lo, hi;         /* sequential: next block and its limits */
  struct slot **done;           /* finished, to be accounted and reissued */
  int ndone;
  bool exhausted;               /* --once: range covered */
  /* raw */
  int fd;
  struct seg *segs;
  unsigned seg_cap, seg_head, seg_n;
  unsigned char *in;
  size_t in_cap, in_have;
  struct slot *cur;             /* whose payload is arriving */
  uint64_t cur_left;            /* payload bytes still to arrive */
  uint64_t cur_at;              /* export offset of the next of them */
  bool cur_done;                /* chunk carries DONE */
  bool want_out;
#ifdef HAVE_LIBNBD
  struct nbd_handle *h;
#endif
};

struct worker {
  pthread_t tid;
  int id, nconns;
  struct conn **conns;
  uint64_t rng;
  unsigned char *wbuf;          /* shared payload of writes */
  struct hist lat[OP_COUNT];
  uint64_t bytes[OP_COUNT], errors, bad_data;
  uint64_t *done_in;            /* completions of each interval */
  int first_err;
  int ep;
};

static pthread_barrier_t start_line;
static uint64_t t_go, t_begin, t_end;       /* set before the barrier opens */

static inline uint64_t rnd(struct worker *w)
{
  return mix64(w->rng++);
}

static void fill_pattern(unsigned char *p, uint64_t off, size_t n)
{
  for (size_t i = 0; i < n; i += 8) {
    uint64_t v = mix64((off + i) ^ (cfg.seed << 56));
    memcpy(p + i, &v, n - i < 8 ? n - i : 8);
  }
}

static bool check_pattern(const unsigned char *p, uint64_t off, size_t n)
{
  for (size_t i = 0; i < n; i += 8) {
    uint64_t v = mix64((off + i) ^ (cfg.seed << 56));
    if (memcmp(p + i, &v, n - i < 8 ? n - i : 8)) return false;
  }
  return true;
}

/* Requests that count as operations: flushes only where nothing else is sent. */
static inline bool is_counted(enum op op)
{
  return op != OP_FLUSH || cfg.main_op == OP_FLUSH;
}

/* Chooses what slot s does next.  False: this connection has no more to do.
 * A slot has one request in flight, so its flush goes out when its writes were
 * answered: -q 16 -F 1 is 16 independent writers that each wait for their data
 * to be durable before they write again. */
static bool next_request(struct slot *s)
{
  struct conn *c = s->c;
  struct worker *w = c->w;

  if (cfg.flush_every && s->since_flush >= cfg.flush_every) {
    s->since_flush = 0;
    s->op = OP_FLUSH;
    s->off = 0;
    return true;
  }
  s->op = cfg.main_op;
  if (cfg.mixed)
    s->op = (int) (rnd(w) % 100) < cfg.read_pct ? OP_READ : OP_WRITE;
  if (cfg.random)
    s->off = range_lo + (rnd(w) % range_blocks) * cfg.bs;
  else {
    if (c->pos >= c->hi) {
      if (cfg.once) { c->exhausted = true; return false; }
      c->pos = c->lo;
    }
    s->off = range_lo + c->pos++ * cfg.bs;
  }
  if (s->op == OP_WRITE || s->op == OP_TRIM || s->op == OP_ZERO)
    s->since_flush++;
  return true;
}

static void account(struct slot *s, uint64_t t)
{
  struct worker *w = s->c->w;

  if (s->err) {
    if (!w->errors++) w->first_err = s->err;
  } else if (cfg.verify && s->op == OP_READ &&
             !check_pattern(s->buf, s->off, cfg.bs)) {
    if (!w->bad_data++)
      fprintf(stderr, "nbdload: bad data in the block at offset %" PRIu64 "\n", s->off);
  }
  if (t >= t_begin && t < t_end) {
    h_add(&w->lat[s->op], t - s->t0);
    if (!s->err && s->op != OP_FLUSH) w->bytes[s->op] += cfg.bs;
    if (cfg.intervals && is_counted(s->op)) {
      uint64_t i = (t - t_begin) / cfg.interval_ns;
      if (i < cfg.intervals) w->done_in[i]++;
    }
  }
}

/* ---------------------------------------------------------- raw engine -- */
static char *uri_host, *uri_port, *uri_sock, *uri_export;

static char *pct_decode(const char *s, size_t n)
{
  char *out = xalloc(n + 1), *o = out;
  for (size_t i = 0; i < n; i++) {
    unsigned v;
    if (s[i] == '%' && i + 2 < n && sscanf(s + i + 1, "%2x", &v) == 1) {
      *o++ = (char) v;
      i += 2;
    } else
      *o++ = s[i];
  }
  return out;
}

static void parse_uri(const char *uri)
{
  const char *p;
  bool un = false;

  if (!strncmp(uri, "nbd://", 6)) p = uri + 6;
  else if (!strncmp(uri, "nbd+unix://", 11)) { p = uri + 11; un = true; }
  else die("%s: the raw engine takes nbd:// and nbd+unix:// only", uri);

  const char *q = strchr(p, '?'), *slash = p + strcspn(p, "/?");
  if (*slash != '/') slash = NULL;      /* no name; one behind the ? is of a path */
  const char *auth_end = slash ? slash : q ? q : p + strlen(p);
  const char *name = slash ? slash + 1 : "", *name_end = q ? q : name + strlen(name);
  uri_export = pct_decode(name, slash ? (size_t) (name_end - name) : 0);
  if (un) {
    const char *k = q ? strstr(q, "socket=") : NULL;
    if (!k) die("%s: no socket= parameter", uri);
    k += 7;
    uri_sock = pct_decode(k, strcspn(k, "&"));
    return;
  }
  char *auth = strndup(p, (size_t) (auth_end - p)), *colon, *host = auth;
  if (*host == '[') {
    host++;
    colon = strchr(host, ']');
    if (!colon) die("%s: no ] after the address", uri);
    *colon++ = 0;
    colon = *colon == ':' ? colon : NULL;
  } else
    colon = strrchr(host, ':');
  if (colon) *colon++ = 0;
  uri_host = *host ? host : (char *) "localhost";
  uri_port = colon ? colon : (char *) "10809";
}

static void send_all(int fd, const void *p, size_t n)
{
  while (n) {
    ssize_t r = send(fd, p, n, MSG_NOSIGNAL);
    if (r < 0) die("handshake send: %s", strerror(errno));
    p = (const char *) p + r;
    n -= (size_t) r;
  }
}

static void recv_all(int fd, void *p, size_t n)
{
  while (n) {
    ssize_t r = recv(fd, p, n, 0);
    if (r < 0) die("handshake recv: %s", strerror(errno));
    if (!r) die("server closed the connection during the handshake");
    p = (char *) p + r;
    n -= (size_t) r;
  }
}

static void send_option(int fd, uint32_t opt, const void *data, uint32_t n)
{
  unsigned char h[16];
  uint64_t m = htobe64(NBD_MAGIC_OPT);
  uint32_t o = htobe32(opt), l = htobe32(n);
  memcpy(h, &m, 8); memcpy(h + 8, &o, 4); memcpy(h + 12, &l, 4);
  send_all(fd, h, 16);
  send_all(fd, data, n);
}

/* Reads one reply to an option; data holds up to cap bytes of its payload. */
static uint32_t recv_reply(int fd, uint32_t opt, unsigned char *data, uint32_t cap,
                           uint32_t *len)
{
  unsigned char h[20];
  uint64_t m;
  uint32_t o, t, l;
  recv_all(fd, h, 20);
  memcpy(&m, h, 8); memcpy(&o, h + 8, 4); memcpy(&t, h + 12, 4); memcpy(&l, h + 16, 4);
  if (be64toh(m) != NBD_MAGIC_OPTREPLY || be32toh(o) != opt)
    die("handshake: malformed option reply");
  l = be32toh(l);
  if (l > 65536) die("handshake: option reply of %u bytes", l);
  *len = l < cap ? l : cap;
  recv_all(fd, data, *len);
  for (uint32_t left = l - *len; left; ) {
    unsigned char junk[512];
    uint32_t n = left < sizeof junk ? left : (uint32_t) sizeof junk;
    recv_all(fd, junk, n);
    left -= n;
  }
  return be32toh(t);
}

static int try_option(int fd, uint32_t opt)
{
  unsigned char d[256];
  uint32_t n;
  send_option(fd, opt, NULL, 0);
  return recv_reply(fd, opt, d, sizeof d, &n) == REP_ACK;
}

/* A server that does not answer is an error, also before the first request. */
static void limit_waiting(int fd)
{
  struct timeval tv = { .tv_sec = (time_t) cfg.timeout,
                        .tv_usec = (suseconds_t) ((cfg.timeout - (double) (time_t) cfg.timeout) * 1e6) };
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
}

static int raw_dial(void)
{
  int fd;
  if (uri_sock) {
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    if (strlen(uri_sock) >= sizeof a.sun_path) die("socket path too long");
    strcpy(a.sun_path, uri_sock);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *) &a, sizeof a))
      die("connect %s: %s", uri_sock, strerror(errno));
    limit_waiting(fd);
    return fd;
  }
  struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *res;
  int r = getaddrinfo(uri_host, uri_port, &hints, &res), one = 1;
  if (r) die("%s:%s: %s", uri_host, uri_port, gai_strerror(r));
  fd = -1;
  for (struct addrinfo *ai = res; ai && fd < 0; ai = ai->ai_next) {
    fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, ai->ai_addr, ai->ai_addrlen)) { close(fd); fd = -1; }
  }
  freeaddrinfo(res);
  if (fd < 0) die("connect %s:%s: %s", uri_host, uri_port, strerror(errno));
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  limit_waiting(fd);
  return fd;
}

static void raw_connect(struct conn *c)
{
  unsigned char b[512];
  uint64_t m1, m2;
  uint16_t hf, tf = 0;
  int fd = raw_dial(), got = 0;

  recv_all(fd, b, 18);
  memcpy(&m1, b, 8); memcpy(&m2, b + 8, 8); memcpy(&hf, b + 16, 2);
  if (be64toh(m1) != NBD_MAGIC_INIT || be64toh(m2) != NBD_MAGIC_OPT)
    die("not a newstyle NBD server");
  hf = be16toh(hf);
  uint32_t cf = htobe32(hf & 3u);
  send_all(fd, &cf, 4);

  if (cfg.hdr == 2) {
    if (!try_option(fd, OPT_EXTENDED)) die("server refuses extended headers");
    got = 2;
  } else if (cfg.hdr != 0) {              /* asked for, or as available */
    got = try_option(fd, OPT_STRUCTURED) ? 1 : 0;
    if (!got && cfg.hdr == 1) die("server refuses structured replies");
  }

  uint32_t nl = (uint32_t) strlen(uri_export), n, t;
  unsigned char *d = xalloc(nl + 8);
  uint32_t be = htobe32(nl);
  uint16_t one = htobe16(1), info = htobe16(3);  /* NBD_INFO_BLOCK_SIZE */
  memcpy(d, &be, 4); memcpy(d + 4, uri_export, nl);
  memcpy(d + 4 + nl, &one, 2); memcpy(d + 6 + nl, &info, 2);
  send_option(fd, OPT_GO, d, nl + 8);
  bool have = false;
  while ((t = recv_reply(fd, OPT_GO, b, sizeof b, &n)) == REP_INFO) {
    if (n >= 12 && b[0] == 0 && b[1] == 0) {
      uint64_t sz;
      memcpy(&sz, b + 2, 8); memcpy(&tf, b + 10, 2);
      export_size = be64toh(sz);
      tf = be16toh(tf);
      have = true;
    }
  }
  if (t == REP_ERR_UNSUP) {
    uint64_t sz;
    send_option(fd, OPT_EXPORT_NAME, uri_export, nl);
    recv_all(fd, b, 10);
    memcpy(&sz, b, 8); memcpy(&tf, b + 8, 2);
    export_size = be64toh(sz);
    tf = be16toh(tf);
    if (!(hf & 2)) recv_all(fd, b, 124);
  } else if (t != REP_ACK || !have)
    die("server refuses export \"%s\": reply %#x %.*s", uri_export, t,
        t >= REP_ERR_BASE ? (int) n : 0, b);
  free(d);
  export_flags = tf;
  hdr_used = got;
  c->fd = fd;
  c->in_cap = 256 * 1024;
  c->in = xalloc(c->in_cap);
  c->seg_cap = 2u * (unsigned) cfg.qd + 2u;
  c->segs = xalloc(sizeof *c->segs * c->seg_cap);
}

static void seg_push(struct conn *c, struct slot *s, const unsigned char *p, size_t n)
{
  c->segs[(c->seg_head + c->seg_n++) % c->seg_cap] = (struct seg) { s, p, n };
  s->unsent++;
}

static void raw_submit(struct slot *s)
{
  struct conn *c = s->c;
  bool ext = hdr_used == 2;
  uint32_t magic = htobe32(ext ? NBD_MAGIC_REQ_EXT : NBD_MAGIC_REQ);
  uint16_t fl = 0, cmd = htobe16((uint16_t) op_cmd[s->op]);
  uint64_t cookie = htobe64((uint64_t) ++s->gen << 32 | (uint32_t) s->idx);
  uint64_t off = htobe64(s->off);
  uint32_t len = s->op == OP_FLUSH ? 0 : cfg.bs;

  if (cfg.fua && (s->op == OP_WRITE || s->op == OP_TRIM || s->op == OP_ZERO))
    fl |= CF_FUA;
  if (ext && s->op == OP_WRITE) fl |= CF_PAYLOAD_LEN;
  fl = htobe16(fl);
  memcpy(s->hdr, &magic, 4); memcpy(s->hdr + 4, &fl, 2); memcpy(s->hdr + 6, &cmd, 2);
  memcpy(s->hdr + 8, &cookie, 8); memcpy(s->hdr + 16, &off, 8);
  if (ext) {
    uint64_t l = htobe64(len);
    memcpy(s->hdr + 24, &l, 8);
  } else {
    uint32_t l = htobe32(len);
    memcpy(s->hdr + 24, &l, 4);
  }
  s->err = 0;
  s->got = 0;
  s->early = false;
  seg_push(c, s, s->hdr, ext ? 32 : 28);
  if (s->op == OP_WRITE) {
    const unsigned char *p = c->w->wbuf;
    if (cfg.verify) { fill_pattern(s->buf, s->off, cfg.bs); p = s->buf; }
    seg_push(c, s, p, cfg.bs);
  }
}

static void finish(struct slot *s)
{
  struct conn *c = s->c;
  if (s->unsent) { s->early = true; return; }
  c->done[c->ndone++] = s;
}

static void raw_flush_out(struct conn *c)
{
  while (c->seg_n) {
    struct iovec iov[128];
    unsigned k = 0;
    for (; k < c->seg_n && k < 128; k++) {
      struct seg *g = &c->segs[(c->seg_head + k) % c->seg_cap];
      iov[k].iov_base = (void *) g->p;
      iov[k].iov_len = g->n;
    }
    struct msghdr m = { .msg_iov = iov, .msg_iovlen = k };
    ssize_t r = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (r < 0) {
      if (errno == EAGAIN || errno == EINTR) break;
      die("connection %d: send: %s", c->id, strerror(errno));
    }
    size_t left = (size_t) r;
    while (left || (c->seg_n && !c->segs[c->seg_head].n)) {
      struct seg *g = &c->segs[c->seg_head];
      if (left < g->n) { g->p += left; g->n -= left; left = 0; break; }
      left -= g->n;
      struct slot *s = g->s;
      c->seg_head = (c->seg_head + 1) % c->seg_cap;
      c->seg_n--;
      if (!--s->unsent && s->early) finish(s);
      if (!left) break;
    }
  }
}

static struct slot *slot_of(struct conn *c, const unsigned char *cookie)
{
  uint64_t k;
  memcpy(&k, cookie, 8);
  k = be64toh(k);
  uint32_t idx = (uint32_t) k;
  if (idx >= (uint32_t) cfg.qd || !c->slots[idx].busy || c->slots[idx].gen != k >> 32)
    die("connection %d: reply with cookie %#" PRIx64 ", which is not in flight", c->id, k);
  return &c->slots[idx];
}

static void end_of_reply(struct conn *c, struct slot *s)
{
  if (s->op == OP_READ && !s->err && s->got != cfg.bs)
    die("connection %d: read reply of %u bytes instead of %u", c->id, s->got, cfg.bs);
  finish(s);
}

/* Consumes what it can of the input buffer. */
static void raw_parse(struct conn *c)
{
  unsigned char *p = c->in, *end = c->in + c->in_have;

  for (;;) {
    if (c->cur) {                              /* payload of a read */
      uint64_t n = (uint64_t) (end - p);
      if (n > c->cur_left) n = c->cur_left;
      if (cfg.verify) memcpy(c->cur->buf + (c->cur_at - c->cur->off), p, n);
      p += n; c->cur_at += n; c->cur_left -= n; c->cur->got += (uint32_t) n;
      if (c->cur_left) break;
      struct slot *s = c->cur;
      c->cur = NULL;
      if (c->cur_done) end_of_reply(c, s);
      continue;
    }
    if (end - p < 16) break;
    uint32_t magic, e;
    memcpy(&magic, p, 4);
    magic = be32toh(magic);
    if (magic == NBD_MAGIC_SIMPLE) {
      struct slot *s = slot_of(c, p + 8);
      memcpy(&e, p + 4, 4);
      s->err = (int) be32toh(e);
      p += 16;
      if (hdr_used == 2 || (hdr_used == 1 && s->op == OP_READ))
        die("connection %d: simple reply to a %s", c->id, op_name[s->op]);
      if (s->op == OP_READ && !s->err) {
        c->cur = s; c->cur_left = cfg.bs; c->cur_at = s->off; c->cur_done = true;
      } else
        end_of_reply(c, s);
      continue;
    }
    if (magic != NBD_MAGIC_STRUCT && magic != NBD_MAGIC_EXT)
      die("connection %d: reply magic %#x", c->id, magic);
    if ((magic == NBD_MAGIC_EXT) != (hdr_used == 2) || !hdr_used)
      die("connection %d: reply magic %#x was not negotiated", c->id, magic);

    size_t hl = magic == NBD_MAGIC_EXT ? 32 : 20;
    if ((size_t) (end - p) < hl) break;
    uint16_t fl, ty;
    uint64_t len;
    memcpy(&fl, p + 4, 2); memcpy(&ty, p + 6, 2);
    fl = be16toh(fl); ty = be16toh(ty);
    if (hl == 32) { memcpy(&len, p + 24, 8); len = be64toh(len); }
    else { uint32_t l; memcpy(&l, p + 16, 4); len = be32toh(l); }
    struct slot *s = slot_of(c, p + 8);
    size_t fixed = ty == RT_DATA ? 8 : ty == RT_NONE ? 0 : (size_t) len;
    if (fixed > 8192 || fixed > len) die("connection %d: chunk type %#x of %" PRIu64 " bytes", c->id, ty, len);
    if ((size_t) (end - p) < hl + fixed) break;
    unsigned char *q = p + hl;
    p = q + fixed;
    uint64_t at;
    if (ty == RT_NONE) {
      if (len || !(fl & RF_DONE)) die("connection %d: malformed NONE chunk", c->id);
      end_of_reply(c, s);
    } else if (ty == RT_DATA && s->op == OP_READ) {
      memcpy(&at, q, 8);
      at = be64toh(at);
      if (len < 9 || at < s->off || at + (len - 8) > s->off + cfg.bs)
        die("connection %d: data chunk outside of its request", c->id);
      c->cur = s; c->cur_left = len - 8; c->cur_at = at; c->cur_done = fl & RF_DONE;
    } else if (ty == RT_HOLE && s->op == OP_READ && len == 12) {
      uint32_t n;
      memcpy(&at, q, 8); memcpy(&n, q + 8, 4);
      at = be64toh(at); n = be32toh(n);
      if (at < s->off || at + n > s->off + cfg.bs)
        die("connection %d: hole chunk outside of its request", c->id);
      if (cfg.verify) memset(s->buf + (at - s->off), 0, n);
      s->got += n;
      if (fl & RF_DONE) end_of_reply(c, s);
    } else if (ty & RT_ERROR_BIT) {
      if (len < 6) die("connection %d: error chunk of %" PRIu64 " bytes", c->id, len);
      memcpy(&e, q, 4);
      s->err = (int) be32toh(e);
      if (fl & RF_DONE) end_of_reply(c, s);
    } else
      die("connection %d: chunk type %#x in reply to a %s", c->id, ty, op_name[s->op]);
  }
  c->in_have = (size_t) (end - p);
  if (c->in_have && p != c->in) memmove(c->in, p, c->in_have);
}

/* ------------------------------------------------------- libnbd engine -- */
#ifdef HAVE_LIBNBD
static void lib_connect(struct conn *c)
{
  struct nbd_handle *h = c->h = nbd_create();
  if (!h) die("nbd_create: %s", nbd_get_error());
  nbd_set_request_structured_replies(h, cfg.hdr != 0);
  nbd_set_strict_mode(h, 0);
  nbd_set_uri_allow_local_file(h, true);
#if LIBNBD_HAVE_NBD_SET_PREAD_INITIALIZE
  nbd_set_pread_initialize(h, false);
#endif
  if (nbd_connect_uri(h, cfg.uri)) die("%s", nbd_get_error());
  export_size = (uint64_t) nbd_get_size(h);
  export_flags = (nbd_is_read_only(h) > 0 ? TF_READ_ONLY : 0) |
    (nbd_can_flush(h) > 0 ? TF_FLUSH : 0) | (nbd_can_fua(h) > 0 ? TF_FUA : 0) |
    (nbd_can_trim(h) > 0 ? TF_TRIM : 0) | (nbd_can_zero(h) > 0 ? TF_ZERO : 0) |
    (nbd_can_multi_conn(h) > 0 ? TF_MULTI : 0);
  hdr_used = nbd_get_structured_replies_negotiated(h) > 0;
}

static int lib_done(void *opaque, int *error)
{
  struct slot *s = opaque;
  s->err = *error;
  finish(s);
  return 1;                     /* libnbd retires the command */
}

static void lib_submit(struct slot *s)
{
  struct conn *c = s->c;
  nbd_completion_callback cb = { .callback = lib_done, .user_data = s };
  uint32_t f = cfg.fua ? LIBNBD_CMD_FLAG_FUA : 0;
  int64_t r = -1;
  const unsigned char *p = c->w->wbuf;
  switch (s->op) {
  case OP_READ:  r = nbd_aio_pread(c->h, s->buf, cfg.bs, s->off, cb, 0); break;
  case OP_WRITE:
    if (cfg.verify) { fill_pattern(s->buf, s->off, cfg.bs); p = s->buf; }
    r = nbd_aio_pwrite(c->h, p, cfg.bs, s->off, cb, f);
    break;
  case OP_FLUSH: r = nbd_aio_flush(c->h, cb, 0); break;
  case OP_TRIM:  r = nbd_aio_trim(c->h, cfg.bs, s->off, cb, f); break;
  case OP_ZERO:  r = nbd_aio_zero(c->h, cfg.bs, s->off, cb, f); break;
  default: break;
  }
  if (r < 0) die("connection %d: %s", c->id, nbd_get_error());
}
#endif

/* ------------------------------------------------------------ main loop -- */
static void submit(struct slot *s, uint64_t t)
{
  s->t0 = t;
  s->busy = true;
  s->c->inflight++;
#ifdef HAVE_LIBNBD
  if (cfg.libnbd) { lib_submit(s); return; }
#endif
  raw_submit(s);
}

/* Accounts for what finished on c and sends as many new requests. */
static void turn_over(struct conn *c)
{
  uint64_t t = now_ns();
  int n;
  while ((n = c->ndone)) {
    struct slot *list[n];
    memcpy(list, c->done, sizeof *list * (size_t) n);
    c->ndone = 0;                       /* libnbd may finish more meanwhile */
    for (int i = 0; i < n; i++) {
      struct slot *s = list[i];
      account(s, t);
      s->busy = false;
      c->inflight--;
      if (t < t_end && next_request(s)) submit(s, t);
    }
    if (!cfg.libnbd) raw_flush_out(c);
  }
}

static void raw_readable(struct conn *c, int flags)
{
  ssize_t r = recv(c->fd, c->in + c->in_have, c->in_cap - c->in_have, flags);
  if (r < 0) {
    if (errno == EINTR) return;
    if (errno == EAGAIN) {
      if (!flags) die("connection %d: no reply for %.0f s with %d in flight (stalled)", c->id, cfg.timeout, c->inflight);
      return;
    }
    die("connection %d: recv: %s", c->id, strerror(errno));
  }
  if (!r) die("connection %d: server closed it with %d requests in flight", c->id, c->inflight);
  c->in_have += (size_t) r;
  raw_parse(c);
}

static void run_raw(struct worker *w)
{
  struct timeval tv = { .tv_sec = (time_t) cfg.timeout, .tv_usec = 0 };
  bool single = w->nconns == 1;
  int stall = (int) (cfg.timeout * 1000);

  for (int i = 0; i < w->nconns; i++) {
    struct conn *c = w->conns[i];
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    if (!single) {
      struct epoll_event ev = { .events = EPOLLIN, .data.ptr = c };
      if (epoll_ctl(w->ep, EPOLL_CTL_ADD, c->fd, &ev)) die("epoll_ctl: %s", strerror(errno));
    }
    raw_flush_out(c);
  }
  if (single) {
    struct conn *c = w->conns[0];
    while (c->inflight) {
      if (c->seg_n) {                   /* cannot send all: wait for either */
        struct pollfd pf = { .fd = c->fd, .events = POLLIN | POLLOUT };
        if (poll(&pf, 1, stall) == 0) die("connection 0: stalled");
        if (pf.revents & POLLOUT) raw_flush_out(c);
        if (pf.revents & (POLLIN | POLLHUP | POLLERR)) raw_readable(c, MSG_DONTWAIT);
      } else
        raw_readable(c, 0);
      turn_over(c);
    }
    return;
  }
  for (;;) {
    struct epoll_event ev[64];
    int n, live = 0;
    for (int i = 0; i < w->nconns; i++) {
      struct conn *c = w->conns[i];
      live += c->inflight;
      if (c->want_out != (c->seg_n > 0)) {
        struct epoll_event e = { .events = EPOLLIN | (c->seg_n ? EPOLLOUT : 0u), .data.ptr = c };
        c->want_out = c->seg_n > 0;
        epoll_ctl(w->ep, EPOLL_CTL_MOD, c->fd, &e);
      }
    }
    if (!live) return;
    n = epoll_wait(w->ep, ev, 64, stall);
    if (n < 0 && errno != EINTR) die("epoll_wait: %s", strerror(errno));
    if (n == 0) die("no reply for %.0f s with %d in flight (stalled)", cfg.timeout, live);
    for (int i = 0; i < n; i++) {
      struct conn *c = ev[i].data.ptr;
      if (ev[i].events & EPOLLOUT) raw_flush_out(c);
      if (ev[i].events & ~(uint32_t) EPOLLOUT) raw_readable(c, MSG_DONTWAIT);
      turn_over(c);
    }
  }
}

#ifdef HAVE_LIBNBD
static void run_lib(struct worker *w)
{
  int stall = (int) (cfg.timeout * 1000);
  struct pollfd pf[w->nconns];
  struct conn *of[w->nconns];
  for (;;) {
    int n = 0;
    for (int i = 0; i < w->nconns; i++) {
      struct conn *c = w->conns[i];
      turn_over(c);
      if (!c->inflight) continue;
      if (w->nconns == 1) {
        int r = nbd_poll(c->h, stall);
        if (r < 0) die("connection %d: %s", c->id, nbd_get_error());
        if (r == 0) die("connection %d: stalled", c->id);
        n = -1;
        continue;
      }
      unsigned d = nbd_aio_get_direction(c->h);
      pf[n] = (struct pollfd) { .fd = nbd_aio_get_fd(c->h),
        .events = (short) ((d & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                           (d & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0)) };
      of[n++] = c;
    }
    if (n == 0) return;
    if (n < 0) continue;
    int r = poll(pf, (nfds_t) n, stall);
    if (r == 0) die("no reply for %.0f s (stalled)", cfg.timeout);
    for (int i = 0; i < n; i++) {
      unsigned d = nbd_aio_get_direction(of[i]->h);
      r = 0;
      if ((pf[i].revents & (POLLIN | POLLHUP)) && (d & LIBNBD_AIO_DIRECTION_READ))
        r = nbd_aio_notify_read(of[i]->h);
      else if ((pf[i].revents & POLLOUT) && (d & LIBNBD_AIO_DIRECTION_WRITE))
        r = nbd_aio_notify_write(of[i]->h);
      if (r < 0) die("connection %d: %s", of[i]->id, nbd_get_error());
    }
  }
}
#endif

static void *worker_main(void *arg)
{
  struct worker *w = arg;

  pthread_barrier_wait(&start_line);    /* all are connected */
  pthread_barrier_wait(&start_line);    /* times are set */
  uint64_t t = now_ns();
  for (int i = 0; i < w->nconns; i++)
    for (int k = 0; k < cfg.qd; k++) {
      struct slot *s = &w->conns[i]->slots[k];
      if (next_request(s)) submit(s, t);
    }
#ifdef HAVE_LIBNBD
  if (cfg.libnbd) run_lib(w); else
#endif
  run_raw(w);
  return NULL;
}

/* ------------------------------------------------------------- CPU use -- */
/* Seconds, from the per-process counters (those of /proc/stat are sampled by
 * ticks and off by much at small queue depths).  server: cfg.server_pid and all
 * descended from it; kernel: kernel threads, such as writeback; foreign: every
 * other process, which has nothing to do with the measurement and disturbs it.
 * Children that a foreign process has reaped are in its own counters. */
struct cpu { double server, client, kernel, foreign, idle; };

static void tree_cpu(struct cpu *out)
{
  enum { OTHER, SERVER, KERNEL };
  static struct { int pid, ppid, in; double own, reaped; } p[32768];
  int n = 0, self = getpid();
  double hz = (double) sysconf(_SC_CLK_TCK);
  DIR *d = opendir("/proc");
  struct dirent *e;
  if (!d) return;
  while ((e = readdir(d)) && n < 32768) {
    char path[64], b[1024];
    int id = atoi(e->d_name), fd;
    if (id <= 0 || id == self) continue;
    snprintf(path, sizeof path, "/proc/%d/stat", id);
    if ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0) continue;
    ssize_t r = read(fd, b, sizeof b - 1);
    close(fd);
    if (r <= 0) continue;
    b[r] = 0;
    char *q = strrchr(b, ')');
    unsigned long ut, st;
    long cut, cst;
    int pp;
    if (!q || sscanf(q + 2, "%*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %ld %ld",
                     &pp, &ut, &st, &cut, &cst) != 5)
      continue;
    p[n].pid = id; p[n].ppid = pp;
    p[n].in = cfg.server_pid && id == cfg.server_pid ? SERVER : id == 2 ? KERNEL : OTHER;
    p[n].own = (double) (ut + st) / hz;
    p[n++].reaped = (double) (cut + cst) / hz;
  }
  closedir(d);
  for (bool more = true; more; ) {
    more = false;
    for (int i = 0; i < n; i++)
      for (int k = 0; !p[i].in && k < n; k++)
        if (p[k].in && p[k].pid == p[i].ppid) { p[i].in = p[k].in; more = true; }
  }
  for (int i = 0; i < n; i++)
    if (p[i].in == SERVER) out->server += p[i].own;
    else if (p[i].in == KERNEL) out->kernel += p[i].own;
    else out->foreign += p[i].own + p[i].reaped;
}

static struct cpu cpu_now(void)
{
  struct cpu c = { 0 };
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  c.client = (double) (u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
             (double) (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
  tree_cpu(&c);
  FILE *f = fopen("/proc/stat", "re");
  if (f) {
    double id, io;
    if (fscanf(f, "cpu %*f %*f %*f %lf %lf", &id, &io) == 2)
      c.idle = (id + io) / (double) sysconf(_SC_CLK_TCK);
    fclose(f);
  }
  return c;
}

static void sleep_until(uint64_t t)
{
  struct timespec ts = { (time_t) (t / 1000000000u), (long) (t % 1000000000u) };
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR) ;
}

/* ------------------------------------------------------------- options -- */
static uint64_t parse_size(const char *s)
{
  char *e;
  double v = strtod(s, &e);
  switch (*e) {
  case 'k': case 'K': v *= 1024; e++; break;
  case 'm': case 'M': v *= 1048576; e++; break;
  case 'g': case 'G': v *= 1073741824; e++; break;
  case 't': case 'T': v *= 1099511627776.0; e++; break;
  }
  if (e == s || (*e && strcmp(e, "iB")) || v < 0) die("bad size: %s", s);
  return (uint64_t) v;
}

static void set_workload(const char *w)
{
  static const struct { const char *n; enum op op; bool random, mixed; } t[] = {
    { "randread", OP_READ, true, false }, { "randwrite", OP_WRITE, true, false },
    { "read", OP_READ, false, false },    { "write", OP_WRITE, false, false },
    { "randrw", OP_READ, true, true },    { "rw", OP_READ, false, true },
    { "trim", OP_TRIM, false, false },    { "randtrim", OP_TRIM, true, false },
    { "zero", OP_ZERO, false, false },    { "randzero", OP_ZERO, true, false },
    { "flush", OP_FLUSH, true, false },
  };
  for (size_t i = 0; i < sizeof t / sizeof *t; i++)
    if (!strcmp(w, t[i].n)) {
      cfg.workload = t[i].n; cfg.main_op = t[i].op;
      cfg.random = t[i].random; cfg.mixed = t[i].mixed;
      return;
    }
  die("unknown workload: %s", w);
}

#ifdef HAVE_LIBNBD
#define ENGINES "raw or libnbd                         (raw)"
#else
#define ENGINES "raw (this one is built without libnbd)"
#endif

static void usage(FILE *f)
{
  fputs(
"usage: nbdload [options] URI\n"
"  URI: nbd://HOST[:PORT]/NAME  nbd+unix:///NAME?socket=PATH  (nbds: engine libnbd)\n"
"  -w, --workload=W    randread randwrite read write randrw rw trim randtrim zero\n"
"                      randzero flush                        (randread)\n"
"  -b, --bs=SIZE       bytes a request, k/M/G suffixes       (4k)\n"
"  -c, --conns=N       connections                           (1)\n"
"  -q, --qd=N          requests in flight on each connection (1)\n"
"  -t, --time=SECS     measured time                         (5)\n"
"  -r, --ramp=SECS     unmeasured time before it             (0.5)\n"
"  -T, --threads=N     client threads, sharing the connections (1)\n"
"  -f, --fua           set FUA on write, trim and zero requests\n"
"  -F, --flush-every=N a flush after every N writes of each place in the queue, when\n"
"                      they were answered; rates count the writes\n"
"  -m, --read-pct=N    share of reads in randrw and rw       (70)\n"
"  -o, --offset=SIZE   use the export from here              (0)\n"
"  -s, --size=SIZE     use this much of it                   (all)\n"
"  -1, --once          sequential: cover the range once, whatever the time\n"
"  -V, --verify        write a pattern of (offset, seed) and check reads against it\n"
"  -S, --seed=N        of the pattern and of random offsets  (1)\n"
"  -e, --engine=E      " ENGINES "\n"
"  -H, --headers=H     simple, structured or extended        (structured if offered)\n"
"  -p, --server-pid=N  report the CPU time of this process and its children\n"
"      --interval=MS   also count what completes in each interval of the time\n"
"      --timeout=SECS  a server silent this long has stalled (20)\n"
"      --force         do not check the export's flags first\n"
"  -l, --label=TEXT    copied to the output\n"
"  -j, --json          one line of JSON\n", f);
}

static void parse_options(int argc, char **argv)
{
  static const struct option lo[] = {
    { "workload", 1, 0, 'w' }, { "bs", 1, 0, 'b' }, { "conns", 1, 0, 'c' },
    { "qd", 1, 0, 'q' }, { "time", 1, 0, 't' }, { "ramp", 1, 0, 'r' },
    { "threads", 1, 0, 'T' }, { "fua", 0, 0, 'f' }, { "flush-every", 1, 0, 'F' },
    { "read-pct", 1, 0, 'm' }, { "offset", 1, 0, 'o' }, { "size", 1, 0, 's' },
    { "once", 0, 0, '1' }, { "verify", 0, 0, 'V' }, { "seed", 1, 0, 'S' },
    { "engine", 1, 0, 'e' }, { "headers", 1, 0, 'H' }, { "server-pid", 1, 0, 'p' },
    { "timeout", 1, 0, 1000 }, { "force", 0, 0, 1001 }, { "interval", 1, 0, 1002 }, { "label", 1, 0, 'l' },
    { "json", 0, 0, 'j' }, { "help", 0, 0, 'h' }, { 0, 0, 0, 0 } };
  int o;
  while ((o = getopt_long(argc, argv, "w:b:c:q:t:r:T:fF:m:o:s:1VS:e:H:p:l:jh", lo, NULL)) != -1)
    switch (o) {
    case 'w': set_workload(optarg); break;
    case 'b': cfg.bs = (uint32_t) parse_size(optarg); break;
    case 'c': cfg.conns = atoi(optarg); break;
    case 'q': cfg.qd = atoi(optarg); break;
    case 't': cfg.secs = atof(optarg); break;
    case 'r': cfg.ramp = atof(optarg); break;
    case 'T': cfg.threads = atoi(optarg); break;
    case 'f': cfg.fua = true; break;
    case 'F': cfg.flush_every = (uint32_t) atoi(optarg); break;
    case 'm': cfg.read_pct = atoi(optarg); break;
    case 'o': cfg.off = parse_size(optarg); break;
    case 's': cfg.size = parse_size(optarg); break;
    case '1': cfg.once = true; break;
    case 'V': cfg.verify = true; break;
    case 'S': cfg.seed = strtoull(optarg, NULL, 0); break;
    case 'e':
      if (!strcmp(optarg, "libnbd")) cfg.libnbd = true;
      else if (strcmp(optarg, "raw")) die("unknown engine: %s", optarg);
      break;
    case 'H':
      cfg.hdr = !strcmp(optarg, "simple") ? 0 : !strcmp(optarg, "structured") ? 1 :
                !strcmp(optarg, "extended") ? 2 : -2;
      if (cfg.hdr == -2) die("unknown headers: %s", optarg);
      break;
    case 'p': cfg.server_pid = atoi(optarg); break;
    case 1000: cfg.timeout = atof(optarg); break;
    case 1001: cfg.force = true; break;
    case 1002:
      if (atof(optarg) < 0.001) die("bad interval: %s", optarg);
      cfg.interval_ns = (uint64_t) (atof(optarg) * 1e6);
      break;
    case 'l': cfg.label = optarg; break;
    case 'j': cfg.json = true; break;
    case 'h': usage(stdout); exit(0);
    default: usage(stderr); exit(2);
    }
  if (optind != argc - 1) { usage(stderr); exit(2); }
  cfg.uri = argv[optind];
  if (cfg.conns < 1 || cfg.qd < 1 || cfg.threads < 1 || !cfg.bs || cfg.secs <= 0)
    die("nothing to do");
  if (cfg.qd > 65536 || cfg.conns > 10000) die("too many requests in flight");
  if (cfg.threads > cfg.conns) cfg.threads = cfg.conns;
  if (cfg.once && cfg.random) die("--once is for sequential workloads");
  if (cfg.once && cfg.interval_ns) die("--interval needs a time, --once has none");
  if (cfg.once) { cfg.secs = 86400; cfg.ramp = 0; }
  /* What is left of the time after the last whole interval is not counted. */
  if (cfg.interval_ns) cfg.intervals = (uint64_t) (cfg.secs * 1e9) / cfg.interval_ns;
  if (cfg.intervals > 1000000) die("too many intervals");
#ifndef HAVE_LIBNBD
  if (cfg.libnbd) die("built without libnbd");
#endif
  if (cfg.libnbd && cfg.hdr == 2) die("extended headers: engine raw only");
  if (!cfg.libnbd) parse_uri(cfg.uri);
}

static void check_flags(void)
{
  bool wr = cfg.mixed || cfg.main_op == OP_WRITE || cfg.main_op == OP_TRIM || cfg.main_op == OP_ZERO;
  if (cfg.force) return;
  if (wr && (export_flags & TF_READ_ONLY)) die("the export is read-only");
  if (cfg.fua && !(export_flags & TF_FUA)) die("the server does not offer FUA");
  if ((cfg.flush_every || cfg.main_op == OP_FLUSH) && !(export_flags & TF_FLUSH))
    die("the server does not offer flush");
  if (cfg.main_op == OP_TRIM && !(export_flags & TF_TRIM)) die("the server does not offer trim");
  if (cfg.main_op == OP_ZERO && !(export_flags & TF_ZERO)) die("the server does not offer write zeroes");
  if (cfg.conns > 1 && wr && !(export_flags & TF_MULTI))
    fprintf(stderr, "nbdload: note: the server does not offer multi-conn\n");
}

/* -------------------------------------------------------------- report -- */
static uint64_t done_in(const struct worker *ws, uint64_t interval)
{
  uint64_t n = 0;
  for (int i = 0; i < cfg.threads; i++) n += ws[i].done_in[interval];
  return n;
}

static void report(struct worker *ws, double secs, struct cpu a, struct cpu b)
{
  static struct hist all, per[OP_COUNT];
  uint64_t bytes = 0, errors = 0, bad = 0;
  int first_err = 0, ncpu = (int) sysconf(_SC_NPROCESSORS_ONLN);

  for (int i = 0; i < cfg.threads; i++) {
    for (int o = 0; o < OP_COUNT; o++) {
      h_merge(&per[o], &ws[i].lat[o]);
      if (is_counted((enum op) o)) h_merge(&all, &ws[i].lat[o]);
      bytes += ws[i].bytes[o];
    }
    errors += ws[i].errors; bad += ws[i].bad_data;
    if (!first_err) first_err = ws[i].first_err;
  }
  double n = all.n ? (double) all.n : 1, iops = (double) all.n / secs;
  double mibs = (double) bytes / secs / 1048576;
  double cli = (b.client - a.client) * 1e6 / n, srv = (b.server - a.server) * 1e6 / n;
  double kern = (b.kernel - a.kernel) / secs, foreign = (b.foreign - a.foreign) / secs,
    idle = (b.idle - a.idle) / secs;
  static const char *const hn[] = { "simple", "structured", "extended" };

  if (cfg.json) {
    printf("{\"label\":\"%s\",\"workload\":\"%s\",\"bs\":%u,\"conns\":%d,\"qd\":%d,\"threads\":%d,"
           "\"engine\":\"%s\",\"headers\":\"%s\",\"fua\":%s,\"flush_every\":%u,\"secs\":%.3f,"
           "\"ops\":%" PRIu64 ",\"iops\":%.1f,\"mibs\":%.2f,",
           cfg.label ? cfg.label : "", cfg.workload, cfg.bs, cfg.conns, cfg.qd, cfg.threads,
           cfg.libnbd ? "libnbd" : "raw", hn[hdr_used], cfg.fua ? "true" : "false",
           cfg.flush_every, secs, all.n, iops, mibs);
    printf("\"lat_us\":{\"mean\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f},",
           (double) all.sum / n / 1000, h_pct_us(&all, 50), h_pct_us(&all, 90),
           h_pct_us(&all, 99), h_pct_us(&all, 99.9), (double) all.max / 1000);
    for (int o = 0; o < OP_COUNT; o++)
      if (per[o].n)
        printf("\"%s\":{\"ops\":%" PRIu64 ",\"p50\":%.1f,\"p99\":%.1f,\"p999\":%.1f},", op_name[o],
               per[o].n, h_pct_us(&per[o], 50), h_pct_us(&per[o], 99), h_pct_us(&per[o], 99.9));
    if (cfg.intervals) {
      printf("\"interval_ms\":%g,\"intervals\":[", (double) cfg.interval_ns / 1e6);
      for (uint64_t i = 0; i < cfg.intervals; i++)
        printf("%s%" PRIu64, i ? "," : "", done_in(ws, i));
      printf("],");
    }
    if (cfg.server_pid) printf("\"server_cpu_us_per_op\":%.2f,\"server_cores\":%.3f,", srv, (b.server - a.server) / secs);
    printf("\"client_cpu_us_per_op\":%.2f,\"client_cores\":%.3f,\"kernel_cores\":%.3f,\"foreign_cores\":%.3f,\"idle_cores\":%.3f,"
           "\"cores\":%d,\"errors\":%" PRIu64 ",\"first_error\":%d,\"bad_data\":%" PRIu64 "}\n",
           cli, (b.client - a.client) / secs, kern, foreign, idle, ncpu,
           errors, first_err, bad);
    return;
  }
  printf("%s%s%s bs=%u conns=%d qd=%d engine=%s headers=%s%s\n", cfg.label ? cfg.label : "",
         cfg.label ? ": " : "", cfg.workload, cfg.bs, cfg.conns, cfg.qd,
         cfg.libnbd ? "libnbd" : "raw", hn[hdr_used], cfg.fua ? " fua" : "");
  printf("  %.0f IOPS  %.1f MiB/s  (%" PRIu64 " requests in %.2f s)\n", iops, mibs, all.n, secs);
  for (int o = 0; o < OP_COUNT; o++)
    if (per[o].n)
      printf("  %-5s us: mean %.1f  p50 %.1f  p90 %.1f  p99 %.1f  p99.9 %.1f  max %.1f\n", op_name[o],
             (double) per[o].sum / (double) per[o].n / 1000, h_pct_us(&per[o], 50), h_pct_us(&per[o], 90),
             h_pct_us(&per[o], 99), h_pct_us(&per[o], 99.9), (double) per[o].max / 1000);
  if (cfg.intervals) {
    uint64_t low = UINT64_MAX;
    for (uint64_t i = 0; i < cfg.intervals; i++)
      if (done_in(ws, i) < low) low = done_in(ws, i);
    printf("  intervals of %g ms: lowest %" PRIu64 ", mean %.1f requests\n", (double) cfg.interval_ns / 1e6,
           low, iops * (double) cfg.interval_ns / 1e9);
  }
  printf("  CPU: client %.2f us/op (%.2f cores)", cli, (b.client - a.client) / secs);
  if (cfg.server_pid) printf(", server %.2f us/op (%.2f cores)", srv, (b.server - a.server) / secs);
  printf(", kernel threads %.2f, %s %.2f, idle %.2f of %d cores\n", kern,
         cfg.server_pid ? "others" : "server and others", foreign, idle, ncpu);
  if (errors) printf("  %" PRIu64 " requests failed, the first with error %d\n", errors, first_err);
  if (cfg.verify) printf("  verify: %" PRIu64 " bad blocks\n", bad);
}

int main(int argc, char **argv)
{
  parse_options(argc, argv);

  struct worker *ws = xalloc(sizeof *ws * (size_t) cfg.threads);
  struct conn *cs = xalloc(sizeof *cs * (size_t) cfg.conns);
  pthread_barrier_init(&start_line, NULL, (unsigned) cfg.threads + 1);

  for (int i = 0; i < cfg.conns; i++) {
    struct conn *c = &cs[i];
    uint64_t size0 = export_size;
    c->id = i;
    c->fd = -1;
#ifdef HAVE_LIBNBD
    if (cfg.libnbd) lib_connect(c); else
#endif
    raw_connect(c);
    if (i && size0 != export_size) die("the export's size differs between connections");
    if (!i) {
      check_flags();
      range_lo = cfg.off;
      if (cfg.off >= export_size) die("the offset is beyond the export (%" PRIu64 " bytes)", export_size);
      uint64_t n = export_size - cfg.off;
      if (cfg.size && cfg.size < n) n = cfg.size;
      range_blocks = n / cfg.bs;
      if (!range_blocks) die("the range is smaller than one block");
    }
    struct worker *w = &ws[i % cfg.threads];
    c->w = w;
    c->lo = c->pos = range_blocks * (uint64_t) i / (uint64_t) cfg.conns;
    c->hi = range_blocks * (uint64_t) (i + 1) / (uint64_t) cfg.conns;
    c->slots = xalloc(sizeof *c->slots * (size_t) cfg.qd);
    c->done = xalloc(sizeof *c->done * (size_t) cfg.qd);
    for (int k = 0; k < cfg.qd; k++) {
      c->slots[k].c = c;
      c->slots[k].idx = k;
      if (cfg.verify || cfg.libnbd) c->slots[k].buf = xalloc(cfg.bs);
    }
    w->conns = realloc(w->conns, sizeof *w->conns * (size_t) (w->nconns + 1));
    w->conns[w->nconns++] = c;
  }
  for (int i = 0; i < cfg.threads; i++) {
    struct worker *w = &ws[i];
    w->id = i;
    w->rng = mix64(cfg.seed * 1000003u + (uint64_t) i);
    w->done_in = xalloc(sizeof *w->done_in * cfg.intervals);
    w->wbuf = xalloc(cfg.bs + 8);
    for (uint32_t k = 0; k < cfg.bs; k += 8) { uint64_t v = rnd(w); memcpy(w->wbuf + k, &v, 8); }
    w->ep = epoll_create1(EPOLL_CLOEXEC);
    if (pthread_create(&w->tid, NULL, worker_main, w)) die("pthread_create: %s", strerror(errno));
  }
  pthread_barrier_wait(&start_line);
  t_go = now_ns();
  t_begin = t_go + (uint64_t) (cfg.ramp * 1e9);
  t_end = t_begin + (uint64_t) (cfg.secs * 1e9);
  pthread_barrier_wait(&start_line);

  struct cpu a, b;
  double secs = cfg.secs;
  if (cfg.once) {
    a = cpu_now();
    for (int i = 0; i < cfg.threads; i++) pthread_join(ws[i].tid, NULL);
    b = cpu_now();
    secs = (double) (now_ns() - t_go) / 1e9;
  } else {
    sleep_until(t_begin);
    a = cpu_now();
    sleep_until(t_end);
    b = cpu_now();
    for (int i = 0; i < cfg.threads; i++) pthread_join(ws[i].tid, NULL);
  }
  for (int i = 0; i < cfg.conns; i++) {
#ifdef HAVE_LIBNBD
    if (cfg.libnbd) { nbd_shutdown(cs[i].h, 0); nbd_close(cs[i].h); continue; }
#endif
    unsigned char d[32] = { 0 };
    uint32_t m = htobe32(hdr_used == 2 ? NBD_MAGIC_REQ_EXT : NBD_MAGIC_REQ);
    memcpy(d, &m, 4);
    d[7] = CMD_DISC;
    if (send(cs[i].fd, d, hdr_used == 2 ? 32 : 28, MSG_NOSIGNAL) < 0) { /* it is gone */ }
    close(cs[i].fd);
  }
  report(ws, secs, a, b);
  uint64_t bad = 0;
  for (int i = 0; i < cfg.threads; i++) bad += ws[i].errors + ws[i].bad_data;
  return bad ? 1 : 0;
}
