"""A viewer of the cloud's live page: takes the fragments that the page's WebSocket serves, decodes them with ffmpeg and
reads the burned-in frame number from each picture. Nothing of mvb's own counters is used.
"""

import base64
import json
import os
import socket
import subprocess
import threading
import time

import camera


class WebSocket:
    """Just enough of RFC 6455 for a client that only listens."""

    def __init__(self, host, port, path):
        self.socket = socket.create_connection((host, port), timeout=10)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall((f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nOrigin: http://{host}:{port}\r\n"
                             "Upgrade: websocket\r\nConnection: Upgrade\r\n"
                             f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n").encode())
        self.rest = b""
        while b"\r\n\r\n" not in self.rest:
            self.rest += self._some()
        head, self.rest = self.rest.split(b"\r\n\r\n", 1)
        if b" 101 " not in head.split(b"\r\n")[0] + b" ":
            raise ConnectionError(head.split(b"\r\n")[0].decode())
        self.socket.settimeout(1)

    def _some(self):
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("closed")
        return data

    def _take(self, count, stop):
        while len(self.rest) < count:
            try:
                self.rest += self._some()
            except TimeoutError:
                if stop.is_set():
                    raise ConnectionError("stopped") from None
        data, self.rest = self.rest[:count], self.rest[count:]
        return data

    def message(self, stop):
        """The next message: (is text, bytes)."""
        whole, kind = b"", 0
        while True:
            first, second = self._take(2, stop)
            length = second & 0x7f
            if length >= 126:
                length = int.from_bytes(self._take(2 if length == 126 else 8, stop), "big")
            data = self._take(length, stop)
            code = first & 0x0f
            if code == 8:
                raise ConnectionError("closed by the server")
            if code == 9:
                mask = os.urandom(4)
                masked = bytes(b ^ mask[i % 4] for i, b in enumerate(data))
                self.socket.sendall(bytes([0x8a, 0x80 | len(data)]) + mask + masked)
            if code in (0, 1, 2):
                whole, kind = whole + data, code or kind
                if first & 0x80:
                    return kind == 1, whole

    def close(self):
        self.socket.close()


class Viewer:
    """Watches one camera until stopped; `seen` holds when each number was first decoded."""

    def __init__(self, host, port, camera_id, log):
        self.address, self.camera_id, self.log = (host, port), camera_id, log
        self.seen, self.unreadable, self.states, self.starts = {}, 0, [], 0
        self.finished = None
        self.stop = threading.Event()
        self.decoder = None
        self.readers = []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def finish(self, patience=10):
        # What the decoder gives out only because its input ends was seen, but says nothing about latency.
        self.finished = time.monotonic()
        self.stop.set()
        self.thread.join(patience)
        self._end_decoder()
        for reader in self.readers:
            reader.join(patience)

    def _run(self):
        while not self.stop.is_set():
            try:
                link = WebSocket(*self.address, f"/api/live/{self.camera_id}")
                try:
                    self._watch(link)
                finally:
                    link.close()
            except OSError as error:
                if not self.stop.is_set():
                    self.states.append(str(error))
                    time.sleep(0.3)

    def _watch(self, link):
        while not self.stop.is_set():
            is_text, data = link.message(self.stop)
            if is_text:
                note = json.loads(data)
                if "state" in note:
                    self.states.append(note["state"])
                if "mime" in note:
                    # New parameters: a player starts anew.
                    self._end_decoder()
                    self._start_decoder()
            elif self.decoder is not None:
                try:
                    self.decoder.stdin.write(data)
                except OSError:
                    self.decoder = None

    def _start_decoder(self):
        self.starts += 1
        width, height = camera.BITS * camera.BLOCK, 2 * camera.BLOCK
        self.decoder = subprocess.Popen(
            ["ffmpeg", "-hide_banner", "-loglevel", "warning", "-threads", "1",
             "-flags", "low_delay", "-probesize", "32", "-analyzeduration", "0", "-f", "mp4", "-i", "pipe:0", "-an",
             "-vf", f"crop={width}:{height}:{camera.LEFT}:{camera.TOP}", "-fps_mode", "passthrough",
             "-pix_fmt", "gray", "-flush_packets", "1", "-f", "rawvideo", "pipe:1"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, bufsize=0)
        reader = threading.Thread(target=self._read, args=(self.decoder, width, height), daemon=True)
        reader.start()
        self.readers.append(reader)

    def _end_decoder(self):
        if self.decoder is not None:
            try:
                self.decoder.stdin.close()
            except OSError:
                pass
            self.decoder = None

    def _read(self, decoder, width, height):
        size = width * height
        picture = b""
        while True:
            data = decoder.stdout.read(size - len(picture))
            if not data:
                break
            picture += data
            if len(picture) == size:
                number = camera.read_number(picture, width)
                if number is None:
                    self.unreadable += 1
                else:
                    self.seen.setdefault(number, time.monotonic())
                picture = b""
        decoder.wait()
