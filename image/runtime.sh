#!/bin/sh
# Collects what the image holds into a folder: the binary, and what it needs at run time at the places where
# its loader looks. The Dockerfile and tests/image.sh call it.
set -eu
root=$1
binary=target/release/waypoint
mkdir -p "$root/usr/local/bin" "$root/tmp" "$root/etc"
strip --strip-debug -o "$root/usr/local/bin/waypoint" "$binary"
# Tools exec `pilot-agent request …` in the container.
ln -sf waypoint "$root/usr/local/bin/pilot-agent"
# No pipe: a failing ldd would leave the image without its libraries.
libraries=$(ldd "$binary")
for library in $(echo "$libraries" | grep -o '/[^ ]*'); do
    cp -L --parents "$library" "$root"
done
# Roots of servers outside of the mesh, where configuration says the system's.
cp -L --parents /etc/ssl/certs/ca-certificates.crt "$root"
echo 'istio-proxy:x:1337:1337::/:/nonexistent' > "$root/etc/passwd"
# OpenShift runs it as any user, of group 0: nothing is for its owner alone.
chmod -R go+rX "$root"
chmod 1777 "$root/tmp"
