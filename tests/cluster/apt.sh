#!/bin/sh
# Debian packages that real nodes need, and with `browser` what the map's tests in a browser need. As root it installs what is
# missing; otherwise it says what to install. Without the browser those tests are skipped, so nothing ends for its sake.
set -e
export DEBIAN_FRONTEND=noninteractive

missing_of() {  # PROGRAM:PACKAGE ...
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || printf ' %s' "${pair##*:}"
    done
}

get() {  # PACKAGE ...
    apt-get install -y -q --no-install-recommends "$@" >/dev/null 2>&1 ||
        { apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends "$@" >/dev/null; }
}

nodes=$(missing_of runc:runc ip:iproute2 debootstrap:debootstrap unshare:util-linux setpriv:util-linux)
browser=""
[ "$1" != browser ] || browser=$(missing_of chromium:chromium)
if [ "$(id -u)" != 0 ]; then
    [ -z "$nodes" ] || echo "real nodes need these packages, and root: apt-get install$nodes" >&2
    [ -z "$browser" ] || echo "the map's tests in a browser need, or are skipped: apt-get install$browser" >&2
    exit 0
fi
[ -z "$nodes" ] || get $nodes
[ -z "$browser" ] || get $browser || echo "no$browser: the map's tests in a browser are skipped" >&2
