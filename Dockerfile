# The waypoint pod's image: the binary and the libraries that it links, no shell, uid 1337 as istio-proxy.
FROM rust:1-bookworm AS builder
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p waypoint-proxy
# What the binary needs at run time, at the places where its loader looks.
RUN mkdir -p /runtime/usr/local/bin /runtime/tmp /runtime/etc \
 && strip --strip-debug -o /runtime/usr/local/bin/waypoint target/release/waypoint \
 # Tools exec `pilot-agent request …` in the container.
 && ln -s waypoint /runtime/usr/local/bin/pilot-agent \
 && ldd target/release/waypoint | grep -o '/[^ ]*' | xargs -I{} cp -L --parents {} /runtime \
 && echo 'istio-proxy:x:1337:1337::/:/nonexistent' > /runtime/etc/passwd \
 && chmod 1777 /runtime/tmp

FROM scratch
COPY --from=builder /runtime /
USER 1337:1337
EXPOSE 15008 15020 15021 15090
ENTRYPOINT ["/usr/local/bin/waypoint"]
