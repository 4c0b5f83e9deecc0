#!/usr/bin/python3
"""Arguments: SLEDGE PORT VOLUME SHARE SECONDS. An attached device lives through what the host does to its server.

fio writes to a file system on the device, and the kernel tells how long the longest request took; the host kills, upgrades
and restarts the server from when it sees SHARE/writing. Once SHARE/grow appears the volume has grown. Then everything is
verified, and the device detached.
"""
import json
import os
import subprocess
import sys
import time

from attach_common import HOST, command, kernel_errors, leftovers, say, size, tell, wait_for, wait_until

SLEDGE, PORT, VOLUME, SHARE, SECONDS = sys.argv[1:6]
URI = "nbd://%s:%s/%s" % (HOST, PORT, VOLUME)
DEVICE = "/dev/nbd0"
IOPS = 300


def main():
    started = time.monotonic()
    attached = json.loads(command(SLEDGE, "attach", VOLUME, DEVICE, "--from", URI, "--json"))
    say("attach_seconds", "%.1f" % (time.monotonic() - started))
    say("device", attached["device"])
    say("size", size(0))
    command("mkfs.ext4", "-q", "-F", DEVICE)
    os.makedirs("/mnt/fs", exist_ok=True)
    command("mount", DEVICE, "/mnt/fs")
    tell(SHARE, "writing")
    fio = subprocess.run(
        ["fio", "--name=v", "--filename=/mnt/fs/file", "--size=%dk" % (int(SECONDS) * IOPS * 4), "--rw=randwrite",
         "--bs=4k", "--ioengine=libaio", "--iodepth=8", "--direct=1", "--rate_iops=%d" % IOPS, "--verify=crc32c",
         "--do_verify=1", "--verify_fatal=1", "--verify_state_save=0", "--end_fsync=1", "--output-format=json"],
        stdout=subprocess.PIPE, timeout=int(SECONDS) * 2 + 30)
    say("fio", fio.returncode)
    text = fio.stdout.decode()
    job = json.loads(text[text.index("{"):])["jobs"][0]
    say("errors", job["error"])
    say("writes", job["write"]["total_ios"])
    say("reads", job["read"]["total_ios"])
    say("longest_stall_ms", job["write"]["lat_ns"]["max"] // 1000000)
    tell(SHARE, "written")

    wait_for(SHARE, "grow", 20)
    asked = time.monotonic()
    wait_until(lambda: size(0) > attached["sizeBytes"], 15, "the device to grow")
    say("grown_after_seconds", "%.1f" % (time.monotonic() - asked))
    say("grown_to", size(0))
    command("resize2fs", DEVICE)
    say("file_system_bytes", int(command("df", "--output=size", "-B1", "/mnt/fs").split()[-1]))
    command("dd", "if=/dev/zero", "of=/mnt/fs/more", "bs=1M", "count=16", "conv=fsync")

    listed = json.loads(command(SLEDGE, "attach", "--list", "--json"))["devices"]
    say("listed", len(listed))
    say("state", listed[0]["state"])
    say("reconnects", listed[0]["reconnects"])
    with open("/proc/%d/status" % listed[0]["pid"]) as file:
        say("supervisor_kib", [line.split()[1] for line in file if line.startswith("VmRSS")][0])
    say("supervisor_descriptors", len(os.listdir("/proc/%d/fd" % listed[0]["pid"])))
    command("umount", "/mnt/fs")
    say("fsck", subprocess.run(["e2fsck", "-fn", DEVICE], stdout=sys.stderr).returncode)
    with open("/run/sledge/%s.log" % VOLUME) as file:
        print("".join("supervisor: %s" % line for line in file), flush=True)
    command(SLEDGE, "detach", VOLUME)
    say("left", len(leftovers()))
    say("kernel_errors", kernel_errors())


main()
