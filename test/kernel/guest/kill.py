#!/usr/bin/python3
"""Arguments: PORT EXPORT SHARE. The server is killed while this writes, and started again.

Four writers stamp blocks of the raw device, each its own; `acknowledged` holds what each block must hold at least, and
`issued` what it may hold besides. Then a file system is written: a file counts as soon as its fsync has returned. The
host kills the server when it sees SHARE/writing or SHARE/filing, and has started a new one when SHARE/again-N appears.
"""
import mmap
import os
import subprocess
import sys
import threading
import time

HOST = os.environ["HOST"]
PORT, EXPORT, SHARE = sys.argv[1:4]
DEVICE = "/dev/nbd0"
BLOCK = 4096
WRITERS = 4
BLOCKS_EACH = 512


def say(key, value):
    print("%s=%s" % (key, value), flush=True)


def command(*args, check=True):
    return subprocess.run(args, stdout=sys.stderr, stderr=sys.stderr, check=check, timeout=40).returncode


def attach():
    command("nbd-client", HOST, PORT, "-N", EXPORT, "-b", "4096", "-timeout", "3", DEVICE)


def detach():
    command("nbd-client", "-d", DEVICE, check=False)
    time.sleep(0.5)


def tell(event):
    open(os.path.join(SHARE, event), "w").close()


def wait_for(event):
    for _ in range(200):
        if os.path.exists(os.path.join(SHARE, event)):
            return
        time.sleep(0.2)
    raise TimeoutError(event)


class Writer(threading.Thread):
    """Writes ever higher stamps to its blocks, in an order of its own, until the device gives an error."""

    def __init__(self, number):
        super().__init__()
        self.first = number * BLOCKS_EACH
        self.acknowledged = [0] * BLOCKS_EACH
        self.issued = [0] * BLOCKS_EACH
        self.stamp = 0
        self.error = None
        self.step = 2 * number + 7

    def run(self):
        fd = os.open(DEVICE, os.O_RDWR | os.O_DIRECT)
        buffer = mmap.mmap(-1, BLOCK)
        block = 0
        try:
            while self.stamp < 100000:
                self.stamp += 1
                block = (block + self.step) % BLOCKS_EACH
                self.issued[block] = self.stamp
                buffer[:] = pattern(self.first + block, self.stamp)
                if os.pwrite(fd, buffer, (self.first + block) * BLOCK) != BLOCK:
                    raise OSError("short write")
                self.acknowledged[block] = self.stamp
        except OSError as error:
            self.error = error
        finally:
            os.close(fd)


def pattern(block, stamp):
    return (block.to_bytes(4, "big") + stamp.to_bytes(4, "big")) * (BLOCK // 8)


def raw_device():
    attach()
    writers = [Writer(number) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    time.sleep(2)
    tell("writing")
    for writer in writers:
        writer.join(40)
    say("writers_stopped", sum(writer.error is not None for writer in writers))
    detach()
    wait_for("again-1")
    attach()
    wrong = 0
    fd = os.open(DEVICE, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, BLOCK)
    for writer in writers:
        for i in range(BLOCKS_EACH):
            block = writer.first + i
            os.preadv(fd, [buffer], block * BLOCK)
            allowed = {writer.acknowledged[i], writer.issued[i]}
            if not any(bytes(buffer) == (pattern(block, stamp) if stamp else bytes(BLOCK)) for stamp in allowed):
                wrong += 1
                print("block %d is none of %s: %s" % (block, allowed, bytes(buffer[:16]).hex()), file=sys.stderr)
    os.close(fd)
    say("acknowledged", sum(sum(1 for stamp in writer.acknowledged if stamp) for writer in writers))
    say("writes", sum(writer.stamp for writer in writers))
    say("wrong_blocks", wrong)


def file_system():
    command("mkfs.ext4", "-q", "-F", DEVICE)
    os.makedirs("/mnt/fs", exist_ok=True)
    command("mount", DEVICE, "/mnt/fs")
    synced = 0
    started = time.monotonic()
    told = False
    try:
        while synced < 5000:
            with open("/mnt/fs/%d" % synced, "wb") as file:
                file.write(content(synced))
                file.flush()
                os.fsync(file.fileno())
            # The name is as durable as the directory is.
            fd = os.open("/mnt/fs", os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
            synced += 1
            if not told and time.monotonic() - started > 2:
                tell("filing")
                told = True
    except OSError as error:
        print("stopped by %s" % error, file=sys.stderr)
    say("files", synced)
    command("umount", "-l", "/mnt/fs", check=False)
    detach()
    wait_for("again-2")
    attach()
    command("mount", DEVICE, "/mnt/fs")
    wrong = 0
    for number in range(synced):
        try:
            with open("/mnt/fs/%d" % number, "rb") as file:
                wrong += file.read() != content(number)
        except OSError:
            wrong += 1
    say("wrong_files", wrong)
    command("umount", "/mnt/fs")
    say("fsck", command("e2fsck", "-fn", DEVICE, check=False))
    detach()


def content(number):
    return (b"file %d\n" % number) * (1 + number * 37 % 2000)


raw_device()
file_system()
