//go:build tools

// Package tools pins the program that writes the chart's README.
package tools

import (
	_ "github.com/norwoodj/helm-docs/cmd/helm-docs"
)
