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
)

// load asks for a URL on a number of keep-alive connections, one request after the other on each, until standard
// input ends. It prints "COUNT STATUS NAME" lines for what was answered and "COUNT failed: ERROR" lines.
func load(arguments []string) error {
	connections, err := number(arguments[1])
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	var (
		seen    = tally{}
		lock    sync.Mutex
		clients sync.WaitGroup
	)
	for range connections {
		clients.Go(func() {
			client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}, Timeout: 20 * time.Second}
			for {
				select {
				case <-stop:
					return
				case <-time.After(2 * time.Millisecond):
				}
				answer := ask(client, arguments[0])
				lock.Lock()
				seen[answer]++
				lock.Unlock()
			}
		})
	}
	clients.Wait()
	seen.print()
	return nil
}

func ask(client *http.Client, url string) string {
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
