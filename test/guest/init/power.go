//go:build linux

package main

import (
	"encoding/binary"
	"io"
	"log"
	"os"
	"path/filepath"
)

// From linux/input-event-codes.h and linux/input.h: struct input_event is 24
// bytes on 64-bit machines, type at 16, code at 18, value at 20.
const (
	inputEventSize = 24
	evKey          = 1
	keyPower       = 116
)

// watchPowerButton powers off when the ACPI button is pressed.
func watchPowerButton() {
	devices, _ := filepath.Glob("/dev/input/event*")
	if len(devices) == 0 {
		log.Print("no input devices: the power button does nothing")
	}
	for _, d := range devices {
		go readButton(d)
	}
}

func readButton(device string) {
	f, err := os.Open(device)
	if err != nil {
		log.Printf("power button: %v", err)
		return
	}
	defer f.Close()
	var e [inputEventSize]byte
	for {
		if _, err := io.ReadFull(f, e[:]); err != nil {
			return
		}
		kind, code := binary.NativeEndian.Uint16(e[16:]), binary.NativeEndian.Uint16(e[18:])
		if kind == evKey && code == keyPower && binary.NativeEndian.Uint32(e[20:]) == 1 {
			powerOff()
		}
	}
}
