# The commands of README and CONTRIBUTING. Everything is built into target/.

.PHONY: demo test fuzz test-envoy test-istiod istiod test-page test-prometheus test-image check bench attack clean

# A small mesh in one process, with real requests through a real waypoint.
demo:
	cargo build --profile demo --locked -p waypoint-proxy
	./target/demo/waypoint demo

# Unit tests, and the scenarios in tests/ with scripted peers. Rust only.
test:
	cargo test --locked --workspace --no-fail-fast

# Readers of what peers and control planes send, with mutated inputs: each target for so many seconds.
SECONDS ?= 60
fuzz:
	WAYPOINT_FUZZ_SECONDS=$(SECONDS) cargo test --locked -p waypoint-fuzz -p waypoint-tests --lib -- --nocapture --test-threads=2

# Real Envoy before, behind and beside the waypoint. Needs Python 3 for Envoy's package.
test-envoy:
	./benches/envoy.sh
	WAYPOINT_ENVOY="$$(./benches/envoy.sh)" cargo test --locked --workspace --test envoy --test http -- --ignored --skip istioctl_prints

# A real istiod configures the waypoint's pod, and its istioctl looks at it, prints what our commands print, and what it prints of Envoy. Needs Go; the first build takes some minutes.
test-istiod: istiod
	WAYPOINT_ISTIOD="$(CURDIR)/target/istiod" WAYPOINT_ISTIOCTL="$(CURDIR)/target/istioctl" \
		cargo test --locked --workspace --test istiod --test commands --test analyzers -- --ignored
	WAYPOINT_ENVOY="$$(./benches/envoy.sh)" WAYPOINT_ISTIOD="$(CURDIR)/target/istiod" WAYPOINT_ISTIOCTL="$(CURDIR)/target/istioctl" \
		cargo test --locked --workspace --test envoy -- --ignored istioctl_prints

# Istio's discovery server for the tests, and what the API server knows of its kinds; and istioctl of the same module.
istiod:
	cd tests/istiod && go mod download sigs.k8s.io/gateway-api && go vet . && go build -o ../../target/istiod -ldflags "-X main.gatewayCRDs=$$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)/config/crd/experimental" . && go build -o ../../target/istioctl istio.io/istio/istioctl/cmd/istioctl

# The page on the admin port in a real browser. Needs Chromium and its driver; installs Debian's where they are missing.
test-page:
	./tests/browser.sh
	WAYPOINT_CHROMEDRIVER="$$(./tests/browser.sh)" cargo test --locked --workspace --test page -- --ignored

# A real Prometheus scrapes waypoints in trouble: dashboard and alerts. Installs Debian's package where it is missing.
test-prometheus:
	./tests/prometheus.sh
	WAYPOINT_PROMETHEUS="$$(./tests/prometheus.sh)" cargo test --locked --workspace --test prometheus -- --ignored

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
