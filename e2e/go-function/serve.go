// The other side, for the test: `handler serve TRUSTED OTHER FILE` serves HTTPS at two addresses, each under an
// authority of its own. The certificate of the first authority goes to FILE; then it says so.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"time"
)

// What any of the steps may fail with is the end of it.
func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func certificate(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: must(rand.Int(rand.Reader, big.NewInt(1<<62))),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-24 * time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
}

// A listener whose certificate is signed by a new authority, and the certificate of that.
func listen(address string) (net.Listener, []byte) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	authority := certificate("a private authority")
	authority.IsCA, authority.BasicConstraintsValid = true, true
	authority.KeyUsage = x509.KeyUsageCertSign
	signed := must(x509.CreateCertificate(rand.Reader, authority, authority, key.Public(), key))

	host, _, err := net.SplitHostPort(address)
	if err != nil {
		log.Fatal(err)
	}
	own := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	server := certificate("a server")
	server.IPAddresses = []net.IP{net.ParseIP(host)}
	chain := must(x509.CreateCertificate(rand.Reader, server, authority, own.Public(), key))
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{chain}, PrivateKey: own}}}
	return must(tls.Listen("tcp", address, config)), signed
}

func serve(trusted, other, file string) {
	hello := http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		fmt.Fprintf(answer, "hello over %s", request.Proto)
	})
	first, authority := listen(trusted)
	second, _ := listen(other)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority})
	if err := os.WriteFile(file, text, 0o644); err != nil {
		log.Fatal(err)
	}
	fmt.Println("serving")
	go func() { log.Fatal(http.Serve(second, hello)) }()
	log.Fatal(http.Serve(first, hello))
}
