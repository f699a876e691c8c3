// An upstream of Go's standard library: the query's `do` chooses how it fails a request.
package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

var log *os.File

func monotonic() int64 {
	var now syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&now)), 0)
	return now.Nano()
}

func say(what string, path any) {
	line, _ := json.Marshal(map[string]any{
		"what": what, "path": path, "t": monotonic(), "pid": os.Getpid(),
	})
	log.Write(append(line, '\n'))
}

func serve(answer http.ResponseWriter, request *http.Request) {
	query := request.URL.Query()
	say("read", request.URL.Path)
	act := query.Get("do")
	if act == "reject" {
		answer.Header().Set("Connection", "close")
		answer.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	if act == "spurn" {
		panic(http.ErrAbortHandler)
	}
	ms, _ := strconv.Atoi(query.Get("ms"))
	if act == "neglect" {
		time.Sleep(time.Duration(ms) * time.Millisecond)
	}
	io.Copy(io.Discard, request.Body)
	if act == "hold" {
		// Until the proxy gives up.
		<-request.Context().Done()
		return
	}
	if text, raw := takenOver(act); raw {
		connection, _, err := answer.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		io.WriteString(connection, text)
		if act == "reset" {
			connection.(*net.TCPConn).SetLinger(0)
		}
		if act == "banner" {
			io.Copy(io.Discard, connection)
		}
		connection.Close()
		return
	}
	time.Sleep(time.Duration(ms) * time.Millisecond)
	if act == "big-head" {
		answer.Header()["X-Filler"] = strings.Split(strings.Repeat(strings.Repeat("a", 1000)+" ", 120), " ")
	}
	status, err := strconv.Atoi(query.Get("status"))
	if err != nil {
		status = http.StatusOK
	}
	answer.Header().Set("Content-Length", "3")
	answer.WriteHeader(status)
	io.WriteString(answer, "ok\n")
	say("answered", request.URL.Path)
}

// What a handler does that takes the connection from the server, and says on it.
func takenOver(act string) (string, bool) {
	switch act {
	case "close", "reset":
		return "", true
	case "partial":
		return "HTTP/1.1 200 OK\r\nContent-Le", true
	case "bad-head":
		head := "HTTP/1.1 200 OK\r\nBad\x01 Name: x\r\nContent-Length: 0\r\n"
		return head + "Connection: close\r\n\r\n", true
	case "banner":
		return "SSH-2.0-Go\r\n", true
	}
	return "", false
}

// Arguments: IP:port, how long an idle connection is kept, the log.
func main() {
	idle, err := time.ParseDuration(os.Args[2])
	if err != nil {
		panic(err)
	}
	log, err = os.OpenFile(os.Args[3], os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o666)
	if err != nil {
		panic(err)
	}
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		panic(err)
	}
	say("listening", nil)
	server := &http.Server{Handler: http.HandlerFunc(serve), IdleTimeout: idle}
	panic(server.Serve(listener))
}
