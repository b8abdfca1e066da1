// The local cluster's name server: CoreDNS with the three plugins that its Corefile names.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/template"
)

func main() {
	// The order in which they see a query.
	dnsserver.Directives = []string{"errors", "template", "kubernetes"}
	coremain.Run()
}
