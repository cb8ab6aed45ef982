//go:build tools

// Package tools pins agent-sandbox.
package tools

import _ "sigs.k8s.io/agent-sandbox/cmd/agent-sandbox-controller"
