"""What the guest scripts of `sledge attach` share. A guest reports to its test with lines KEY=VALUE on stdout."""
import glob
import json
import os
import subprocess
import sys
import time

HOST = os.environ["HOST"]


def say(key, value):
    print("%s=%s" % (key, value), flush=True)


def note(text):
    print(text, file=sys.stderr, flush=True)


def tell(share, event):
    open(os.path.join(share, event), "w").close()


def wait_until(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.05)


def wait_for(share, event, seconds):
    wait_until(lambda: os.path.exists(os.path.join(share, event)), seconds, event)


def command(*args, check=True, limit=60, **more):
    result = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=limit, **more)
    if check and result.returncode != 0:
        note("%s: %d\n%s%s" % (args, result.returncode, result.stdout.decode(), result.stderr.decode()))
        sys.exit(1)
    return result.stdout.decode()


def error_code(*args, **more):
    """The code of the error that a sledge command ends with."""
    answer = command(*args, "--json", check=False, **more)
    try:
        return json.loads(answer)["error"]["code"]
    except (ValueError, KeyError):
        return "none: %s" % answer


def size(index):
    with open("/sys/block/nbd%d/size" % index) as file:
        return int(file.read()) * 512


def supervisors():
    """Processes of `sledge attach`."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        if b"attach" in words and b"--foreground" in words:
            found.append(int(path.split("/")[2]))
    return found


def leftovers():
    """Whatever an attached device leaves while it is there: connected devices, sizes, supervisors, records."""
    connected = glob.glob("/sys/block/nbd*/pid")
    sized = [path for path in glob.glob("/sys/block/nbd*/size") if open(path).read().strip() != "0"]
    records = glob.glob("/run/sledge/*.json*")
    return connected + sized + supervisors() + records


def kernel_errors():
    """Lines of the kernel log that tell of lost data; that a connection timed out and is tried again is none."""
    lines = [line for line in command("dmesg").split("\n") if "I/O error" in line or "EXT4-fs error" in line]
    for line in lines:
        note(line)
    return len(lines)
