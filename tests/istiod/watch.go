package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	gatewaybeta "sigs.k8s.io/gateway-api/apis/v1beta1"

	extv1 "istio.io/client-go/pkg/apis/extensions/v1alpha1"
	netv1 "istio.io/client-go/pkg/apis/networking/v1"
	netv1alpha3 "istio.io/client-go/pkg/apis/networking/v1alpha3"
	secv1 "istio.io/client-go/pkg/apis/security/v1"
	telv1 "istio.io/client-go/pkg/apis/telemetry/v1"
	"istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config"
	"istio.io/istio/pkg/config/schema/kind"
	kubelib "istio.io/istio/pkg/kube"
	"istio.io/istio/pkg/kube/controllers"
	"istio.io/istio/pkg/kube/kclient/clienttest"
	"istio.io/istio/pkg/test"
	"istio.io/istio/pkg/util/sets"
)

// cluster is the Kubernetes client that changes go to.
type cluster struct {
	t      test.Failer
	client kubelib.Client
}

func put[T controllers.ComparableObject](c cluster, object T, gone bool) {
	writer := clienttest.NewWriter[T](c.t, c.client)
	if gone {
		writer.Delete(object.GetName(), object.GetNamespace())
		return
	}
	writer.CreateOrUpdate(object)
	writer.CreateOrUpdateStatus(object)
}

// putPlain is put for what has no status.
func putPlain[T controllers.ComparableObject](c cluster, object T, gone bool) {
	writer := clienttest.NewWriter[T](c.t, c.client)
	if gone {
		writer.Delete(object.GetName(), object.GetNamespace())
		return
	}
	writer.CreateOrUpdate(object)
}

func (c cluster) apply(document string, gone bool) error {
	object, _, err := decode(document)
	if err != nil {
		return err
	}
	switch o := object.(type) {
	case *corev1.Namespace:
		put(c, o, gone)
	case *corev1.Node:
		put(c, o, gone)
	case *corev1.Service:
		put(c, o, gone)
	case *corev1.Pod:
		put(c, o, gone)
	case *corev1.ConfigMap:
		putPlain(c, o, gone)
	case *corev1.Secret:
		putPlain(c, o, gone)
	case *discoveryv1.EndpointSlice:
		put(c, o, gone)
	case *gateway.Gateway:
		put(c, o, gone)
	case *gateway.HTTPRoute:
		put(c, o, gone)
	case *gateway.GRPCRoute:
		put(c, o, gone)
	case *gateway.TCPRoute:
		put(c, o, gone)
	case *gateway.TLSRoute:
		put(c, o, gone)
	case *gateway.BackendTLSPolicy:
		put(c, o, gone)
	case *gatewaybeta.ReferenceGrant:
		put(c, o, gone)
	case *netv1.ServiceEntry:
		put(c, o, gone)
	case *netv1.WorkloadEntry:
		put(c, o, gone)
	case *netv1.VirtualService:
		put(c, o, gone)
	case *netv1.DestinationRule:
		put(c, o, gone)
	case *netv1alpha3.EnvoyFilter:
		put(c, o, gone)
	case *secv1.AuthorizationPolicy:
		put(c, o, gone)
	case *secv1.RequestAuthentication:
		put(c, o, gone)
	case *telv1.Telemetry:
		put(c, o, gone)
	case *extv1.WasmPlugin:
		put(c, o, gone)
	case *extv1.TrafficExtension:
		put(c, o, gone)
	default:
		return fmt.Errorf("%T is not applied while it runs", object)
	}
	return nil
}

// credential tells of a Secret or a ConfigMap that changed, as istiod's own handler does, which the fake server lacks.
// Informers need a moment.
func credential(server *xds.FakeDiscoveryServer, name string) {
	parts := strings.Split(name, "/")
	key := model.ConfigKey{Name: parts[2], Namespace: parts[1]}
	switch parts[0] {
	case "Secret":
		key.Kind = kind.Secret
	case "ConfigMap":
		key.Kind = kind.ConfigMap
	default:
		return
	}
	time.AfterFunc(200*time.Millisecond, func() {
		server.Discovery.ConfigUpdate(&model.PushRequest{
			ConfigsUpdated: sets.New(key),
			Reason:         model.NewReasonStats(model.SecretTrigger),
		})
	})
}

func decode(document string) (runtime.Object, string, error) {
	object, kind, err := kubelib.IstioCodec.UniversalDeserializer().Decode([]byte(document), nil, nil)
	if err != nil {
		return nil, "", err
	}
	named := object.(interface {
		GetName() string
		GetNamespace() string
	})
	return object, kind.Kind + "/" + named.GetNamespace() + "/" + named.GetName(), nil
}

type state struct {
	kube  map[string]string
	istio map[string]config.Config
}

func (m *manifests) state() (*state, error) {
	s := &state{map[string]string{}, map[string]config.Config{}}
	for _, document := range m.kube {
		_, name, err := decode(document)
		if err != nil {
			return nil, err
		}
		s.kube[name] = document
	}
	configs, _, err := crd.ParseInputs(strings.Join(m.istio, "\n---\n"))
	for _, c := range configs {
		s.istio[c.Key()] = c
	}
	return s, err
}

// watch applies what changes in dir, ten times a second, for ever.
func watch(server *xds.FakeDiscoveryServer, t test.Failer, dir string, first *manifests, before string, api *apiServer) {
	complain := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "watch:", err)
		}
	}
	c := cluster{t, server.KubeClient()}
	have, err := first.state()
	complain(err)
	for range time.Tick(100 * time.Millisecond) {
		text, err := read(dir)
		if err != nil || text == before {
			complain(err)
			continue
		}
		before = text
		found, err := parse(text, api)
		if err != nil {
			complain(err)
			continue
		}
		now, err := found.state()
		if err != nil {
			complain(err)
			continue
		}
		for name, document := range have.kube {
			if _, stays := now.kube[name]; !stays {
				complain(c.apply(document, true))
				credential(server, name)
			}
		}
		for name, document := range now.kube {
			if have.kube[name] != document {
				complain(c.apply(document, false))
				credential(server, name)
			}
		}
		for key, old := range have.istio {
			if _, stays := now.istio[key]; !stays {
				complain(server.Store().Delete(old.GroupVersionKind, old.Name, old.Namespace, nil))
			}
		}
		for key, config := range now.istio {
			old, known := have.istio[key]
			if !known {
				_, err = server.Store().Create(config)
			} else if !old.Equals(&config) {
				_, err = server.Store().Update(config)
			}
			complain(err)
			err = nil
		}
		have = now
	}
}
