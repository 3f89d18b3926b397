// pause holds a pod's namespaces and reaps what is left to it: the sandbox container of the test cluster.
package main

import (
	"os/signal"
	"syscall"
)

func main() {
	signal.Ignore(syscall.SIGCHLD)
	for {
		_ = syscall.Pause()
	}
}
