# The waypoint pod's image: the binary and the libraries that it links, no shell, uid 1337 as istio-proxy.
FROM rust:1-bookworm AS builder
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p waypoint-proxy && ./image/runtime.sh /runtime

FROM scratch
COPY --from=builder /runtime /
USER 1337:1337
EXPOSE 15008 15020 15021 15090
ENTRYPOINT ["/usr/local/bin/waypoint"]
