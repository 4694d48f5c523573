// SPDX-License-Identifier: Apache-2.0

// CoreDNS with its usual plugins: the cluster DNS of the test cluster.
package main

import (
	// Being linked is all it takes to be a plugin.
	_ "github.com/coredns/coredns/core/plugin"
	"github.com/coredns/coredns/coremain"
)

func main() { coremain.Run() }
