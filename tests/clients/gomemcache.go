// gomemcache: all that it offers, from one and from many goroutines.
// go run gomemcache.go HOST PORT
package main

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
)

var checks int64

func check(holds bool, what string, seen ...interface{}) {
	if !holds {
		fmt.Fprintln(os.Stderr, "failed:", what, seen)
		os.Exit(1)
	}
	atomic.AddInt64(&checks, 1)
}

func main() {
	client := memcache.New(os.Args[1] + ":" + os.Args[2])
	client.Timeout = 20 * time.Second
	item := func(key, value string) *memcache.Item {
		return &memcache.Item{Key: key, Value: []byte(value), Flags: 7, Expiration: 100}
	}
	check(client.Set(item("k", "v")) == nil, "set")
	got, err := client.Get("k")
	check(err == nil && string(got.Value) == "v" && got.Flags == 7, "get", got, err)
	_, err = client.Get("none")
	check(err == memcache.ErrCacheMiss, "a miss", err)
	check(client.Add(item("k", "x")) == memcache.ErrNotStored, "add")
	check(client.Add(item("new", "x")) == nil, "add")
	got.Value = []byte("w")
	check(client.CompareAndSwap(got) == nil, "cas")
	check(client.CompareAndSwap(got) == memcache.ErrCASConflict, "an old cas")
	got.Key = "none"
	check(client.CompareAndSwap(got) != nil, "cas of nothing")
	check(client.Set(item("n", "10")) == nil, "set")
	n, err := client.Increment("n", 32)
	check(err == nil && n == 42, "incr", n, err)
	n, err = client.Decrement("n", 100)
	check(err == nil && n == 0, "decr", n, err)
	_, err = client.Increment("none", 1)
	check(err == memcache.ErrCacheMiss, "incr of nothing", err)
	_, err = client.Increment("k", 1)
	check(err != nil && err != memcache.ErrCacheMiss, "incr of a text", err)
	check(client.Delete("k") == nil && client.Delete("k") == memcache.ErrCacheMiss, "delete")
	check(client.Set(item("large", string(bytes.Repeat([]byte{0, 13, 10, 200}, 200000)))) == nil, "large")
	got, err = client.Get("large")
	check(err == nil && len(got.Value) == 800000, "large", err)
	check(client.Set(item("huge", string(make([]byte, 3000000)))) != nil, "too large")

	var keys []string
	for i := 0; i < 500; i++ {
		keys = append(keys, fmt.Sprint("many:", i))
		check(client.Set(item(keys[i], keys[i])) == nil, "set")
	}
	many, err := client.GetMulti(append(keys, "none"))
	check(err == nil && len(many) == 500, "get of many", len(many), err)
	for _, key := range keys {
		check(string(many[key].Value) == key, "the right value", key)
	}
	check(client.Set(item("shared", "0")) == nil, "set")
	var all sync.WaitGroup
	for worker := 0; worker < 50; worker++ {
		all.Add(1)
		go func() {
			defer all.Done()
			for i := 0; i < 40; i++ {
				_, err := client.Increment("shared", 1)
				check(err == nil, "a worker", err)
			}
		}()
	}
	all.Wait()
	got, err = client.Get("shared")
	check(err == nil && string(got.Value) == "2000", "no increment is lost", got, err)
	fmt.Println("checks", checks)
}
