#!/bin/sh
# Makes descriptors.bin and sensitive.txt from the .proto files that the crate envoy-types brings along and
# the few beside this script. Run it when envoy-types has a new version. protoc comes with the Python package
# grpcio-tools.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=$root/target/descriptors-venv
if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -c 'import grpc_tools' 2>/dev/null; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check grpcio-tools
fi
host=$(rustc -vV | sed -n 's/^host: //p')
manifest=$(cd "$root" && cargo metadata --format-version 1 --locked --filter-platform "$host" |
    "$venv/bin/python" -c 'import json, sys
print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "envoy-types"))')
"$venv/bin/python" "$here/make.py" "$(dirname "$manifest")/proto" "$here/more" "$here"
