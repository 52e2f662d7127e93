"""A camera made of ffmpeg: one fixed file, pushed as it is.

The picture carries its frame number twice: readable (testsrc2 writes number and clock), and as a row of black and white
blocks with the inverted row below it, so that a viewer can read it without knowing the picture.
"""

import os
import subprocess
import threading
import time

WIDTH, HEIGHT, RATE, GOP = 640, 360, 25, 50
BITS, BLOCK, TOP = 16, 24, 300
LEFT = (WIDTH - BITS * BLOCK) // 2


def make_file(path, seconds):
    """Encodes the file once. A second call with the same length keeps it."""
    if os.path.exists(path):
        return
    blocks = [f"drawbox=x={LEFT}:y={TOP}:w={BITS * BLOCK}:h={2 * BLOCK}:color=black:t=fill"]
    for bit in range(BITS):
        x = LEFT + (BITS - 1 - bit) * BLOCK
        is_set = f"mod(floor(n/{2 ** bit})\\,2)"
        blocks.append(f"drawbox=x={x}:y={TOP}:w={BLOCK}:h={BLOCK}:color=white:t=fill:enable={is_set}")
        blocks.append(f"drawbox=x={x}:y={TOP + BLOCK}:w={BLOCK}:h={BLOCK}:color=white:t=fill:enable=not({is_set})")
    part = path + ".part.mp4"
    subprocess.run(
        ["ffmpeg", "-hide_banner", "-loglevel", "error", "-y",
         "-f", "lavfi", "-i", f"testsrc2=size={WIDTH}x{HEIGHT}:rate={RATE}",
         "-f", "lavfi", "-i", "sine=frequency=440:beep_factor=4:sample_rate=48000",
         "-t", str(seconds), "-vf", ",".join(blocks),
         "-c:v", "libx264", "-preset", "veryfast", "-profile:v", "main", "-bf", "0", "-g", str(GOP),
         "-sc_threshold", "0", "-pix_fmt", "yuv420p", "-b:v", "1500k", "-maxrate", "2500k", "-bufsize", "1500k",
         "-c:a", "aac", "-b:a", "96k", "-ac", "1", "-use_editlist", "0", "-movflags", "+faststart", part],
        check=True)
    os.rename(part, path)


def read_number(gray, width):
    """The burned-in number from a gray strip that begins at the first row of blocks, or None if it does not read."""
    number = 0
    for index in range(BITS):
        x = index * BLOCK + BLOCK // 2
        upper = gray[(BLOCK // 2) * width + x]
        lower = gray[(BLOCK + BLOCK // 2) * width + x]
        if abs(upper - lower) < 64:
            return None
        number = number * 2 + (upper > lower)
    return number


class Push:
    """One ffmpeg that sends the file in real time, and what it sent when.

    A second output of the same process writes one line per packet in the same moment in which the first sends it; the
    time at which that line arrives here is the time at which the camera sent the frame.

    Sound goes as MP4A-LATM, one frame a packet: packed as AAC-hbr, ffmpeg's default, the last frames of a file wait in its
    packetiser for more and are never sent (2 of 376 in 8 s of the demo's file).
    """

    def __init__(self, path, url, transport, log, loop):
        self.sent = {}
        self.packets = [0, 0]
        command = ["ffmpeg", "-hide_banner", "-loglevel", "warning", "-nostdin", "-re"]
        command += ["-stream_loop", "-1"] if loop else []
        command += ["-i", path, "-map", "0:v", "-map", "0:a", "-c", "copy", "-f", "rtsp", "-rtpflags", "latm",
                    "-rtsp_transport", transport, url,
                    "-map", "0:v", "-map", "0:a", "-c", "copy", "-flush_packets", "1", "-f", "framecrc", "pipe:1"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, bufsize=0)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        ticks = {}
        for line in self.process.stdout:
            now = time.monotonic()
            text = line.decode().strip()
            if text.startswith("#tb "):
                stream, base = text[4:].split(": ")
                top, bottom = base.split("/")
                ticks[int(stream)] = int(top) / int(bottom)
            if text.startswith("#") or "," not in text:
                continue
            stream, _, pts = (int(field) for field in text.split(",")[:3])
            self.packets[stream] += 1
            if stream == 0:
                self.sent.setdefault(round(pts * ticks[0] * RATE), now)
