//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// identity is the guest's name; DHCP may change it.
type identity struct {
	mu   sync.Mutex
	name string // guarded by mu
}

func (i *identity) get() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.name
}

func (i *identity) set(name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.name = name
	_ = unix.Sethostname([]byte(name)) // for the kernel's messages only
}

// fallbackHostname is the kernel's argument hostname=, or a name made of the MAC.
func fallbackHostname() string {
	cmdline, _ := os.ReadFile("/proc/cmdline")
	for _, arg := range strings.Fields(string(cmdline)) {
		if name, ok := strings.CutPrefix(arg, "hostname="); ok {
			return name
		}
	}
	mac, _ := os.ReadFile("/sys/class/net/" + link + "/address")
	if m := strings.ReplaceAll(strings.TrimSpace(string(mac)), ":", ""); m != "" {
		return "guest-" + m
	}
	return "guest"
}

const help = `commands: hostname, ip, resolv, get URL [N], poweroff, reboot`

// prompt reads commands from the serial console for ever.
func prompt(host *identity) {
	fmt.Printf("\nPortico test guest, HTTP on %s and %s, up after %s s\n%s\n", answerAddr, clientAddr, uptime(), help)
	in := bufio.NewScanner(os.Stdin)
	for {
		fmt.Printf("%s# ", host.get())
		if !in.Scan() {
			// Without a console there is nobody to ask.
			time.Sleep(time.Second)
			in = bufio.NewScanner(os.Stdin)
			continue
		}
		command(host, strings.Fields(in.Text()))
	}
}

func command(host *identity, words []string) {
	if len(words) == 0 {
		return
	}
	switch words[0] {
	case "hostname":
		fmt.Println(host.get())
	case "ip":
		printAddresses()
	case "resolv":
		b, _ := os.ReadFile("/etc/resolv.conf")
		fmt.Print(string(b))
	case "get":
		n := 1
		if len(words) > 2 {
			_, _ = fmt.Sscan(words[2], &n)
		}
		if len(words) < 2 {
			fmt.Println("get what? A URL such as http://10.96.0.1:80/")
			return
		}
		result, err := fetch(context.Background(), words[1], n, "")
		if err != nil {
			fmt.Println(err)
			return
		}
		for body, count := range result.Answers {
			fmt.Printf("%6d  %s\n", count, body)
		}
		for _, e := range result.Errors {
			fmt.Println(e)
		}
		fmt.Printf("%d failed, %.3f s\n", result.Failures, result.Seconds)
	case "poweroff":
		powerOff()
	case "reboot":
		reboot()
	default:
		fmt.Println(help)
	}
}

func printAddresses() {
	l, err := net.InterfaceByName(link)
	if err != nil {
		fmt.Println(err)
		return
	}
	addrs, err := l.Addrs()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(link, l.HardwareAddr)
	for _, a := range addrs {
		fmt.Println(" ", a)
	}
}

func uptime() string {
	b, _ := os.ReadFile("/proc/uptime")
	s, _, _ := strings.Cut(string(b), " ")
	return s
}
