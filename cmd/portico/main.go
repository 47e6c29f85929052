// Command portico gives machines a front door: Kubernetes Services for virtual
// machines, pods and processes.
package main

import (
	"os"

	"portico.dev/portico/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
