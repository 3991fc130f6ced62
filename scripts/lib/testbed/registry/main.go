// A registry in memory with the referrers API, over TLS, for one user.
package main

import (
	"crypto/subtle"
	"flag"
	"log"
	"net/http"

	"github.com/google/go-containerregistry/pkg/registry"
)

func main() {
	address := flag.String("address", "", "host:port")
	certificate := flag.String("certificate", "", "PEM file")
	key := flag.String("key", "", "PEM file")
	user := flag.String("user", "", "who may read and write")
	password := flag.String("password", "", "of the user")
	flag.Parse()

	served := registry.New(registry.WithReferrersSupport(true))
	guarded := func(answer http.ResponseWriter, request *http.Request) {
		name, secret, _ := request.BasicAuth()
		known := subtle.ConstantTimeCompare([]byte(name+":"+secret), []byte(*user+":"+*password))
		if known != 1 {
			answer.Header().Set("WWW-Authenticate", `Basic realm="testbed"`)
			http.Error(answer, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			return
		}
		served.ServeHTTP(answer, request)
	}
	log.Fatal(http.ListenAndServeTLS(*address, *certificate, *key, http.HandlerFunc(guarded)))
}
