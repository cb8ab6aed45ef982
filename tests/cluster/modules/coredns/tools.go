//go:build tools

// Package tools pins the cluster's DNS.
package tools

import _ "github.com/coredns/coredns"
