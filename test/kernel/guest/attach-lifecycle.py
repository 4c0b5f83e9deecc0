#!/usr/bin/python3
"""Arguments: SLEDGE PORT TLS_PORT CERTIFICATES VOLUME SHARE. What may go wrong, adoption, TLS.

The host replaces a server when it sees SHARE/orphaned and the other one when it sees SHARE/encrypted; upon SHARE/verified it
grows the volume.
"""
import json
import os
import signal
import subprocess
import sys
import time

from attach_common import (
    HOST, command, error_code, kernel_errors, leftovers, note, say, size, supervisors, tell, wait_for, wait_until)

SLEDGE, PORT, TLS_PORT, CERTIFICATES, VOLUME, SHARE = sys.argv[1:7]
URI = "nbd://%s:%s/%s" % (HOST, PORT, VOLUME)
MODULE = subprocess.getoutput("ls /usr/lib/uml/modules/$(uname -r)/kernel/drivers/block/nbd.ko")


def attach(*more):
    return json.loads(command(SLEDGE, "attach", *more, "--json"))


def listed():
    return json.loads(command(SLEDGE, "attach", "--list", "--json"))["devices"]


def fill(device, letter):
    """Writes past the page cache, in the background; what it wrote can be compared later."""
    return subprocess.Popen(
        "set -o pipefail; head -c 1048576 /dev/zero | tr '\\0' %s | dd of=%s bs=64k oflag=direct iflag=fullblock" % (letter, device),
        shell=True, stderr=subprocess.DEVNULL, executable="/bin/bash")


def holds(device, letter):
    with open(device, "rb") as file:
        return file.read(1048576) == letter.encode() * 1048576


def refusals():
    command("rmmod", "nbd")
    say("no_driver", error_code(SLEDGE, "attach", VOLUME, "--from", URI))
    command("insmod", MODULE)
    say("no_server", error_code(SLEDGE, "attach", VOLUME, "--from", "nbd://%s:1/x" % HOST))
    say("no_volume", error_code(SLEDGE, "attach", VOLUME, "--from", "nbd://%s:%s/other" % (HOST, PORT)))
    say("tls_required", error_code(SLEDGE, "attach", VOLUME, "--from", "nbd://%s:%s/%s" % (HOST, TLS_PORT, VOLUME)))
    os.makedirs("/run/sledge", exist_ok=True)
    os.chmod("/run/sledge", 0o777)
    say("not_root", error_code("setpriv", "--reuid=65534", "--clear-groups", SLEDGE, "attach", VOLUME, "--from", URI))
    os.chmod("/run/sledge", 0o755)

    command("nbd-client", HOST, PORT, "-N", VOLUME, "/dev/nbd3")
    say("busy", error_code(SLEDGE, "attach", VOLUME, "/dev/nbd3", "--from", URI))
    say("foreign", error_code(SLEDGE, "detach", "/dev/nbd3"))
    command("nbd-client", "-d", "/dev/nbd3")
    say("nothing", error_code(SLEDGE, "detach", VOLUME))
    say("nothing_to_adopt", error_code(SLEDGE, "attach", VOLUME, "--adopt"))
    wait_until(lambda: not os.path.exists("/sys/block/nbd3/pid"), 5, "nbd-client to let go")
    say("left_by_refusals", len(leftovers()))


def in_use():
    attach(VOLUME, "/dev/nbd2", "--from", URI)
    say("twice", error_code(SLEDGE, "attach", VOLUME, "--from", URI))
    command("mkfs.ext4", "-q", "-F", "/dev/nbd2")
    os.makedirs("/mnt/fs", exist_ok=True)
    command("mount", "/dev/nbd2", "/mnt/fs")
    say("mounted", error_code(SLEDGE, "detach", VOLUME))
    command("umount", "/mnt/fs")


def another_server():
    """Any NBD server will do; this one is reached over a Unix socket."""
    server = subprocess.Popen(["nbdkit", "-f", "-U", "/run/nbdkit.sock", "memory", "64M"])
    wait_until(lambda: os.path.exists("/run/nbdkit.sock"), 10, "nbdkit")
    attach("other", "/dev/nbd5", "--from", "nbd+unix:///?socket=/run/nbdkit.sock", "--connections", "2")
    say("over_unix", fill("/dev/nbd5", "u").wait() == 0 and holds("/dev/nbd5", "u"))
    command(SLEDGE, "detach", "other")
    server.kill()
    server.wait()


def adoption():
    """The supervisor dies; the device works on; the server is replaced; I/O waits; another supervisor takes over."""
    [device] = listed()
    os.kill(device["pid"], signal.SIGKILL)
    wait_until(lambda: not supervisors(), 5, "the supervisor to die")
    say("supervised", listed()[0]["supervised"])
    say("works_alone", fill("/dev/nbd2", "a").wait() == 0 and holds("/dev/nbd2", "a"))
    tell(SHARE, "orphaned")
    wait_for(SHARE, "replaced-1", 20)
    writer = fill("/dev/nbd2", "b")
    time.sleep(1)
    say("waits_alone", writer.poll() is None)
    command(SLEDGE, "attach", "--adopt")
    say("adopted", listed()[0]["supervised"])
    say("goes_on", writer.wait(20) == 0 and holds("/dev/nbd2", "b"))
    say("adopt_again", command(SLEDGE, "attach", "--adopt").strip())
    command(SLEDGE, "detach", "/dev/nbd2")
    say("left_by_adoption", len(leftovers()))


def encrypted():
    uri = "nbds://%s:%s/%s?tls-hostname=localhost" % (HOST, TLS_PORT, VOLUME)
    wrong = uri.replace("localhost", "elsewhere")
    say("wrong_name", error_code(SLEDGE, "attach", VOLUME, "--from", wrong, "--tls-certificates", CERTIFICATES))
    # As if systemd ran this guest: the unit is looked at, and not started.
    os.makedirs("/run/systemd/system", exist_ok=True)
    attach(VOLUME, "/dev/nbd1", "--from", uri, "--tls-certificates", CERTIFICATES, "--persist")
    with open("/etc/systemd/system/sledge-attach-%s.service" % VOLUME) as file:
        unit = file.read()
    note(unit)
    say("unit", "--adopt --foreground" in unit and uri in unit)
    say("verified", fill("/dev/nbd1", "c").wait() == 0 and holds("/dev/nbd1", "c"))
    tell(SHARE, "encrypted")
    wait_for(SHARE, "replaced-2", 20)
    command("sh", "-c", "echo 3 >/proc/sys/vm/drop_caches")
    say("verified_again", holds("/dev/nbd1", "c") and fill("/dev/nbd1", "d").wait() == 0 and holds("/dev/nbd1", "d"))
    say("encrypted_reconnects", listed()[0]["reconnects"])
    before = size(1)
    tell(SHARE, "verified")
    wait_until(lambda: size(1) > before, 15, "the device to grow")
    say("grown", size(1) - before)
    command(SLEDGE, "detach", VOLUME, "--forget")
    say("unit_left", os.path.exists("/etc/systemd/system/sledge-attach-%s.service" % VOLUME))
    say("left_by_tls", len(leftovers()))


class Relay:
    """What leads to the server for a while, and then no longer."""

    PORT = "7777"

    def __init__(self):
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            ["socat", "TCP-LISTEN:%s,fork,reuseaddr" % self.PORT, "TCP:%s:%s" % (HOST, PORT)], start_new_session=True)
        # Not by connecting: that would be one more client of the server.
        wait_until(lambda: command("ss", "-Htln", "sport = :%s" % self.PORT), 5, "the relay")

    def stop(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def impatient():
    """I/O fails once its time is over, and only then; when the server is back, the device is, too."""
    relay = Relay()
    uri = "nbd://127.0.0.1:%s/%s" % (relay.PORT, VOLUME)
    attach(VOLUME, "/dev/nbd4", "--from", uri, "--timeout", "2", "--request-timeout", "1", "--connections", "2")
    relay.stop()
    begun = time.monotonic()
    say("fails", fill("/dev/nbd4", "e").wait(20) != 0)
    say("failed_after", "%.1f" % (time.monotonic() - begun))
    wait_until(lambda: listed()[0]["state"] == "reconnecting", 20, "the state to be known")
    say("last_error", listed()[0]["lastError"] != "")
    relay.start()
    wait_until(lambda: listed()[0]["state"] == "connected", 20, "the device to be connected again")
    say("both_reconnected", listed()[0]["reconnects"] == 2)
    say("works_again", fill("/dev/nbd4", "f").wait(20) == 0 and holds("/dev/nbd4", "f"))
    command(SLEDGE, "detach", VOLUME)
    relay.stop()


def abandoned():
    """A device whose server is gone for good is detached all the same, and who waits for it is told."""
    relay = Relay()
    attach(VOLUME, "/dev/nbd4", "--from", "nbd://127.0.0.1:%s/%s" % (relay.PORT, VOLUME))
    relay.stop()
    writer = fill("/dev/nbd4", "g")
    time.sleep(2)
    say("waits", writer.poll() is None)
    command(SLEDGE, "detach", VOLUME)
    say("told", writer.wait(5) != 0)
    say("left_by_abandoned", len(leftovers()))


started = time.monotonic()
for part in (refusals, in_use, adoption, encrypted):
    part()
    note("%s: until %.1f s" % (part.__name__, time.monotonic() - started))
say("kernel_errors", kernel_errors())
for part in (another_server, impatient, abandoned):
    part()
    note("%s: until %.1f s" % (part.__name__, time.monotonic() - started))
