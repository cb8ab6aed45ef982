//go:build tools

// Package tools pins KubeRay's operator.
package tools

import _ "github.com/ray-project/kuberay/ray-operator"
