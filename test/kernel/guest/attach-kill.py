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

HOST = os.environ["HOST"]
SLEDGE, PORT, VOLUME, SHARE, SECONDS = sys.argv[1:6]
URI = "nbd://%s:%s/%s" % (HOST, PORT, VOLUME)
DEVICE = "/dev/nbd0"
IOPS = 300


def say(key, value):
    print("%s=%s" % (key, value), flush=True)


def command(*args, check=True, limit=60):
    result = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=limit)
    if check and result.returncode != 0:
        sys.stderr.write("%s: %d\n%s%s" % (args, result.returncode, result.stdout.decode(), result.stderr.decode()))
        sys.exit(1)
    return result.stdout.decode()


def tell(event):
    open(os.path.join(SHARE, event), "w").close()


def wait_for(event, seconds):
    for _ in range(seconds * 10):
        if os.path.exists(os.path.join(SHARE, event)):
            return
        time.sleep(0.1)
    raise TimeoutError(event)


def size():
    with open("/sys/block/nbd0/size") as file:
        return int(file.read()) * 512


def main():
    started = time.monotonic()
    attached = json.loads(command(SLEDGE, "attach", VOLUME, DEVICE, "--from", URI, "--json"))
    say("attach_seconds", "%.1f" % (time.monotonic() - started))
    say("device", attached["device"])
    say("size", size())
    command("mkfs.ext4", "-q", "-F", DEVICE)
    os.makedirs("/mnt/fs", exist_ok=True)
    command("mount", DEVICE, "/mnt/fs")
    tell("writing")
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
    tell("written")

    wait_for("grow", 20)
    before = size()
    for _ in range(100):
        if size() > before:
            break
        time.sleep(0.1)
    say("grown_to", size())
    command("resize2fs", DEVICE)
    say("file_system_bytes", int(command("df", "--output=size", "-B1", "/mnt/fs").split()[-1]))
    command("dd", "if=/dev/zero", "of=/mnt/fs/more", "bs=1M", "count=16", "conv=fsync")

    listed = json.loads(command(SLEDGE, "attach", "--list", "--json"))["devices"]
    say("listed", len(listed))
    say("state", listed[0]["state"])
    say("reconnects", listed[0]["reconnects"])
    command("umount", "/mnt/fs")
    say("fsck", subprocess.run(["e2fsck", "-fn", DEVICE], stdout=sys.stderr).returncode)
    with open("/run/sledge/%s.log" % VOLUME) as file:
        sys.stderr.write(file.read())
    command(SLEDGE, "detach", VOLUME)
    say("size_after", size())
    say("still_connected", os.path.exists("/sys/block/nbd0/pid"))
    complaints = command("dmesg")
    lines = [line for line in complaints.split("\n") if "I/O error" in line or "EXT4-fs error" in line]
    sys.stderr.write("\n".join(line for line in complaints.split("\n") if "nbd" in line) + "\n")
    say("complaints", len(lines))


main()
