// Command istiod runs Istio's own discovery server for the tests: the module istio.io/istio over a fake
// Kubernetes client that holds what a folder of manifests says, now and whenever it changes.
//
// It serves what istiod serves on port 15012 (delta ADS and the certificate service, TLS, a bearer token's
// subject as the caller) and its debug pages. Around it, it does what configuration depends on: the API server's
// part (defaults, schema and rules of custom resources), the EndpointSlice controller's, and that of the Gateway
// deployment controller: the waypoint's Service, pod and Gateway status.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config/schema/gatewayapi"
	"istio.io/istio/pkg/config/schema/gvr"
	_ "istio.io/istio/pkg/config/xds"
	kubelib "istio.io/istio/pkg/kube"
	"istio.io/istio/pkg/kube/kclient/clienttest"
	"istio.io/istio/pkg/test"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Kinds whose CRDs the discovery server wants to see before it reads them.
var crds = []schema.GroupVersionResource{
	gvr.BackendTLSPolicy, gvr.ListenerSet, gvr.XBackendTrafficPolicy, gvr.InferencePool, gvr.WasmPlugin,
	gvr.EnvoyFilter, gvr.Telemetry, gvr.RequestAuthentication, gvr.VirtualService, gvr.DestinationRule,
	gvr.Sidecar, gvr.ProxyConfig, gvr.WorkloadGroup, gvr.TrafficExtension,
}

func main() {
	dir := flag.String("f", "", "folder of manifests")
	secure := flag.String("secure", "127.0.0.1:15012", "address of delta ADS and the certificate service")
	debug := flag.String("debug", "", "address of the debug pages")
	ca := flag.String("ca", "", "CERT,KEY,ROOTS of the mesh's CA")
	kubernetes := flag.String("kubernetes", "", "address of an API server for istioctl, plain HTTP")
	var forwards []string
	flag.Func("forward", "NAMESPACE/POD:PORT=ADDRESS: where a port-forward leads", func(text string) error {
		forwards = append(forwards, text)
		return nil
	})
	ttl := flag.Duration("cert-ttl", time.Hour, "life of issued certificates")
	flag.Parse()
	api, err := newAPIServer()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	text, err := read(*dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	manifests, err := parse(text, api)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	err = test.Wrap(func(t test.Failer) {
		plain, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := xds.NewFakeDiscoveryServer(t, xds.FakeOptions{
			KubernetesObjectString:     strings.Join(manifests.kube, "\n---\n"),
			ConfigString:               strings.Join(manifests.istio, "\n---\n"),
			MeshConfig:                 manifests.mesh,
			ListenerBuilder:            func() (net.Listener, error) { return plain, nil },
			DisableSecretAuthorization: true,
			KubeClientModifier: func(client kubelib.Client) {
				clear(gatewayapi.MinimumCRDVersions)
				for _, kind := range crds {
					clienttest.MakeCRD(t, client, kind)
				}
			},
		})
		if err := serveSecure(server, *secure, manifests.mesh.GetTrustDomain(), *ca, *ttl); err != nil {
			t.Fatal(err)
		}
		if *debug != "" {
			if err := serveDebug(server, *debug); err != nil {
				t.Fatal(err)
			}
		}
		if *kubernetes != "" {
			roots := (*ca)[strings.LastIndex(*ca, ",")+1:]
			if err := serveKubernetes(server.KubeClient(), manifests.mesh, *kubernetes, roots, forwards); err != nil {
				t.Fatal(err)
			}
		}
		fmt.Println("serving")
		watch(server, t, *dir, manifests, text, api)
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
