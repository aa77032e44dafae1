#!/bin/sh
# Prints the folder of prometheus and promtool; installs Debian's package where they are missing (root).
# WAYPOINT_PROMETHEUS names another one.
set -eu
if [ -n "${WAYPOINT_PROMETHEUS:-}" ]; then
    echo "$WAYPOINT_PROMETHEUS"
    exit
fi
if ! command -v prometheus >/dev/null || ! command -v promtool >/dev/null; then
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus >&2
fi
dirname "$(command -v promtool)"
