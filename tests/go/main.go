// SPDX-License-Identifier: Apache-2.0

// Go applications for the scenarios: an HTTP server (HTTP/1.1 and HTTP/2 with prior knowledge), a gRPC echo
// service, WebSocket echo, and clients for them that count; and a client of Istio's certificate service. They know
// nothing of the mesh.
package main

import (
	"fmt"
	"os"
)

const usage = `usage:
  apps serve ADDRESS NAME          HTTP (any path, /ws) and gRPC on one port
  apps get URL COUNT               GETs on one keep-alive connection; prints "STATUS BODY" counts
  apps load URL CONNECTIONS        GETs until standard input ends; prints "STATUS NAME" counts and failures
  apps short URL CLIENTS           the same with a connection for each GET
  apps hold URL CONNECTIONS        WebSocket messages, echoed, until standard input ends; counts and failures
  apps unary ADDRESS COUNT         gRPC unary calls; prints server name counts
  apps stream ADDRESS COUNT        one bidirectional gRPC stream with COUNT messages each way
  apps websocket URL COUNT         COUNT WebSocket messages, echoed
  apps certificate ADDRESS ID      asks a certificate authority, with the token and roots on standard input, for
                                   what the token is for; prints "granted IDENTITY" or "refused CODE: MESSAGE"
  apps impersonate ADDRESS ID      the same, for ID
`

func main() {
	commands := map[string]func([]string) error{
		"serve": serve, "get": get, "load": load, "short": short, "hold": hold,
		"unary": unary, "stream": stream, "websocket": websocketEcho,
		"certificate": certificate, "impersonate": impersonate,
	}
	if len(os.Args) != 4 || commands[os.Args[1]] == nil {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
