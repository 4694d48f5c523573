// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net/http"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/net/websocket"
)

// tally counts answers, and prints them as "COUNT ANSWER" lines.
type tally map[string]int

func (seen tally) print() {
	answers := make([]string, 0, len(seen))
	for answer := range seen {
		answers = append(answers, answer)
	}
	sort.Strings(answers)
	for _, answer := range answers {
		fmt.Println(seen[answer], answer)
	}
}

func number(text string) (int, error) { return strconv.Atoi(text) }

func get(arguments []string) error {
	count, err := number(arguments[1])
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
	seen := tally{}
	for range count {
		response, err := client.Get(arguments[0])
		if err != nil {
			return err
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			return err
		}
		seen[fmt.Sprint(response.StatusCode, " ", strings.TrimSpace(string(body)))]++
	}
	seen.print()
	return nil
}

func websocketEcho(arguments []string) error {
	count, err := number(arguments[1])
	if err != nil {
		return err
	}
	connection, err := websocket.Dial(arguments[0], "", "http://lab.example/")
	if err != nil {
		return err
	}
	defer connection.Close()
	for turn := range count {
		if err := say(connection, fmt.Sprint("message ", turn)); err != nil {
			return err
		}
	}
	fmt.Println(count, "echoed")
	return nil
}

// say sends a message and expects it back.
func say(connection *websocket.Conn, said string) error {
	if err := websocket.Message.Send(connection, said); err != nil {
		return err
	}
	var heard string
	if err := websocket.Message.Receive(connection, &heard); err != nil {
		return err
	}
	if heard != said {
		return fmt.Errorf("said %q, heard %q", said, heard)
	}
	return nil
}
