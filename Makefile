# `make demo`   the whole path on this machine, until Ctrl-C   (DURATION=30: ends by itself and checks every packet)
# `make test`   everything that can be tested here, `make check` included
# `make check`  fmt, clippy, rustdoc, licences and bans
# `make bench`  JSON lines, one per result   (BENCH="seal write": only these; `write` needs root for a loop device)
# Each target sets up what it needs on Debian 12 with Rust's toolchain: through apt as root or sudo, else it says what is
# missing.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: demo test check bench setup-build setup-test setup-demo setup-bench cargo-deny

CARGO ?= cargo
DURATION ?=
BENCH ?=
CARGO_DENY_VERSION := 0.20.2

demo: setup-demo
	$(CARGO) build --release --locked --bins
	/usr/bin/python3 demo/demo.py --bin "$$($(CARGO) metadata --format-version 1 --no-deps --offline | /usr/bin/python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/release" $(if $(DURATION),--duration $(DURATION))

test: setup-test check
	$(CARGO) test --locked --all-features

check: setup-build cargo-deny
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --locked --all-targets --all-features -- -D warnings
	$(CARGO) clippy --locked --no-default-features --lib --bin mvbd --bin mvbctl -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --all-features --document-private-items
	$(CARGO) fetch --locked --quiet
	$(CARGO) deny --offline check licenses bans sources
	@echo "cargo-deny: advisories were skipped, they need the network: run 'cargo deny check advisories' where there is one"

bench: setup-bench
	$(CARGO) bench --locked --bench main -- $(BENCH)

# cargo itself needs a C compiler: it links with cc, and SQLite and ring are built from C.
setup-build:
	@demo/setup.sh cc:gcc pkg-config:pkg-config git:git

setup-test: setup-build
	@demo/setup.sh ffmpeg:ffmpeg openssl:openssl gst-launch-1.0:gstreamer1.0-tools \
	  gst:rtspclientsink:gstreamer1.0-rtsp gst:videotestsrc:gstreamer1.0-plugins-base gst:rtpmp4gpay:gstreamer1.0-plugins-good \
	  gst:h264parse:gstreamer1.0-plugins-bad gst:x264enc:gstreamer1.0-plugins-ugly gst:avenc_aac:gstreamer1.0-libav \
	  py:cryptography:python3-cryptography

setup-demo: setup-build
	@demo/setup.sh ffmpeg:ffmpeg /usr/bin/python3:python3

setup-bench: setup-build
	@demo/setup.sh ffmpeg:ffmpeg openssl:openssl

# Installed once into cargo's own bin folder; 4-6 minutes the first time.
cargo-deny: setup-build
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny --version $(CARGO_DENY_VERSION)
