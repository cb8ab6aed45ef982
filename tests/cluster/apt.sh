#!/bin/sh
# Debian packages that real nodes need. As root it installs what is missing; otherwise it says what to install.
set -e
missing=""
for pair in runc:runc ip:iproute2 debootstrap:debootstrap unshare:util-linux setpriv:util-linux; do
    command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "real nodes need these packages, and root: apt-get install$missing" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -q --no-install-recommends $missing >/dev/null 2>&1 ||
    { apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends $missing >/dev/null; }
