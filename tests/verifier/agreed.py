#!/usr/bin/env python3
"""Recomputes the vectors of docs/spec/pairing.md and docs/spec/relay.md from the texts alone.

    agreed.py FILE      exit code 0 if everything in agreed.json is what the specifications say
"""

import hashlib
import hmac
import json
import sys

from verify import cbor, hkdf_expand, hkdf_extract, sha256, verifies
from cryptography.hazmat.primitives import serialization

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
TYPES = {
    "hello": 1, "welcome": 2, "time_ask": 3, "time": 4, "pins": 5, "pins_stored": 6, "revoke": 7, "revoked": 8,
    "journal": 9, "journal_ack": 10, "journal_after": 11, "credit": 12, "command": 13, "command_done": 14,
    "subscribe": 15, "unsubscribe": 16, "object": 17, "have": 18, "committed": 19, "rejected": 20, "erase_ask": 21,
    "erase": 22, "challenge": 23, "alive": 24, "cameras": 25,
}


def check(what, condition):
    if not condition:
        raise SystemExit(f"{what} is not what the specification says")


def pairing(v):
    host, nonce = v["host"].lower(), bytes.fromhex(v["nonce"])
    number = int.from_bytes(nonce, "big") << 10 | int.from_bytes(sha256(host.encode(), nonce)[:2], "big") >> 6
    symbols = "".join(ALPHABET[number >> 5 * (17 - i) & 31] for i in range(18))
    dashed = "-".join(symbols[i:i + 4] for i in range(0, 18, 4))
    check("code", v["code"] == f"{host}/{dashed}")
    prk = hkdf_extract(b"", nonce)
    for field, info, length in (("id", "id", 4), ("box_key", "box", 32), ("cloud_key", "cloud", 32)):
        check(field, hkdf_expand(prk, f"mvb-pair/1 {info}".encode(), length).hex() == v[field])
    exporter, request, answer = (bytes.fromhex(v[k]) for k in ("exporter", "request", "answer"))
    mac = lambda key, text: hmac.new(bytes.fromhex(v[key]), text, hashlib.sha256).hexdigest()
    check("request proof", mac("box_key", exporter + sha256(request)) == v["request_proof"])
    check("answer proof", mac("cloud_key", exporter + sha256(request) + sha256(answer)) == v["answer_proof"])
    body = cbor(request)
    check("host and id", body[0] == host and body[1].hex() == v["id"] and body[8] == [1, 1])
    check("box id", body[5] == sha256(body[3]))
    key = serialization.load_der_public_key(body[3])
    check("evidence", verifies(key, sha256(b"mvb-pair/1 evidence", exporter, body[2]), body[4]))
    own = serialization.load_der_public_key(body[2])
    check("identity", verifies(own, sha256(b"mvb-pair/1 identity", exporter, body[3]), body[10]))
    check("spki", len(body[2]) == len(body[3]) == 91)


def relay(v):
    check("set of messages", v["messages"].keys() == TYPES.keys())
    for name, text in v["messages"].items():
        raw = bytes.fromhex(text)
        check(name, raw[0] == TYPES[name])
        fields = cbor(raw[1:])
        check(name, isinstance(fields, dict) and list(fields) == sorted(fields))
    hello = cbor(bytes.fromhex(v["messages"]["hello"])[1:])
    check("hello", hello[7] == [b"\x09" * 16, 70000] and hello[9] == [300, b"\x06" * 32] and hello.get(10) is None)
    live = bytes.fromhex(v["live_head"])
    check("live head", len(live) == 84 and live[:4] == bytes([1, 3, 0, 5]) and live[4:20] == b"\x03" * 16)
    check("live head", int.from_bytes(live[56:64], "big") == 5_000_000_000 and live[72:76] == (16384).to_bytes(4, "big"))
    chunk = bytes.fromhex(v["chunk_head"])
    check("chunk head", len(chunk) == 32 and chunk[:4] == bytes([2, 0, 0, 0]) and chunk[20:28] == (65536).to_bytes(8, "big"))
    key = serialization.load_der_public_key(bytes.fromhex(v["receipt_key"]))
    for name, label in (("committed", b"mvb relay 1 committed\0"), ("journal_ack", b"mvb relay 1 journal ack\0")):
        raw = bytes.fromhex(v[name])
        check(name, verifies(key, sha256(label, raw[:-64]), raw[-64:]))
    committed = cbor(bytes.fromhex(v["committed"])[:-64])
    check("committed", committed[4] == 1_000_000 and committed[7] is True and committed[8] == 24)
    check("journal ack", cbor(bytes.fromhex(v["journal_ack"])[:-64])[2] == [300, b"\x06" * 32])


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        vectors = json.load(file)
    pairing(vectors["pairing"])
    relay(vectors["relay"])
