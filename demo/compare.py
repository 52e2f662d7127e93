"""Compares two MP4 files packet for packet, with ffmpeg's framemd5 and nothing of mvb's."""

import subprocess


def packets(path):
    """{"video"|"audio": [(time in ms, size, MD5 of the coded packet)]} in file order."""
    result = {}
    for kind in ("video", "audio"):
        text = subprocess.run(
            ["ffmpeg", "-hide_banner", "-loglevel", "error", "-nostdin", "-ignore_editlist", "1", "-i", path,
             "-map", f"0:{kind[0]}:0", "-c", "copy", "-f", "framemd5", "-"],
            check=True, capture_output=True, text=True).stdout
        top, bottom = (int(part) for part in
                       next(line for line in text.splitlines() if line.startswith("#tb 0: "))[7:].split("/"))
        rows = [[field.strip() for field in line.split(",")] for line in text.splitlines() if not line.startswith("#")]
        result[kind] = [(int(row[2]) * 1000 * top / bottom, int(row[4]), row[5]) for row in rows]
    return result


def difference(source, export):
    """(packets whose bytes differ, packets missing or too many, worst error of time in ms)."""
    differing = missing = 0
    worst = 0.0
    for kind, wanted in source.items():
        got = export[kind]
        missing += abs(len(wanted) - len(got))
        for (at, size, digest), (got_at, got_size, got_digest) in zip(wanted, got):
            differing += (size, digest) != (got_size, got_digest)
            worst = max(worst, abs((at - wanted[0][0]) - (got_at - got[0][0])))
    return differing, missing, worst


def committed(recordings):
    """Units in committed segments by camera id, as the cloud lists them."""
    result = {}
    for recording in recordings:
        result[recording["camera"]] = result.get(recording["camera"], 0) + recording["units"]
    return result
