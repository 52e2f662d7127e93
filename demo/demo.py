#!/usr/bin/env python3
"""The whole path on one machine: two cameras, the box, the cloud, a viewer.

Without --duration it runs until Ctrl-C. With it, it ends by itself: it waits for the backlog, exports both cameras from
the cloud, compares source and export packet for packet and writes demo-data/summary.json; the exit code is 0 only if
nothing is missing and nothing differs. Everything is kept in demo-data; only loopback and free ports are used, and only
processes that were started here are ended.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time

import camera
import compare
import viewer

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(os.path.dirname(HERE), "demo-data")
CAMERAS = [("Bodycam TCP", "A. de Boer", "tcp"), ("Bodycam UDP", "B. Jansen", "udp")]
# Live may be thinned when the machine is busy; then it is seen here, and nothing is lost in the recording.
LIVE_SHARE = 0.95
PASSPHRASE = "only for the demo"


class Failed(Exception):
    """The demo cannot go on; the text says why."""


def free_port(*kinds):
    """A port that is free for all the given socket kinds."""
    while True:
        held = []
        try:
            first = socket.socket(socket.AF_INET, kinds[0])
            held.append(first)
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            for kind in kinds[1:]:
                held.append(socket.socket(socket.AF_INET, kind))
                held[-1].bind(("127.0.0.1", port))
            return port
        except OSError:
            continue
        finally:
            for each in held:
                each.close()


def free_udp_range(count):
    """The first of `count` free UDP ports, even."""
    for first in range(20000, 60000, count):
        held = []
        try:
            for port in range(first, first + count):
                held.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                held[-1].bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
        finally:
            for each in held:
                each.close()
    raise Failed("no range of free UDP ports")


class Demo:
    def __init__(self, binaries, duration):
        self.binaries, self.duration = os.path.abspath(binaries), duration
        self.children = []
        self.viewers, self.pushes, self.ids = [], [], []

    def start(self, name, *arguments):
        log = open(f"{name}.log", "wb")
        child = subprocess.Popen([os.path.join(self.binaries, arguments[0]), *arguments[1:]], stdin=subprocess.DEVNULL,
                                 stdout=log, stderr=log, start_new_session=True)
        self.children.append((name, child))
        return child

    def run(self, *arguments, patience=60):
        done = subprocess.run([os.path.join(self.binaries, arguments[0]), *arguments[1:]], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=patience)
        if done.returncode != 0:
            raise Failed(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}{done.stdout}")
        return done.stdout

    def ask(self, *arguments, **options):
        return json.loads(self.run(*arguments, "--json", **options))

    def box(self, *arguments):
        return self.ask("mvbctl", "--socket", "box/mvbd.sock", *arguments)

    def cloud(self, *arguments, **options):
        return self.ask("mvb-cloud", "--data", "cloud", *arguments, **options)

    def wait(self, what, seconds, condition):
        """Polls until the condition holds; a child that ended or the deadline is a failure."""
        end = time.monotonic() + seconds
        last = None
        while time.monotonic() < end:
            for name, child in self.children:
                if child.poll() is not None:
                    raise Failed(f"{name} ended with exit code {child.returncode}; see demo-data/{name}.log")
            try:
                result = condition()
                if result:
                    return result
                last = "it did not happen"
            except (Failed, OSError) as error:
                last = str(error)
            time.sleep(0.2)
        raise Failed(f"{what}: not within {seconds} s: {last}")

    def set_up(self):
        for folder in ("box", "cloud"):
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder)
        seconds = self.duration or 60
        print(f"Making the camera's file ({seconds} s) …" if not os.path.exists(f"camera-{seconds}.mp4") else
              f"Using the camera's file of {seconds} s.")
        self.file = f"camera-{seconds}.mp4"
        camera.make_file(self.file, seconds)

        boxes = free_port(socket.SOCK_DGRAM, socket.SOCK_STREAM)
        self.page, rtsp, metrics = (free_port(socket.SOCK_STREAM) for _ in range(3))
        udp = free_udp_range(32)
        with open("cloud.pass", "w", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(PASSPHRASE + "\n")
        with open("box/mvb.toml", "w", encoding="utf-8") as file:
            file.write(f"""[box]
name = "Demo car"
serial = "DEMO-1"
[storage]
path = "box/card"
[ingest]
udp_ports = "{udp}-{udp + 31}"
[ingest.rtsp]
listen = "127.0.0.1:{rtsp}"
[control]
socket = "mvbd.sock"
[metrics]
listen = "127.0.0.1:{metrics}"
""")
        self.start("mvb-cloud", "mvb-cloud", "--data", "cloud", "run", "--organisation", "Demo municipality",
                   "--host", f"127.0.0.1:{boxes}", "--listen", f"127.0.0.1:{boxes}", "--page", f"127.0.0.1:{self.page}",
                   "--passphrase-file", "cloud.pass")
        self.start("mvbd", "mvbd", "--config", "box/mvb.toml", "--state", "box")
        self.wait("the cloud", 30, lambda: self.cloud("status"))
        self.wait("the box", 30, lambda: self.box("status"))
        self.metrics = metrics

    def pair(self):
        code = self.cloud("pair", "create")["code"]
        print(f"Pairing with the code {code} …")
        self.box("pair", code)
        self.wait("pairing", 30, lambda: self.box("pair", "status")["state"] == "paired")

    def enrol_and_push(self):
        for name, officer, transport in CAMERAS:
            enrolled = self.box("camera", "add", name, "--officer", officer)
            user, password = enrolled["camera"]["user"], enrolled["password"]
            url = enrolled["url"].replace("rtsp://", f"rtsp://{user}:{password}@")
            log = open(f"ffmpeg-{transport}.log", "wb")
            push = camera.Push(self.file, url, transport, log, loop=not self.duration)
            self.pushes.append(push)
            self.ids.append(enrolled["camera"]["id"])
        # The viewers ask at once; until the first key frame is there the cloud tells them to wait.
        for index, (_, _, transport) in enumerate(CAMERAS):
            log = open(f"viewer-{transport}.log", "wb")
            self.viewers.append(viewer.Viewer("127.0.0.1", self.page, self.ids[index], log))

    def say(self):
        mvbctl = f"{os.path.relpath(os.path.join(self.binaries, 'mvbctl'), os.getcwd())} --socket box/mvbd.sock"
        cloud = f"{os.path.relpath(os.path.join(self.binaries, 'mvb-cloud'), os.getcwd())} --data cloud"
        print(f"""
Two cameras push to the box, the box seals, records and relays, the cloud verifies and opens. Look at it:

  live      http://127.0.0.1:{self.page}/
  box       cd demo-data && {mvbctl} status
            cd demo-data && {mvbctl} recordings
            curl -s http://127.0.0.1:{self.metrics}/metrics
  cloud     cd demo-data && {cloud} status
            cd demo-data && {cloud} recordings
  logs      demo-data/*.log
""")

    def run_on(self):
        print("Runs until Ctrl-C.")
        while True:
            for name, child in self.children:
                if child.poll() is not None:
                    raise Failed(f"{name} ended with exit code {child.returncode}; see demo-data/{name}.log")
            for push in self.pushes:
                if push.process.poll() is not None:
                    raise Failed("a camera (ffmpeg) ended; see demo-data/ffmpeg-*.log")
            time.sleep(0.5)

    def measure(self):
        for push, (_, _, transport) in zip(self.pushes, CAMERAS):
            code = push.process.wait(timeout=self.duration + 30)
            push.reader.join(10)
            if code != 0:
                raise Failed(f"the {transport} camera (ffmpeg) ended with exit code {code}; see demo-data/ffmpeg-{transport}.log")
        began = time.monotonic()
        # Live may lag behind by what it is allowed to; then the viewers have what they will get.
        time.sleep(2.5)
        for each in self.viewers:
            each.finish()
        print("The cameras have ended; waiting for the backlog …")
        self.wait("the backlog", 90, self.all_committed)
        self.complete_after = time.monotonic() - began
        print(f"Everything is in the cloud, at most {self.complete_after:.1f} s after the cameras ended.")

    def all_committed(self):
        """The box has nothing to send, and the cloud has committed as many units as the box has sealed."""
        status = self.box("status")
        committed = compare.committed(self.cloud("recordings"))
        return status["uplink"]["backlog_segments"] == 0 and all(
            each["state"] == "idle" and not each["connected"] and committed.get(each["id"], 0) >= each["units"] > 0
            for each in status["cameras"])

    def summary(self):
        status = {each["id"]: each for each in self.box("status")["cameras"]}
        committed = compare.committed(self.cloud("recordings"))
        result = {"duration_s": self.duration, "complete_after_s": round(self.complete_after, 1), "cameras": [], "ok": True}
        source = compare.packets(self.file)
        for index, (name, _, transport) in enumerate(CAMERAS):
            identity, push, watched = self.ids[index], self.pushes[index], self.viewers[index]
            target = f"export-{transport}.mp4"
            if os.path.exists(target):
                os.remove(target)
            self.run("mvb-cloud", "--data", "cloud", "export", "--camera", identity, "--out", target,
                     "--passphrase-file", "cloud.pass", patience=120)
            export = compare.packets(target)
            differing, missing, worst_ms = compare.difference(source, export)
            seen, sent = watched.seen, push.sent
            latencies = sorted((seen[n] - sent[n]) * 1000 for n in seen if n in sent and seen[n] < watched.finished)
            expected = [n for n in sent if n >= min(seen)] if seen else list(sent)
            entry = {
                "camera": name,
                "id": identity,
                "transport": transport,
                "packets": {
                    "in_file": sum(map(len, source.values())),
                    "sent": sum(push.packets),
                    "accepted": status[identity]["accepted"],
                    "sealed": status[identity]["units"],
                    "committed": committed.get(identity, 0),
                    "exported": sum(map(len, export.values())),
                    "missing": missing,
                    "differing": differing,
                },
                "video": {"in_file": len(source["video"]), "exported": len(export["video"])},
                "audio": {"in_file": len(source["audio"]), "exported": len(export["audio"])},
                "worst_time_error_ms": round(worst_ms, 2),
                "live": {
                    "frames_sent": len(sent),
                    "frames_before_viewer": len(sent) - len(expected),
                    "frames_seen": len(seen),
                    "share": round(len(seen) / len(expected), 4) if expected else 0,
                    "unreadable": watched.unreadable,
                    "latency_ms": {
                        "p50": round(statistics.median(latencies), 1),
                        "p95": round(latencies[int(len(latencies) * 0.95)], 1),
                        "worst": round(latencies[-1], 1),
                    } if latencies else None,
                },
            }
            counts = entry["packets"]
            same = {counts[key] for key in ("in_file", "sent", "accepted", "sealed", "committed", "exported")}
            entry["ok"] = len(same) == 1 and differing == 0 and missing == 0 and worst_ms <= 2 \
                and entry["live"]["share"] >= LIVE_SHARE
            result["ok"] = result["ok"] and entry["ok"]
            result["cameras"].append(entry)
        with open("summary.json", "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)
            file.write("\n")
        return result

    def end(self):
        """Ends what was started here: cameras, box, then cloud."""
        for each in self.viewers:
            each.stop.set()
        for push in self.pushes:
            if push.process.poll() is None:
                push.process.terminate()
        clean = True
        for name, child in reversed(self.children):
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
            try:
                code = child.wait(timeout=30)
            except subprocess.TimeoutExpired:
                child.kill()
                code = child.wait()
            if code != 0:
                clean = False
                print(f"{name} ended with exit code {code}; see demo-data/{name}.log", file=sys.stderr)
        for push in self.pushes:
            try:
                push.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                push.process.kill()
        return clean


def stop(*_):
    raise KeyboardInterrupt


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, help="folder of mvbd, mvb-cloud and mvbctl")
    parser.add_argument("--duration", type=int, help="seconds of footage; then check everything and end")
    arguments = parser.parse_args()
    if arguments.duration is not None and not 5 <= arguments.duration <= 2600:
        parser.error("--duration is 5 to 2600 seconds (the burned-in number has 16 bits)")
    os.makedirs(DATA, exist_ok=True)
    demo = Demo(arguments.bin, arguments.duration)
    os.chdir(DATA)
    signal.signal(signal.SIGTERM, stop)
    code = 1
    try:
        demo.set_up()
        demo.pair()
        demo.enrol_and_push()
        demo.say()
        if arguments.duration is None:
            demo.run_on()
        demo.measure()
        result = demo.summary()
        print(json.dumps(result, indent=2))
        code = 0 if result["ok"] else 1
        print("All is well." if result["ok"] else "NOT all is well: see demo-data/summary.json")
    except KeyboardInterrupt:
        print("\nEnding …")
        code = 0 if arguments.duration is None else 130
    except (Failed, OSError, subprocess.SubprocessError) as error:
        print(f"The demo failed: {error}", file=sys.stderr)
    finally:
        # A second Ctrl-C must not leave processes behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if not demo.end():
            code = code or 1
    return code


if __name__ == "__main__":
    sys.exit(main())
