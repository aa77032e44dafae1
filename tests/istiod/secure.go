package main

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/security"
	"istio.io/istio/security/pkg/pki/ca"
	"istio.io/istio/security/pkg/pki/util"
	caserver "istio.io/istio/security/pkg/server/ca"
)

// believer authenticates a caller by what its token claims: system:serviceaccount:NAMESPACE:NAME.
type believer struct{ trustDomain string }

func (believer) AuthenticatorType() string { return "token" }

func (b believer) Authenticate(context security.AuthContext) (*security.Caller, error) {
	if context.GrpcContext == nil {
		return nil, errors.New("no gRPC context")
	}
	headers, _ := metadata.FromIncomingContext(context.GrpcContext)
	for _, header := range headers.Get("authorization") {
		parts := strings.Split(strings.TrimPrefix(header, "Bearer "), ".")
		if len(parts) != 3 {
			return nil, errors.New("not a token")
		}
		payload, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			return nil, err
		}
		var claims struct{ Sub string }
		if err := json.Unmarshal(payload, &claims); err != nil {
			return nil, err
		}
		subject := strings.Split(claims.Sub, ":")
		if len(subject) != 4 {
			return nil, errors.New("the subject is no service account")
		}
		namespace, account := subject[2], subject[3]
		return &security.Caller{
			AuthSource:     security.AuthSourceIDToken,
			Identities:     []string{"spiffe://" + b.trustDomain + "/ns/" + namespace + "/sa/" + account},
			KubernetesInfo: security.KubernetesInfo{PodNamespace: namespace, PodServiceAccount: account},
		}, nil
	}
	return nil, errors.New("no token")
}

func serveSecure(server *xds.FakeDiscoveryServer, address, trustDomain, files string, ttl time.Duration) error {
	options, err := ca.NewSelfSignedDebugIstioCAOptions("", 24*time.Hour, ttl, 24*time.Hour, trustDomain, 2048)
	if err != nil {
		return err
	}
	var pem [3][]byte
	for i, file := range strings.SplitN(files, ",", 3) {
		if pem[i], err = os.ReadFile(file); err != nil {
			return err
		}
	}
	options.KeyCertBundle, err = util.NewVerifiedKeyCertBundleFromPem(pem[0], pem[1], nil, pem[2], nil)
	if err != nil {
		return err
	}
	authority, err := ca.NewIstioCA(options)
	if err != nil {
		return err
	}
	certificate, key, err := authority.GenKeyCert([]string{"istiod.istio-system.svc"}, 24*time.Hour, false)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return err
	}
	authenticators := []security.Authenticator{believer{trustDomain}}
	listener := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})))
	server.Discovery.Authenticators = authenticators
	server.Discovery.Register(listener)
	service, err := caserver.New(authority, ttl, authenticators, nil)
	if err != nil {
		return err
	}
	service.Register(listener)
	socket, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	go func() { _ = listener.Serve(socket) }()
	return nil
}

func serveDebug(server *xds.FakeDiscoveryServer, address string) error {
	socket, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(socket, server.DiscoveryDebug) }()
	return nil
}
