// SPDX-License-Identifier: Apache-2.0

// CoreDNS with the few plugins that the test cluster's DNS needs: with all of them it would be linked with the client
// libraries of every cloud, and take minutes to build.
package main

import (
	"github.com/coredns/coredns/coremain"
	// Being linked is all it takes to be a plugin.
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/log"
)

func main() { coremain.Run() }
