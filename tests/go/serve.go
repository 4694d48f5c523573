// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"golang.org/x/net/websocket"
	"google.golang.org/grpc"
)

// serve answers HTTP with "NAME PROTO PEER\n" and gRPC on the same port.
func serve(arguments []string) error {
	address, name := arguments[0], arguments[1]
	rpc := newEchoServer(name)
	mux := http.NewServeMux()
	mux.Handle("/ws", websocket.Server{Handler: func(connection *websocket.Conn) { io.Copy(connection, connection) }})
	mux.HandleFunc("/", func(writer http.ResponseWriter, request *http.Request) {
		peer, _, _ := net.SplitHostPort(request.RemoteAddr)
		read, _ := io.Copy(io.Discard, request.Body)
		fmt.Fprintf(writer, "%s %s %s %d\n", name, request.Proto, peer, read)
	})
	return listen(address, http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
		if strings.HasPrefix(request.Header.Get("Content-Type"), "application/grpc") {
			rpc.ServeHTTP(writer, request)
			return
		}
		mux.ServeHTTP(writer, request)
	}))
}

func listen(address string, handler http.Handler) error {
	server := &http.Server{Addr: address, Handler: handler, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	return server.ListenAndServe()
}

var _ http.Handler = (*grpc.Server)(nil)
