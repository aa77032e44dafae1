#!/bin/sh
# Prints the path of Chromium's driver; installs both as Debian's packages where they are missing (root).
# WAYPOINT_CHROMEDRIVER names another one.
set -eu
if [ -n "${WAYPOINT_CHROMEDRIVER:-}" ]; then
    echo "$WAYPOINT_CHROMEDRIVER"
    exit
fi
if ! command -v chromedriver >/dev/null || ! command -v chromium >/dev/null; then
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core >&2
fi
command -v chromedriver
