// A reverse proxy of Go's standard library: each argument is FOLDER=IP:PORT, FOLDER=unix:/PATH, or
// FOLDER=tls:IP:PORT for one that has to have the certificate that is trusted.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"strings"
	"time"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "where to listen")
	connect := flag.Duration("connect", time.Second, "how long to wait for a connection")
	patience := flag.Duration("patience", time.Minute, "how long to wait for a response's head")
	trusted := flag.String("trusted", "", "file of the certificate that is trusted")
	flag.Parse()
	known := x509.NewCertPool()
	if file, err := os.ReadFile(*trusted); err == nil {
		known.AppendCertsFromPEM(file)
	}
	mux := http.NewServeMux()
	for _, argument := range flag.Args() {
		folder, to, _ := strings.Cut(argument, "=")
		mux.Handle(folder+"/", proxy(to, known, *connect, *patience))
	}
	log.Fatal(http.ListenAndServe(*listen, mux))
}

func proxy(to string, known *x509.CertPool, connect, patience time.Duration) http.Handler {
	scheme := "http"
	if strings.HasPrefix(to, "tls:") {
		scheme, to = "https", strings.TrimPrefix(to, "tls:")
	}
	network, address := "tcp", to
	if strings.HasPrefix(to, "unix:") {
		network, address = "unix", strings.TrimPrefix(to, "unix:")
	}
	dialer := net.Dialer{Timeout: connect}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		},
		TLSClientConfig:       &tls.Config{RootCAs: known},
		ResponseHeaderTimeout: patience,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       time.Minute,
		DisableCompression:    true,
	}
	errors := log.New(os.Stderr, "", log.LstdFlags|log.Lmicroseconds)
	return &httputil.ReverseProxy{
		Transport: transport,
		Director: func(request *http.Request) {
			request.URL.Scheme = scheme
			request.URL.Host = "upstream"
		},
		// As Traefik does it: 504 for timeouts, else 502. It is told as httputil's own handler tells it.
		ErrorHandler: func(answer http.ResponseWriter, _ *http.Request, err error) {
			errors.Printf("http: proxy error: %v", err)
			status := http.StatusBadGateway
			if failure, isNet := err.(net.Error); isNet && failure.Timeout() {
				status = http.StatusGatewayTimeout
			}
			answer.WriteHeader(status)
		},
		ErrorLog: errors,
	}
}
