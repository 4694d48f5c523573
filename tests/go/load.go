// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/websocket"
)

// load asks for a URL on a number of keep-alive connections, one request after the other on each, until standard
// input ends. It prints "COUNT STATUS NAME" lines for what was answered and "COUNT failed: ERROR" lines.
func load(arguments []string) error { return ask(arguments, false) }

// short is load with a new connection for each request.
func short(arguments []string) error { return ask(arguments, true) }

func ask(arguments []string, short bool) error {
	return repeat(arguments[1], func() func() string {
		transport := &http.Transport{MaxConnsPerHost: 1, DisableKeepAlives: short}
		client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
		return func() string { return answer(client, arguments[0]) }
	})
}

// hold keeps a number of WebSockets open and says something on each now and then, until standard input ends: a
// connection that is lost is not opened again, and all that would have been said on it fails.
func hold(arguments []string) error {
	return repeat(arguments[1], func() func() string {
		connection, err := websocket.Dial(arguments[0], "", "http://lab.example/")
		return func() string {
			if err == nil {
				err = say(connection, "still there")
			}
			if err != nil {
				return "failed: " + err.Error()
			}
			return "200 still there"
		}
	})
}

// repeat does what start returns, again and again in a number of goroutines, until standard input ends.
func repeat(count string, start func() func() string) error {
	clients, err := number(count)
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	var (
		seen  = tally{}
		lock  sync.Mutex
		group sync.WaitGroup
	)
	for range clients {
		group.Go(func() {
			once := start()
			for {
				select {
				case <-stop:
					return
				case <-time.After(2 * time.Millisecond):
				}
				answer := once()
				lock.Lock()
				seen[answer]++
				lock.Unlock()
			}
		})
	}
	group.Wait()
	seen.print()
	return nil
}

func answer(client *http.Client, url string) string {
	response, err := client.Get(url)
	if err != nil {
		return "failed: " + strings.ReplaceAll(err.Error(), "\n", " ")
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "failed: " + err.Error()
	}
	name, _, _ := strings.Cut(strings.TrimSpace(string(body)), " ")
	return fmt.Sprint(response.StatusCode, " ", name)
}
