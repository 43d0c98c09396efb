// A DNS server with miekg/dns: several listeners for each address, and a client of an upstream for names below up.lab.
// Started with its port and the upstream's address.
package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

const datagram = 1232

func main() {
	port, upstream := os.Args[1], os.Args[2]
	dns.HandleFunc(".", func(writer dns.ResponseWriter, query *dns.Msg) {
		answer := answer(query, upstream)
		if writer.RemoteAddr().Network() == "udp" && answer.Len() > datagram {
			answer.Answer = nil
			answer.Truncated = true
		}
		writer.WriteMsg(answer)
	})
	failed := make(chan error)
	for _, address := range []string{"127.0.0.1:", "[::1]:"} {
		for _, network := range []string{"udp", "tcp"} {
			for listener := 0; listener < 2; listener++ {
				server := &dns.Server{Addr: address + port, Net: network, ReusePort: true}
				go func() { failed <- server.ListenAndServe() }()
			}
		}
	}
	fmt.Fprintln(os.Stderr, <-failed)
	os.Exit(1)
}

func answer(query *dns.Msg, upstream string) *dns.Msg {
	reply := new(dns.Msg)
	reply.SetReply(query)
	if len(query.Question) == 0 {
		return reply
	}
	name := query.Question[0].Name
	if dns.IsSubDomain("up.lab.", name) {
		return forwarded(query, upstream)
	}
	label := strings.SplitN(name, ".", 2)[0]
	if size, err := strconv.Atoi(strings.TrimPrefix(label, "t")); err == nil && strings.HasPrefix(label, "t") {
		for number := 0; number <= size/250; number++ {
			header := dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 60}
			reply.Answer = append(reply.Answer, &dns.TXT{Hdr: header, Txt: []string{fmt.Sprintf("%0240d", number)}})
		}
		reply.Compress = true
	}
	return reply
}

// forwarded asks the upstream, over TCP if the response is too long for a datagram.
func forwarded(query *dns.Msg, upstream string) *dns.Msg {
	for _, network := range []string{"udp", "tcp"} {
		client := &dns.Client{Net: network}
		answer, _, err := client.Exchange(query, upstream)
		if err == nil && !answer.Truncated {
			return answer
		}
	}
	failure := new(dns.Msg)
	failure.SetRcode(query, dns.RcodeServerFailure)
	return failure
}
