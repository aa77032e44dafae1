package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	meshconfig "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pkg/config/schema/collections"
	kubelib "istio.io/istio/pkg/kube"
	"istio.io/istio/pkg/util/protomarshal"
)

// kubernetes is as much of an API server as istioctl talks to: objects to read, and ports of pods to forward. It shows what
// the discovery server was given, and a pod in which that runs.
type kubernetes struct {
	trackers []clienttesting.ObjectTracker
	own      []runtime.Object
	// Where a pod's port leads: NAMESPACE/POD:PORT.
	forwards map[string]string
}

// Kinds of resources that no collection of Istio's has.
var kinds = map[string]string{
	"configmaps": "ConfigMap", "pods": "Pod", "services": "Service", "namespaces": "Namespace", "nodes": "Node",
	"secrets": "Secret", "serviceaccounts": "ServiceAccount", "endpointslices": "EndpointSlice",
	"deployments": "Deployment", "daemonsets": "DaemonSet", "replicasets": "ReplicaSet", "statefulsets": "StatefulSet",
	"events": "Event", "mutatingwebhookconfigurations": "MutatingWebhookConfiguration",
}

// What istioctl's discovery finds besides.
var groups = []string{"apps/v1", "gateway.networking.k8s.io/v1", "networking.istio.io/v1", "security.istio.io/v1"}

func serveKubernetes(client kubelib.Client, settings *meshconfig.MeshConfig, address, roots string, forwards []string) error {
	root, err := os.ReadFile(roots)
	if err != nil {
		return err
	}
	mesh, err := protomarshal.ToYAML(settings)
	if err != nil {
		return err
	}
	k := &kubernetes{forwards: map[string]string{}}
	for _, forward := range forwards {
		from, to, found := strings.Cut(forward, "=")
		if !found {
			return fmt.Errorf("-forward %s: not NAMESPACE/POD:PORT=ADDRESS", forward)
		}
		k.forwards[from] = to
	}
	for _, fake := range []any{client.Kube(), client.Istio(), client.GatewayAPI()} {
		if tracked, ok := fake.(interface {
			Tracker() clienttesting.ObjectTracker
		}); ok {
			k.trackers = append(k.trackers, tracked.Tracker())
		}
	}
	k.own = []runtime.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "istio-system"}},
		&corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: "istio-ca-root-cert", Namespace: "istio-system"},
			Data:       map[string]string{"root-cert.pem": string(root)},
		},
		&corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: "istio", Namespace: "istio-system"},
			Data:       map[string]string{"mesh": mesh},
		},
		&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "istiod-0", Namespace: "istio-system", Labels: map[string]string{"app": "istiod", "istio.io/rev": "default"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "discovery"}}},
			Status: corev1.PodStatus{
				Phase:      corev1.PodRunning,
				Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			},
		},
	}
	socket, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(socket, k) }()
	return nil
}

// path is what a request is for: /api/v1/namespaces/NAMESPACE/RESOURCE/NAME/PART, or /apis/GROUP/VERSION/….
type path struct {
	resource        schema.GroupVersionResource
	namespace, name string
	part            string
}

func parsePath(text string) (path, bool) {
	parts := strings.Split(strings.Trim(text, "/"), "/")
	var p path
	switch {
	case len(parts) >= 3 && parts[0] == "api":
		p.resource.Version, parts = parts[1], parts[2:]
	case len(parts) >= 4 && parts[0] == "apis":
		p.resource.Group, p.resource.Version, parts = parts[1], parts[2], parts[3:]
	default:
		return p, false
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		p.namespace, parts = parts[1], parts[2:]
	}
	parts = append(parts, "", "", "")
	p.resource.Resource, p.name, p.part = parts[0], parts[1], parts[2]
	return p, true
}

func (k *kubernetes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if os.Getenv("WAYPOINT_API_LOG") != "" {
		fmt.Fprintln(os.Stderr, "api:", r.Method, r.URL)
	}
	p, found := parsePath(r.URL.Path)
	switch {
	case !found:
		k.discover(w, r.URL.Path)
	case p.part == "portforward":
		k.forward(w, r, p)
	case p.part == "token":
		// {"alg":"none"} . {"sub":"system:serviceaccount:istio-system:default"} . nothing
		token := "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6aXN0aW8tc3lzdGVtOmRlZmF1bHQifQ.x"
		answer(w, map[string]any{
			"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
			"status": map[string]any{"token": token, "expirationTimestamp": time.Now().Add(time.Hour).Format(time.RFC3339)},
		})
	case r.Method != http.MethodGet:
		refuse(w, http.StatusMethodNotAllowed, "read only")
	case p.part == "log":
		fmt.Fprintln(w, "no log here")
	case p.name != "":
		if object := k.get(p); object != nil {
			answer(w, object)
		} else {
			refuse(w, http.StatusNotFound, p.resource.Resource+" "+p.name+" not found")
		}
	default:
		k.list(w, r, p)
	}
}

func kindOf(resource schema.GroupVersionResource) schema.GroupVersionKind {
	if found, ok := collections.All.FindByGroupVersionResource(resource); ok {
		return found.GroupVersionKind().Kubernetes()
	}
	return resource.GroupVersion().WithKind(kinds[resource.Resource])
}

func (k *kubernetes) get(p path) runtime.Object {
	for _, object := range k.all(p) {
		if named, err := meta.Accessor(object); err == nil && named.GetName() == p.name {
			return object
		}
	}
	return nil
}

// all objects of a kind in a namespace, or in all of them.
func (k *kubernetes) all(p path) []runtime.Object {
	kind := kindOf(p.resource)
	var found []runtime.Object
	for _, tracker := range k.trackers {
		list, err := tracker.List(p.resource, kind, p.namespace)
		if err != nil {
			continue
		}
		items, err := meta.ExtractList(list)
		if err != nil {
			continue
		}
		found = append(found, items...)
	}
	for _, object := range k.own {
		named, err := meta.Accessor(object)
		if err != nil || (p.namespace != "" && named.GetNamespace() != p.namespace) {
			continue
		}
		if strings.HasSuffix(fmt.Sprintf("%T", object), "."+kind.Kind) {
			found = append(found, object)
		}
	}
	for i, object := range found {
		object = object.DeepCopyObject()
		object.GetObjectKind().SetGroupVersionKind(kind)
		if pod, ok := object.(*corev1.Pod); ok && pod.Labels["gateway.istio.io/managed"] != "" {
			pod.Annotations = map[string]string{"prometheus.io/path": "/stats/prometheus", "prometheus.io/port": "15020"}
			pod.Spec.Containers = []corev1.Container{{Name: "istio-proxy"}}
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "istio-proxy", Ready: true}}
		}
		found[i] = object
	}
	return found
}

func (k *kubernetes) list(w http.ResponseWriter, r *http.Request, p path) {
	wanted, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	where, err := fields.ParseSelector(r.URL.Query().Get("fieldSelector"))
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	items := []runtime.Object{}
	for _, object := range k.all(p) {
		named, err := meta.Accessor(object)
		if err != nil || !wanted.Matches(labels.Set(named.GetLabels())) {
			continue
		}
		known := fields.Set{"metadata.name": named.GetName(), "metadata.namespace": named.GetNamespace()}
		if pod, ok := object.(*corev1.Pod); ok {
			known["status.phase"], known["spec.nodeName"] = string(pod.Status.Phase), pod.Spec.NodeName
		}
		if where.Matches(known) {
			items = append(items, object)
		}
	}
	kind := kindOf(p.resource)
	answer(w, map[string]any{
		"kind": kind.Kind + "List", "apiVersion": kind.GroupVersion().String(),
		"metadata": map[string]any{"resourceVersion": "1"}, "items": items,
	})
}

func (k *kubernetes) discover(w http.ResponseWriter, where string) {
	where = strings.Trim(where, "/")
	switch where {
	case "version":
		answer(w, map[string]any{"major": "1", "minor": "36", "gitVersion": "v1.36.0"})
	case "api":
		answer(w, map[string]any{"kind": "APIVersions", "versions": []string{"v1"}})
	case "apis":
		var list []any
		for _, group := range groups {
			name, version, _ := strings.Cut(group, "/")
			v := map[string]any{"groupVersion": group, "version": version}
			list = append(list, map[string]any{"name": name, "versions": []any{v}, "preferredVersion": v})
		}
		answer(w, map[string]any{"kind": "APIGroupList", "apiVersion": "v1", "groups": list})
	default:
		group := strings.TrimPrefix(strings.TrimPrefix(where, "apis/"), "api/")
		answer(w, map[string]any{
			"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": resources(group),
		})
	}
}

func resources(group string) []any {
	var list []any
	add := func(resource, kind string, namespaced bool) {
		list = append(list, map[string]any{
			"name": resource, "singularName": strings.ToLower(kind), "kind": kind, "namespaced": namespaced,
			"verbs": []string{"get", "list", "watch"},
		})
	}
	version, err := schema.ParseGroupVersion(group)
	if err != nil {
		return list
	}
	switch group {
	case "v1":
		for _, resource := range []string{"configmaps", "namespaces", "nodes", "pods", "secrets", "serviceaccounts", "services"} {
			add(resource, kinds[resource], resource != "namespaces" && resource != "nodes")
		}
	case "apps/v1":
		for _, resource := range []string{"daemonsets", "deployments", "replicasets", "statefulsets"} {
			add(resource, kinds[resource], true)
		}
	default:
		for _, found := range collections.All.All() {
			if resource := found.GroupVersionResource(); resource.GroupVersion() == version {
				add(resource.Resource, found.Kind(), !found.IsClusterScoped())
			}
		}
	}
	return list
}

// forward carries bytes between the streams of a port-forward and the pod's port.
func (k *kubernetes) forward(w http.ResponseWriter, r *http.Request, p path) {
	if r.Header.Get(httpstream.HeaderUpgrade) != spdy.HeaderSpdy31 {
		// Tunnelled over a websocket, which clients try first; then they come back.
		refuse(w, http.StatusForbidden, "only SPDY")
		return
	}
	if _, err := httpstream.Handshake(r, w, []string{"portforward.k8s.io"}); err != nil {
		return
	}
	streams := make(chan httpstream.Stream)
	connection := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(stream httpstream.Stream, _ <-chan struct{}) error {
		streams <- stream
		return nil
	})
	if connection == nil {
		return
	}
	defer connection.Close()
	failures := map[string]httpstream.Stream{}
	for {
		select {
		case <-connection.CloseChan():
			return
		case stream := <-streams:
			request := stream.Headers().Get(corev1.PortForwardRequestIDHeader)
			if stream.Headers().Get(corev1.StreamType) == corev1.StreamTypeError {
				failures[request] = stream
				continue
			}
			to := k.forwards[p.namespace+"/"+p.name+":"+stream.Headers().Get(corev1.PortHeader)]
			go carry(stream, failures[request], to)
		}
	}
}

func carry(stream, failure httpstream.Stream, to string) {
	defer stream.Close()
	defer failure.Close()
	tcp, err := net.Dial("tcp", to)
	if err != nil {
		fmt.Fprintln(failure, err)
		return
	}
	defer tcp.Close()
	var both sync.WaitGroup
	both.Add(1)
	go func() {
		defer both.Done()
		_, _ = io.Copy(tcp, stream)
		_ = tcp.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(stream, tcp)
	_ = stream.Close()
	_ = tcp.SetReadDeadline(time.Now())
	both.Wait()
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("content-type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}

func refuse(w http.ResponseWriter, status int, reason string) {
	w.Header().Set("content-type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Message: reason, Code: int32(status), Reason: metav1.StatusReason(http.StatusText(status)),
	})
}
