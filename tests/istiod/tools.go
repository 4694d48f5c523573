// SPDX-License-Identifier: Apache-2.0

//go:build tools

// Package istiod names the program that cluster/istiod.rs builds: Istio's own certificate authority.
package istiod

import _ "istio.io/istio/pilot/cmd/pilot-discovery"
