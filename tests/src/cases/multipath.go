// A DNS server over TCP for the tests: it answers each query with a copy of it that has the QR bit.
//
// It asks for nothing special when it listens. It prints its address, and of each connection whether
// Go says that it is of Multipath TCP. It ends with its standard input.
package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(listener.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for {
		connection, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go serve(connection.(*net.TCPConn))
	}
}

func serve(connection *net.TCPConn) {
	multipath, err := connection.MultipathTCP()
	fmt.Println("multipath", multipath && err == nil)
	defer connection.Close()
	for {
		var length [2]byte
		if _, err := io.ReadFull(connection, length[:]); err != nil {
			return
		}
		message := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(connection, message); err != nil {
			return
		}
		message[2] |= 0x80
		// This is one writev of two segments.
		answer := net.Buffers{length[:], message}
		if _, err := answer.WriteTo(connection); err != nil {
			return
		}
	}
}
