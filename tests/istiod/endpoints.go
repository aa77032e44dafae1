package main

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// endpoints plays the EndpointSlice controller: a slice of the pods that it selects for every Service that has a
// selector, and no slice among the documents.
func endpoints(documents []string) ([]string, error) {
	var services []*corev1.Service
	var pods []*corev1.Pod
	sliced := map[string]bool{}
	for _, document := range documents {
		object, _, err := decode(document)
		if err != nil {
			return nil, err
		}
		switch o := object.(type) {
		case *corev1.Service:
			services = append(services, o)
		case *corev1.Pod:
			pods = append(pods, o)
		case *discoveryv1.EndpointSlice:
			sliced[o.Namespace+"/"+o.Labels[discoveryv1.LabelServiceName]] = true
		}
	}
	var slices []string
	for _, service := range services {
		if len(service.Spec.Selector) == 0 || sliced[service.Namespace+"/"+service.Name] {
			continue
		}
		slice := &discoveryv1.EndpointSlice{
			TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
			ObjectMeta: metav1.ObjectMeta{
				Name: service.Name + "-slice", Namespace: service.Namespace,
				Labels: map[string]string{discoveryv1.LabelServiceName: service.Name},
			},
			AddressType: discoveryv1.AddressTypeIPv4,
		}
		for _, port := range service.Spec.Ports {
			target := port.TargetPort.IntVal
			if target == 0 {
				target = port.Port
			}
			name, protocol := port.Name, corev1.ProtocolTCP
			slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &name, Port: &target, Protocol: &protocol, AppProtocol: port.AppProtocol})
		}
		selector := labels.SelectorFromSet(service.Spec.Selector)
		for _, pod := range pods {
			if pod.Namespace != service.Namespace || !selector.Matches(labels.Set(pod.Labels)) || strings.Contains(pod.Status.PodIP, ":") {
				continue
			}
			ready := false
			for _, condition := range pod.Status.Conditions {
				ready = ready || (condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue)
			}
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses:  []string{pod.Status.PodIP},
				Conditions: discoveryv1.EndpointConditions{Ready: &ready},
				TargetRef:  &corev1.ObjectReference{Kind: "Pod", Name: pod.Name, Namespace: pod.Namespace},
			})
		}
		text, err := yaml.Marshal(slice)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", service.Name, err)
		}
		slices = append(slices, string(text))
	}
	return slices, nil
}
