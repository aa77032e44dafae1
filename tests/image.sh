#!/bin/sh
# The image, as far as it goes without a container runtime: what the Dockerfile collects, run as the template
# runs it (read-only, without privileges, with its volumes), as the image's user and as one of OpenShift's.
set -eu
cd "$(dirname "$0")/.."
folder=$PWD/target/image
image=$folder/root
log=$folder/log

fail() {
    echo "image: $*" >&2
    [ ! -f "$log" ] || cat "$log" >&2
    exit 1
}

# Lines of the Dockerfile, so that the two can't differ.
line() { sed -n "s/^$1 //p" Dockerfile; }

build() {
    rm -rf "$folder"
    mkdir -p "$folder"
    eval "$(line RUN | sed "s, /runtime\$, $image,")"
    [ -z "$(find "$image" -perm /6000)" ] || fail "something is setuid"
    [ -z "$(find "$image" ! -type l ! -perm -o=r)" ] || fail "something is for its owner alone"
    [ ! -e "$image/bin/sh" ] || fail "there is a shell"
    target/release/waypoint cert --dev-ca "$folder/ca" --out "$folder/ca" \
        --identity spiffe://cluster.local/ns/default/sa/waypoint > /dev/null 2>&1
    find "$image" -type f -exec ls -sh {} +
}

# The root file system read-only, and what kubelet mounts into it.
mounts() {
    mount --bind "$image" "$image"
    for empty in var/run/secrets/workload-spiffe-uds var/lib/istio/data etc/istio/proxy; do
        mkdir -p "$image/$empty"
        mount -t tmpfs -o mode=0777 none "$image/$empty"
    done
    for filled in var/run/secrets/istio var/run/secrets/tokens etc/istio/pod; do
        mkdir -p "$image/$filled" "$folder/volumes/$filled"
        mount --bind "$folder/volumes/$filled" "$image/$filled"
    done
    printf 'gateway.networking.k8s.io/gateway-name="waypoint"\n' > "$folder/volumes/etc/istio/pod/labels"
    printf '127.0.0.1 localhost istiod.istio-system.svc\n' > "$folder/hosts"
    mkdir -p "$image/dev" "$image/proc"
    touch "$image/etc/hosts"
    mount --bind "$folder/hosts" "$image/etc/hosts"
    mount --rbind /dev "$image/dev"
    mount -t proc none "$image/proc"
    mount -o remount,bind,ro "$image"
}

# Waits for a line of the log.
until_logged() {
    for _ in $(seq 100); do
        if grep -q "$1" "$log"; then return; fi
        sleep 0.1
    done
    fail "as $user: waited in vain for: $1"
}

inside() {
    user=$1
    entrypoint=$(line ENTRYPOINT | tr -d '[]"')
    ip link set lo up
    mounts
    as="setpriv --no-new-privs --bounding-set -all,+sys_chroot,+setuid,+setgid chroot --userspec=$user --groups= $image"
    if $as /tmp/anything 2> /dev/null; then fail "anything runs"; fi
    $as /usr/local/bin/pilot-agent version > "$log" || fail "pilot-agent version"
    # shellcheck disable=SC2086
    if env -i "PATH=$PATH" $as "$entrypoint" proxy waypoint > "$log" 2>&1; then fail "it runs without a pod"; fi
    grep -q POD_ "$log" || fail "it doesn't say what it lacks"

    # The template's arguments and environment; nothing in the volumes yet.
    # shellcheck disable=SC2086
    env -i "PATH=$PATH" ISTIO_META_SERVICE_ACCOUNT=waypoint SERVICE_ACCOUNT=waypoint ISTIO_META_NODE_NAME=node \
        PILOT_CERT_PROVIDER=istiod CA_ADDR=istiod.istio-system.svc:15012 POD_NAME=waypoint-0 \
        POD_NAMESPACE=default INSTANCE_IP=127.0.0.1 HOST_IP=127.0.0.1 ISTIO_CPU_LIMIT=2 PROXY_CONFIG="{}" \
        GOMEMLIMIT=1073741824 ISTIO_META_CLUSTER_ID=Kubernetes ISTIO_META_INTERCEPTION_MODE=REDIRECT \
        ISTIO_META_WORKLOAD_NAME=waypoint ISTIO_META_MESH_ID=cluster.local TRUST_DOMAIN=cluster.local \
        ISTIO_META_OWNER=kubernetes://apis/apps/v1/namespaces/default/deployments/waypoint \
        $as "$entrypoint" proxy waypoint --domain default.svc.cluster.local --serviceCluster waypoint.default \
        --proxyLogLevel warning --proxyComponentLogLevel misc:error --log_output_level default:info \
        > "$log" 2>&1 &
    waypoint=$!
    until_logged 'root-cert.pem: No such file'
    if ready=$($as /usr/local/bin/pilot-agent request GET ready 2>&1); then fail "ready without configuration"; fi
    case $ready in *503*) ;; *) fail "the admin port says: $ready" ;; esac
    $as /usr/local/bin/pilot-agent request --debug-port 15020 GET stats/prometheus | grep -q ^waypoint_ ||
        fail "no metrics"
    # With root and token it looks for istiod, by its name, and finds nobody there.
    cp "$folder/ca/root-cert.pem" "$folder/volumes/var/run/secrets/istio/"
    echo a.b.c > "$folder/volumes/var/run/secrets/tokens/istio-token"
    until_logged 'onnection refused'
    kill -TERM "$waypoint"
    wait "$waypoint" || fail "it ends with $?"
    echo "as $user: runs, says what it lacks, ends"
}

if [ "${1:-}" = inside ]; then
    inside "$2"
    exit
fi
if ! unshare --mount --net --pid --fork true 2> /dev/null; then
    echo "not run: $0 needs the right to make namespaces" >&2
    exit
fi
build
for user in $(line USER) 1000680000:0; do
    rm -rf "$folder/volumes"
    unshare --mount --net --pid --fork --kill-child "$0" inside "$user"
done
