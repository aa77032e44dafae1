package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"sigs.k8s.io/yaml"

	meshconfig "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pkg/config/mesh"
)

// manifests is what a folder says: documents for the Kubernetes client, those of Istio's own kinds, and the
// settings of the mesh.
type manifests struct {
	kube, istio []string
	mesh        *meshconfig.MeshConfig
}

type object struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Spec struct {
		GatewayClassName string `json:"gatewayClassName"`
	} `json:"spec"`
	Data map[string]string `json:"data"`
}

// read gives the text of all files of a folder, in the order of their names.
func read(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return "", err
	}
	sort.Strings(files)
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		all.WriteString("\n---\n" + string(text))
	}
	return all.String(), nil
}

// parse takes the documents of a text. Of those that describe one object the last counts, as if it had been
// applied after the others.
func parse(text string, server *apiServer) (*manifests, error) {
	var names []string
	documents, objects := map[string]string{}, map[string]object{}
	for _, document := range strings.Split(text, "\n---") {
		var o object
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			return nil, fmt.Errorf("%w in %s", err, document)
		}
		if o.Kind == "" {
			continue
		}
		admitted, err := server.admit(document)
		if err != nil {
			return nil, err
		}
		name := o.Kind + "/" + o.Metadata.Namespace + "/" + o.Metadata.Name
		if _, known := documents[name]; !known {
			names = append(names, name)
		}
		documents[name], objects[name] = admitted, o
	}
	found := &manifests{mesh: mesh.DefaultMeshConfig()}
	waypoints := 0
	for _, name := range names {
		document, o := documents[name], objects[name]
		switch {
		case o.Kind == "ConfigMap" && o.Data["mesh"] != "":
			var err error
			if found.mesh, err = mesh.ApplyMeshConfig(o.Data["mesh"], found.mesh); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		case o.Kind == "Gateway" && o.Spec.GatewayClassName == "istio-waypoint":
			waypoints++
			deployed, err := deploy(document, o.Metadata.Name, o.Metadata.Namespace, waypoints)
			if err != nil {
				return nil, err
			}
			found.kube = append(found.kube, deployed...)
		default:
			found.kube = append(found.kube, document)
			if strings.Contains(o.APIVersion, ".istio.io/") {
				found.istio = append(found.istio, document)
			}
		}
	}
	slices, err := endpoints(found.kube)
	if err != nil {
		return nil, err
	}
	found.kube = append(found.kube, slices...)
	return found, nil
}

// deploy gives a waypoint Gateway what the deployment controller gives it: an address, a Service, a pod.
func deploy(document, name, namespace string, n int) ([]string, error) {
	var gateway map[string]any
	if err := yaml.Unmarshal([]byte(document), &gateway); err != nil {
		return nil, err
	}
	host := name + "." + namespace + ".svc.cluster.local"
	gateway["status"] = map[string]any{"addresses": []any{map[string]any{"type": "Hostname", "value": host}}}
	text, err := yaml.Marshal(gateway)
	if err != nil {
		return nil, err
	}
	labels := fmt.Sprintf("gateway.istio.io/managed: istio.io-mesh-controller, gateway.networking.k8s.io/gateway-name: %s, gateway.networking.k8s.io/gateway-class-name: istio-waypoint", name)
	service := fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: %[2]s, labels: {%[3]s}}
spec:
  clusterIP: 10.96.250.%[4]d
  clusterIPs: [10.96.250.%[4]d]
  ports: [{name: mesh, port: 15008, appProtocol: hbone, targetPort: 15008}]
  selector: {gateway.networking.k8s.io/gateway-name: %[1]s}
`, name, namespace, labels, n)
	pod := fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %[1]s-0, namespace: %[2]s, labels: {%[3]s}}
spec: {serviceAccountName: %[1]s, nodeName: n1}
status:
  phase: Running
  podIP: 10.1.250.%[4]d
  podIPs: [{ip: 10.1.250.%[4]d}]
  conditions: [{type: Ready, status: "True"}]
`, name, namespace, labels, n)
	return []string{string(text), service, pod}, nil
}
