package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	charts "istio.io/istio/manifests"
	"istio.io/istio/pkg/config/schema/collections"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

// gatewayCRDs is the folder of the Gateway API's CRDs, set when this is linked: unlike Istio's they aren't
// part of a Go package.
var gatewayCRDs string

// apiServer does to a custom resource what the API server does before istiod sees it: its kind's defaults are
// filled in, it is stored in the version that istiod reads, and what the kind's schema or rules forbid is
// refused. The many kinds are read when the first object of theirs comes: their rules take long to compile.
type apiServer struct {
	// By group and kind, the CRD's text.
	definitions map[string]string
	kinds       map[string]*customKind
	// By document; they are read again with every change of any.
	admitted map[string]string
}

type customKind struct {
	version  string
	defaults *schema.Structural
	schema   validation.SchemaValidator
	rules    *cel.Validator
}

var (
	definedGroup = regexp.MustCompile(`(?m)^  group: (\S+)$`)
	definedKind  = regexp.MustCompile(`(?m)^    kind: (\S+)$`)
)

func newAPIServer() (*apiServer, error) {
	if gatewayCRDs == "" {
		return nil, fmt.Errorf("built without the Gateway API's CRDs: use `make istiod`")
	}
	istio, err := fs.ReadFile(charts.FS, "charts/base/files/crd-all.gen.yaml")
	if err != nil {
		return nil, err
	}
	texts := []string{string(istio)}
	files, err := filepath.Glob(filepath.Join(gatewayCRDs, "gateway.networking.*.yaml"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no CRDs in %s: %w", gatewayCRDs, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		texts = append(texts, string(text))
	}
	server := &apiServer{map[string]string{}, map[string]*customKind{}, map[string]string{}}
	for _, definition := range strings.Split(strings.Join(texts, "\n---\n"), "\n---") {
		group, kind := definedGroup.FindStringSubmatch(definition), definedKind.FindStringSubmatch(definition)
		if group != nil && kind != nil {
			server.definitions[group[1]+"/"+kind[1]] = definition
		}
	}
	return server, nil
}

// admit gives the document as it is stored.
func (s *apiServer) admit(document string) (string, error) {
	if stored, known := s.admitted[document]; known {
		return stored, nil
	}
	// Not yaml.Unmarshal: the rules need integers to stay integers.
	text, err := yaml.YAMLToJSON([]byte(document))
	if err != nil {
		return "", err
	}
	var object map[string]any
	if err := utiljson.Unmarshal(text, &object); err != nil {
		return "", err
	}
	apiVersion, _ := object["apiVersion"].(string)
	name, _ := object["kind"].(string)
	group, _, _ := strings.Cut(apiVersion, "/")
	kind, err := s.kind(group + "/" + name)
	if err != nil {
		return "", err
	}
	stored := document
	if kind != nil {
		if stored, err = kind.store(object, group); err != nil {
			return "", fmt.Errorf("refused %s: %w: %s", name, err, document)
		}
	}
	s.admitted[document] = stored
	return stored, nil
}

func (k *customKind) store(object map[string]any, group string) (string, error) {
	object["apiVersion"] = group + "/" + k.version
	defaulting.Default(object, k.defaults)
	problems := validation.ValidateCustomResource(nil, object, k.schema)
	if len(problems) == 0 {
		problems, _ = k.rules.Validate(context.Background(), nil, k.defaults, object, nil, celconfig.RuntimeCELCostBudget)
	}
	if len(problems) > 0 {
		return "", problems.ToAggregate()
	}
	text, err := yaml.Marshal(object)
	return string(text), err
}

// kind reads a CRD, in the version that istiod reads; nil if there is none.
func (s *apiServer) kind(name string) (*customKind, error) {
	if kind, known := s.kinds[name]; known {
		return kind, nil
	}
	text, defined := s.definitions[name]
	if !defined {
		return nil, nil
	}
	var definition apiextensionsv1.CustomResourceDefinition
	if err := yaml.Unmarshal([]byte(text), &definition); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	wanted := readByIstiod(name)
	for _, version := range definition.Spec.Versions {
		if wanted != "" && version.Name != wanted {
			continue
		}
		kind, err := compile(version)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		s.kinds[name] = kind
		return kind, nil
	}
	return nil, fmt.Errorf("%s has no version %s", name, wanted)
}

func readByIstiod(name string) string {
	for _, kind := range collections.All.All() {
		if kind.Group()+"/"+kind.Kind() == name {
			return kind.Version()
		}
	}
	return ""
}

func compile(version apiextensionsv1.CustomResourceDefinitionVersion) (*customKind, error) {
	var internal apiextensions.CustomResourceValidation
	err := apiextensionsv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(version.Schema, &internal, nil)
	if err != nil {
		return nil, err
	}
	structural, err := schema.NewStructural(internal.OpenAPIV3Schema)
	if err != nil {
		return nil, err
	}
	validator, _, err := validation.NewSchemaValidator(internal.OpenAPIV3Schema)
	if err != nil {
		return nil, err
	}
	rules := cel.NewValidator(structural, true, celconfig.PerCallLimit)
	return &customKind{version.Name, structural, validator, rules}, nil
}
