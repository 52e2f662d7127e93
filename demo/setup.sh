#!/bin/sh
# Installs what is missing, or says what is. Each argument is "what to look for:Debian package":
#   tool:package   gst:element:package   py:module:package
set -eu
missing=""
for want in "$@"; do
    package=${want##*:}
    name=${want%:*}
    case $name in
        gst:*) gst-inspect-1.0 "${name#gst:}" >/dev/null 2>&1 || missing="$missing $package" ;;
        py:*) /usr/bin/python3 -c "import ${name#py:}" >/dev/null 2>&1 || missing="$missing $package" ;;
        *) command -v "$name" >/dev/null 2>&1 || missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    as_root=none
    if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then as_root="sudo"; fi
fi
if [ "$as_root" = none ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "Missing here:$missing" >&2
    echo "Install them as root (Debian 12): apt-get install --no-install-recommends$missing" >&2
    exit 1
fi
echo "Installing:$missing"
$as_root env DEBIAN_FRONTEND=noninteractive sh -c "
    apt-get install -y -q --no-install-recommends $missing >/dev/null 2>&1 ||
        { apt-get update -q && apt-get install -y -q --no-install-recommends $missing; }"
