#!/usr/bin/env python3
"""Second implementation of docs/spec/sealed-segment.md: proves segments and journal, and opens segments.

    verify.py vectors FOLDER             verdicts over all vectors of FOLDER/manifest.json, as JSON
    verify.py store FOLDER KEYS [HEAD]   verdict over a card's folder
    verify.py open FILE KEYHEX           opens one segment with an X25519 secret key, prints what is in it

Written from the specification alone; needs Python 3.9 and the package `cryptography`. It says whether something is
wrong and up to which checkpoint a file is proven; it does not name what was done.
"""

import base64
import hashlib
import hmac
import json
import os
import sys

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
MAX_HEADER, MAX_PART, MAX_SEGMENT, MAX_ENTRY = 65536, 65536, 48 << 20, 65536
RECOVERY = (4, 5)


class Refused(Exception):
    """Carries the stable code of a refusal."""


def sha256(*pieces):
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


# --- canonical CBOR -------------------------------------------------------------------------------------------------


def cbor(data):
    value, at = _item(data, 0, 0)
    if at != len(data):
        raise ValueError("bytes after the value")
    return value


def _item(data, at, depth):
    if depth > 8 or at >= len(data):
        raise ValueError("too deep or too short")
    major, low = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7:
        if low in (20, 21):
            return low == 21, at
        raise ValueError("a type that is not used")
    if low < 24:
        number = low
    elif low < 28:
        size = 1 << (low - 24)
        if at + size > len(data):
            raise ValueError("too short")
        number = int.from_bytes(data[at : at + size], "big")
        at += size
        if number < {1: 24, 2: 1 << 8, 4: 1 << 16, 8: 1 << 32}[size]:
            raise ValueError("not shortest")
    else:
        raise ValueError("indefinite length")
    if major == 0:
        return number, at
    if major == 1:
        return -1 - number, at
    if major in (2, 3):
        if at + number > len(data):
            raise ValueError("too short")
        raw = bytes(data[at : at + number])
        return (raw if major == 2 else raw.decode("utf-8")), at + number
    if major == 4:
        out = []
        for _ in range(number):
            value, at = _item(data, at, depth + 1)
            out.append(value)
        return out, at
    if major == 5:
        out, last = {}, -1
        for _ in range(number):
            key, at = _item(data, at, depth + 1)
            if not isinstance(key, int) or isinstance(key, bool) or key <= last:
                raise ValueError("keys do not rise")
            last = key
            out[key], at = _item(data, at, depth + 1)
        return out, at
    raise ValueError("a type that is not used")


def encode(value):
    if isinstance(value, int):
        return _head(0, value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        raw = value.encode()
        return _head(3, len(raw)) + raw
    return _head(4, len(value)) + b"".join(encode(item) for item in value)


def _head(major, number):
    for low, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 24:
            return bytes([major << 5 | number])
        if number < 1 << (8 * size):
            return bytes([major << 5 | low]) + number.to_bytes(size, "big")
    raise ValueError("too large")


# --- keys -----------------------------------------------------------------------------------------------------------


def hkdf_extract(salt, ikm):
    return hmac.new(salt or bytes(32), ikm, hashlib.sha256).digest()


def hkdf_expand(prk, info, length):
    out, block, n = b"", b"", 1
    while len(out) < length:
        block = hmac.new(prk, block + info + bytes([n]), hashlib.sha256).digest()
        out += block
        n += 1
    return out[:length]


def load_keys(text):
    keys = {}
    for line in filter(str.strip, text.splitlines()):
        line = json.loads(line)
        if "box" not in line:
            continue
        der = base64.b64decode(line["key"])
        if sha256(der).hex() != line["box"]:
            raise ValueError("the box id is not the hash of its key")
        keys[bytes.fromhex(line["box"])] = serialization.load_der_public_key(der)
    return keys


def verifies(key, digest, signature):
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if s > ORDER // 2:
        return False
    try:
        encoded = utils.encode_dss_signature(r, s)
        key.verify(encoded, digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
        return True
    except InvalidSignature:
        return False


def hpke_open(secret, enc, ct, info):
    """RFC 9180 base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, empty AAD, sequence number 0."""
    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x02"

    def extract(suite_id, salt, label, ikm):
        return hkdf_extract(salt, b"HPKE-v1" + suite_id + label + ikm)

    def expand(suite_id, prk, label, context, length):
        return hkdf_expand(prk, length.to_bytes(2, "big") + b"HPKE-v1" + suite_id + label + context, length)

    private = x25519.X25519PrivateKey.from_private_bytes(secret)
    public = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    shared = private.exchange(x25519.X25519PublicKey.from_public_bytes(enc))
    shared = expand(kem, extract(kem, b"", b"eae_prk", shared), b"shared_secret", enc + public, 32)
    context = b"\x00" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    prk = extract(suite, shared, b"secret", b"")
    key = expand(suite, prk, b"key", context, 32)
    nonce = expand(suite, prk, b"base_nonce", context, 12)
    return AESGCM(key).decrypt(nonce, ct, b"")


# --- segments -------------------------------------------------------------------------------------------------------


class Header:
    def __init__(self, data):
        if data[:4] != b"MVS1"[: len(data)]:
            raise Refused("not-a-segment")
        if len(data) < 8:
            raise Refused("header-truncated")
        length = int.from_bytes(data[4:8], "big")
        if not 1 <= length <= MAX_HEADER:
            raise Refused("header-length")
        if len(data) < 8 + length:
            raise Refused("header-truncated")
        self.raw = data[: 8 + length]
        try:
            fields = cbor(self.raw[8:])
            if (fields[0], fields[1]) != (1, 1):
                raise Refused("unknown-version")
            self.segment, self.organisation, self.box = fields[2], fields[3], fields[4]
            self.run, self.stanzas, self.commit = fields[5], fields[10], fields[11]
            lengths = [len(fields[n]) for n in (2, 3, 4, 7, 8, 11)]
            if lengths != [16, 16, 32, 16, 16, 32]:
                raise ValueError("lengths")
            self.marks = b"".join(_mark(stanza) for stanza in self.stanzas)
        except (ValueError, KeyError, TypeError) as error:
            raise Refused("header-malformed") from error
        if not 1 <= len(self.stanzas) <= 16:
            raise Refused("header-stanzas")


def _mark(stanza):
    kind, key, enc, ct = stanza
    return sha256(encode([kind, key, enc, ct]))[:8]


def frames(data, at):
    """Yields (offset, head, body) of each whole frame; raises Refused where the structure is lost."""
    while len(data) - at >= 12:
        head = data[at : at + 12]
        kind, flags, length = head[0], head[1], int.from_bytes(head[8:], "big")
        sealed = 1 <= kind <= 5 or 32 <= kind <= 63
        if head[2:4] != b"\0\0":
            raise Refused("open-malformed")
        if sealed:
            fine = 17 <= length <= MAX_PART + 16 and flags <= 3 and (flags == 3 or kind == 3)
        elif kind in (64, 65):
            fine = 65 <= length <= 1024 and flags == 0
        else:
            fine = 96 <= kind <= 127 and length <= MAX_PART + 16 and flags == 0
        if not fine:
            raise Refused("open-malformed")
        if len(data) - at < 12 + length:
            return
        yield at, head, data[at + 12 : at + 12 + length]
        at += 12 + length


class Scan:
    """What the signatures of one file prove."""

    def __init__(self, data, keys):
        self.ckpt, self.ended, self.fault, self.known_box = None, False, False, True
        self.sha256, self.size, self.end, self.prev = sha256(data), len(data), None, None
        try:
            self.header = Header(data)
        except Refused as refused:
            self.header, self.fault = None, str(refused) != "header-truncated"
            return
        key = keys.get(self.header.box)
        if key is None:
            self.known_box, self.fault = False, True
            return
        try:
            self._walk(data, key)
        except Refused:
            self.fault = True
        if self.size > MAX_SEGMENT:
            self.fault = True

    def _signed(self, key, kind, data, end):
        digest = sha256(b"mvs1 sig", bytes([kind]), self.header.segment, sha256(data[: end - 64]))
        return verifies(key, digest, data[end - 64 : end])

    def _walk(self, data, key):
        header, records, inside, last = self.header, 0, False, None
        for at, head, body in frames(data, len(header.raw)):
            kind, flags, number, end = head[0], head[1], int.from_bytes(head[4:8], "big"), at + 12 + len(body)
            if self.ended:
                raise Refused("end-followed")
            if self.ckpt is None and not (kind == 64 and number == 0):
                raise Refused("ckpt-dropped")
            if kind < 64:
                if number != records or (flags & 1 == 1) == inside or (inside and kind != 3):
                    raise Refused("record")
                inside, records = kind == 3 and flags & 2 == 0, records + 1
            elif kind in (64, 65):
                try:
                    said = cbor(body[:-64])
                except ValueError as error:
                    raise Refused("malformed") from error
                expected = 0 if self.ckpt is None else self.ckpt + 1
                if inside or not self._signed(key, kind, data, end):
                    raise Refused("signature")
                if kind == 64:
                    marks = header.marks if expected == 0 else None
                    if number != expected or [said.get(n) for n in (0, 1, 2, 4)] != [number, records, header.run, marks]:
                        raise Refused("ckpt")
                    self.ckpt, last = number, end
                else:
                    recovery = said[0] in RECOVERY
                    lawful = (said[4][1] > header.run[1] and last == at) if recovery else said[4] == header.run
                    if (said[1], said[2]) != (records, expected) or not 1 <= said[0] <= 7 or not lawful:
                        raise Refused("end")
                    self.ended, self.end, self.prev = True, sha256(data[at:end]), said[3]
        if self.ended and not data[-(12 + len(body)) :] == head + body:
            raise Refused("end-followed")

    def state(self):
        return {"ckpt": self.ckpt, "ended": self.ended}


def open_segment(data, secret):
    """Yields (type, plaintext) of each record, parts joined. The commitment is checked before the first record."""
    header = Header(data)
    public = x25519.X25519PrivateKey.from_private_bytes(secret).public_key()
    public = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    key_id = sha256(b"mvs1 key", b"\0\1", public)[:16]
    stanza = next((s for s in header.stanzas if s[0] == 1 and s[1] == key_id), None)
    if stanza is None:
        raise Refused("open-no-stanza")
    info = encode(["mvs1 hpke", 1, 1, key_id, header.organisation, header.segment])
    try:
        dek = hpke_open(secret, stanza[2], stanza[3], info)
    except (InvalidTag, ValueError) as error:
        raise Refused("open-bad-stanza") from error
    if not hmac.compare_digest(hkdf_expand(hkdf_extract(header.segment, dek), b"mvs1 commit", 32), header.commit):
        raise Refused("open-bad-commitment")
    aead = AESGCM(hkdf_expand(hkdf_extract(sha256(header.raw), dek), b"mvs1 record", 32))
    next_number, joined = 0, None
    for _, head, body in frames(data, len(header.raw)):
        kind, flags, number = head[0], head[1], int.from_bytes(head[4:8], "big")
        if kind >= 64:
            continue
        if number < next_number:
            raise Refused("open-out-of-order")
        try:
            text = aead.decrypt(bytes(4) + number.to_bytes(8, "big"), body, head)
        except InvalidTag as error:
            raise Refused("open-bad-record") from error
        if number != next_number and not flags & 1:
            joined = None
        next_number = number + 1
        if flags & 1:
            joined = b""
        if joined is None:
            continue
        joined += text
        if flags & 2:
            yield kind, joined
            joined = None


def opens(data, secret):
    digest = hashlib.sha256()
    try:
        for kind, text in open_segment(data, secret):
            if kind == 3:
                if len(text) < 20 or text[2:4] != b"\0\0" or text[1] > 31:
                    raise Refused("open-bad-content")
                digest.update(text[:1] + text[4:12] + text[12:20] + text[20:])
    except Refused as refused:
        return str(refused), None
    return "ok", digest.hexdigest()


# --- journal --------------------------------------------------------------------------------------------------------


class Journal:
    def __init__(self, files, keys):
        self.clean, self.last, self.hashes, self.box = True, None, {}, None
        self.opened, self.closed, self.destroyed, self.runs, self.recipients = {}, {}, {}, [], set()
        self.holes, self.torn = False, False
        for n, (_, data) in enumerate(sorted(files.items())):
            self._file(data, keys, n + 1 == len(files))

    def _file(self, data, keys, last_file):
        at = 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 4], "big")
            if len(data) - at < 4 or (1 <= length <= MAX_ENTRY and len(data) - at < 4 + length + 64):
                self.torn = True
                self.clean &= last_file
                return
            if not 1 <= length <= MAX_ENTRY:
                self.clean = False
                return
            entry, signature = data[at + 4 : at + 4 + length], data[at + 4 + length : at + 68 + length]
            at += 68 + length
            try:
                self._entry(cbor(entry), entry, signature, keys)
            except (ValueError, KeyError, TypeError):
                self.clean = False

    def _entry(self, fields, entry, signature, keys):
        seq, prev, author = fields[0], fields[1], fields[2]
        self.box = self.box or author
        digest = sha256(b"mvb chain 1 entry\0journal\0", sha256(entry))
        if author != self.box or author not in keys or not verifies(keys[author], digest, signature):
            raise ValueError("not signed by the box")
        link = sha256(b"mvb chain 1 link\0journal\0", entry, signature)
        kind, body, expected = fields[5], cbor(fields[6]), (0, bytes(32))
        if self.last is not None:
            expected = (self.last[0] + 1, self.last[1])
        if (seq, prev) != expected:
            reached = self.last and [self.last[0], self.last[1]]
            if not (kind == 14 and body.get(1) == reached and seq >= expected[0]):
                raise ValueError("does not follow")
            self.holes = True
        self.last, self.hashes[seq] = (seq, link), link
        if fields[3] not in self.runs:
            self.runs.append(fields[3])
        if kind == 2:
            self.opened[body[0]] = fields[3]
        elif kind == 3:
            self.closed[body[0]] = (body[1], body[2], body[3])
        elif kind == 8:
            self.recipients.update(body[1])
        elif kind == 9:
            self.destroyed[body[0]] = seq
        elif kind == 12 and self.hashes.get(body[0][0], body[0][1]) != body[0][1]:
            raise ValueError("another head was acknowledged")
        elif kind == 13 and body[0] == "card-rolled-back":
            raise ValueError("rolled back")


def verify_store(segments, journals, keys, head):
    """(clean, state of each file)."""
    journal = Journal(journals, keys)
    clean = journal.clean and (journal.last is not None or not segments)
    scans = {name: Scan(data, keys) for name, data in segments.items()}
    if head is not None:
        known = journal.hashes.get(head["seq"])
        clean &= known == bytes.fromhex(head["hash"]) or (known is None and journal.holes)
    for name, scan in scans.items():
        segment = bytes.fromhex(name[:-4])
        closed = journal.closed.get(segment)
        if segment in journal.destroyed:
            clean &= journal.destroyed[segment] + 64 >= (journal.last or (0,))[0]
        elif closed is not None:
            clean &= (scan.size, scan.sha256, scan.end) == closed and not scan.fault
        elif segment in journal.opened:
            # Open in the last run: what follows the last checkpoint may be torn. Else the box closed it, or destroyed it.
            clean &= journal.opened[segment] == journal.runs[-1] or not scan.fault
        else:
            clean = False
        if scan.header is not None:
            clean &= scan.header.segment == segment and scan.header.box == journal.box
            clean &= journal.holes or {stanza[1] for stanza in scan.header.stanzas} <= journal.recipients
        if scan.prev and scan.prev[0] == 3:
            before = journal.closed.get(scan.prev[1])
            clean &= before is None or before[2] == scan.prev[2]
    here = {bytes.fromhex(name[:-4]) for name in segments}
    clean &= all(segment in here or segment in journal.destroyed for segment in journal.closed)
    return bool(clean), {name: scan.state() for name, scan in scans.items()}


# --- command line ---------------------------------------------------------------------------------------------------


def read(*path):
    with open(os.path.join(*path), "rb") as file:
        return file.read()


def folder(path):
    return {name: read(path, name) for name in sorted(os.listdir(path))} if os.path.isdir(path) else {}


def vectors(root):
    manifest = json.loads(read(root, "manifest.json"))
    keys = load_keys(read(root, "keys.jsonl").decode())
    head = json.loads(read(root, "head.json"))
    secret = bytes.fromhex(manifest["organisation_key"])
    out = {"files": {}, "stores": {}}
    for vector in manifest["files"]:
        data = read(root, vector["file"])
        scan = Scan(data, keys)
        code, units = opens(data, secret)
        out["files"][vector["name"]] = {"clean": not scan.fault, "state": scan.state(), "opens": code, "units": units}
    base = {"segments": folder(f"{root}/store/segments"), "journal": folder(f"{root}/store/journal")}
    for vector in manifest["stores"]:
        store = {part: dict(files) for part, files in base.items()}
        for path in vector["remove"]:
            part, name = path.split("/")
            del store[part][name]
        for path, file in vector["replace"].items():
            part, name = path.split("/")
            store[part][name] = read(root, file)
        clean, states = verify_store(store["segments"], store["journal"], keys, head if vector["head"] else None)
        out["stores"][vector["name"]] = {"clean": clean, "states": states}
    return out


def main(args):
    if args[:1] == ["vectors"] and len(args) == 2:
        print(json.dumps(vectors(args[1]), indent=1))
        return 0
    if args[:1] == ["store"] and len(args) in (3, 4):
        head = json.loads(read(args[3])) if len(args) == 4 else None
        keys = load_keys(read(args[2]).decode())
        clean, states = verify_store(folder(f"{args[1]}/segments"), folder(f"{args[1]}/journal"), keys, head)
        print(json.dumps({"clean": clean, "segments": states}, indent=1))
        return 0 if clean else 4
    if args[:1] == ["open"] and len(args) == 3:
        for kind, text in open_segment(read(args[1]), bytes.fromhex(args[2])):
            print(kind, len(text), text[20:36].hex() if kind == 3 else cbor(text))
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
