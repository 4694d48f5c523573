// SPDX-License-Identifier: Apache-2.0

//go:build tools

// Names Kubernetes' own test program, which is built from this module as well.
package main

import _ "k8s.io/kubernetes/test/images/agnhost"
