// A reverse proxy of Go's standard library: each argument is FOLDER=IP:PORT or FOLDER=unix:/PATH.
package main

import (
	"context"
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
	flag.Parse()
	mux := http.NewServeMux()
	for _, argument := range flag.Args() {
		folder, to, _ := strings.Cut(argument, "=")
		mux.Handle(folder+"/", proxy(to, *connect, *patience))
	}
	log.Fatal(http.ListenAndServe(*listen, mux))
}

func proxy(to string, connect, patience time.Duration) http.Handler {
	network, address := "tcp", to
	if strings.HasPrefix(to, "unix:") {
		network, address = "unix", strings.TrimPrefix(to, "unix:")
	}
	dialer := net.Dialer{Timeout: connect}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		},
		ResponseHeaderTimeout: patience,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       time.Minute,
		DisableCompression:    true,
	}
	errors := log.New(os.Stderr, "", log.LstdFlags|log.Lmicroseconds)
	return &httputil.ReverseProxy{
		Transport: transport,
		Director: func(request *http.Request) {
			request.URL.Scheme = "http"
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
