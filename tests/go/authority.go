// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// Istio's certificate service, its two messages written out instead of generated.
const (
	createCertificate = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
	csrField          = 1
	validityField     = 3
	metadataField     = 4
	chainField        = 1
)

// A message as its bytes.
type asIs struct{}

func (asIs) Name() string                  { return "proto" }
func (asIs) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (asIs) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

// The identity is in the signing request alone.
func certificate(arguments []string) error { return askAuthority(arguments, nil) }

// The identity is asked for as a node asks for those of its pods.
func impersonate(arguments []string) error {
	return askAuthority(arguments, map[string]any{"ImpersonatedIdentity": arguments[1]})
}

// Standard input has a line with the token, if any, and then the roots.
func askAuthority(arguments []string, more map[string]any) error {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	token, roots, _ := strings.Cut(string(input), "\n")
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM([]byte(roots)) {
		return errors.New("no roots after the token on standard input")
	}
	request, err := certificateRequest(arguments[1], more)
	if err != nil {
		return err
	}
	secured := credentials.NewTLS(&tls.Config{RootCAs: trusted})
	connection, err := grpc.NewClient("passthrough:///"+arguments[0],
		grpc.WithTransportCredentials(secured), grpc.WithDisableRetry())
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	var answer []byte
	err = connection.Invoke(ctx, createCertificate, &request, &answer, grpc.ForceCodec(asIs{}), grpc.WaitForReady(true))
	switch status.Code(err) {
	case codes.OK:
	case codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument:
		fmt.Printf("refused %s: %s\n", status.Code(err), status.Convert(err).Message())
		return nil
	default:
		return err
	}
	named, err := namesOfLeaf(answer)
	if err != nil {
		return err
	}
	fmt.Printf("granted %s\n", strings.Join(named, " "))
	return nil
}

func certificateRequest(identity string, more map[string]any) ([]byte, error) {
	name, err := url.Parse(identity)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	signing, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{name}}, key)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: signing})
	request := protowire.AppendBytes(protowire.AppendTag(nil, csrField, protowire.BytesType), text)
	request = protowire.AppendVarint(protowire.AppendTag(request, validityField, protowire.VarintType), 600)
	if more == nil {
		return request, nil
	}
	fields, err := structpb.NewStruct(more)
	if err != nil {
		return nil, err
	}
	encoded, err := proto.Marshal(fields)
	if err != nil {
		return nil, err
	}
	return protowire.AppendBytes(protowire.AppendTag(request, metadataField, protowire.BytesType), encoded), nil
}

// Whom the first certificate of an answer names.
func namesOfLeaf(answer []byte) ([]string, error) {
	number, kind, read := protowire.ConsumeTag(answer)
	if read < 0 || number != chainField || kind != protowire.BytesType {
		return nil, errors.New("an answer without certificates")
	}
	text, read := protowire.ConsumeBytes(answer[read:])
	if read < 0 {
		return nil, protowire.ParseError(read)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("the first text of an answer is not PEM")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, name := range leaf.URIs {
		names = append(names, name.String())
	}
	return names, nil
}
