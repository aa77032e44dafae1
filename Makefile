# The commands of README and CONTRIBUTING. Everything is built into target/.

.PHONY: demo test test-envoy test-istiod istiod test-image check bench attack clean

# A small mesh in one process, with real requests through a real waypoint.
demo:
	cargo build --profile demo --locked -p waypoint-proxy
	./target/demo/waypoint demo

# Unit tests, and the scenarios in tests/ with scripted peers. Rust only.
test:
	cargo test --locked --workspace --no-fail-fast

# Real Envoy before, behind and beside the waypoint. Needs Python 3 for Envoy's package.
test-envoy:
	./benches/envoy.sh
	WAYPOINT_ENVOY="$$(./benches/envoy.sh)" cargo test --locked -p waypoint-tests --test envoy --test http -- --ignored

# A real istiod configures the waypoint's pod. Needs Go; the first build takes some minutes.
test-istiod: istiod
	WAYPOINT_ISTIOD="$(CURDIR)/target/istiod" cargo test --locked -p waypoint-tests --test istiod -- --ignored

# Istio's discovery server for the tests, and what the API server knows of its kinds.
istiod:
	cd tests/istiod && go vet . && go build -o ../../target/istiod -ldflags "-X main.gatewayCRDs=$$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)/config/crd/experimental" .

# The image without a container runtime. Needs Python 3 for the linter's package, and root.
test-image:
	./image/lint.sh
	./tests/image.sh

# What a change has to pass before it is looked at.
check:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo test --locked --workspace --lib --bins

# CPU, latency and memory beside Envoy, in one run.
bench:
	cargo build --release --locked -p waypoint-proxy -p waypoint-benches
	./target/release/waypoint-bench --envoy "$$(./benches/envoy.sh)"

# Attacks beside Envoy: what a second client has to wait, and memory; then the long stories of the same kind.
attack:
	cargo build --release --locked -p waypoint-proxy -p waypoint-benches
	./target/release/waypoint-bench attack --envoy "$$(./benches/envoy.sh)"
	cargo test --release --locked -p waypoint-tests -- --ignored attack_

clean:
	cargo clean
