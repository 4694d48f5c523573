// SPDX-License-Identifier: Apache-2.0

//go:build tools

// Package echo names the programs of Istio that scenarios/interop.rs builds: a second implementation of HBONE.
package echo

import (
	_ "istio.io/istio/pkg/test/echo/cmd/client"
	_ "istio.io/istio/pkg/test/echo/cmd/server"
)
