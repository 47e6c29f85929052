//go:build linux

// Command init is the whole user space of the test guest: it loads modules,
// configures the network as an ordinary guest would (DHCPv4, router
// advertisements, DHCPv6), answers HTTP, makes requests when asked to, obeys the
// power button and gives a small prompt on the serial console.
//
// It is process 1: it never returns, and when it can't go on it powers off.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	answerAddr = ":9376" // says who answered
	clientAddr = ":9377" // makes requests from inside the guest
	link       = "eth0"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("init: ")
	if os.Getpid() != 1 {
		log.Fatal("this is the init program of the test guest, not a command")
	}
	if err := mountAll(); err != nil {
		log.Print(err)
	}
	if err := loadModules("/lib/modules/load"); err != nil {
		log.Print(err)
	}
	go watchPowerButton()

	// Before anything listens: package net asks once whether ::1 can be bound, and
	// where it can't yet, everything listens by IPv4 only for the rest of its life.
	if err := bringUp("lo"); err != nil {
		log.Print(err)
	}
	host := &identity{}
	host.set(fallbackHostname())
	go serveHTTP(host)
	go configure(context.Background(), host)
	prompt(host)
}

// mountAll makes the pseudo file systems that the rest needs.
func mountAll() error {
	for _, m := range []struct{ what, where string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"},
	} {
		if err := os.MkdirAll(m.where, 0o755); err != nil {
			return fmt.Errorf("mount %s: %w", m.where, err)
		}
		// The kernel may have mounted devtmpfs already.
		if err := unix.Mount(m.what, m.where, m.what, 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m.where, err)
		}
	}
	return os.MkdirAll("/etc", 0o755)
}

// end turns the machine off or starts it anew.
func end(how int) {
	unix.Sync()
	if err := unix.Reboot(how); err != nil {
		log.Printf("reboot: %v", err)
	}
	time.Sleep(time.Hour) // process 1 must not return; the machine ends first
}

func powerOff() {
	fmt.Println("power off")
	end(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func reboot() {
	fmt.Println("reboot")
	end(unix.LINUX_REBOOT_CMD_RESTART)
}
