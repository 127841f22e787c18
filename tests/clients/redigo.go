// redigo: commands, scripts of a pipeline, a pool used from many goroutines.
// go run redigo.go HOST PORT
package main

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/gomodule/redigo/redis"
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
	address := os.Args[1] + ":" + os.Args[2]
	pool := &redis.Pool{MaxActive: 20, Wait: true, Dial: func() (redis.Conn, error) {
		return redis.Dial("tcp", address, redis.DialClientName("scenario"))
	}}
	defer pool.Close()
	conn := pool.Get()
	text, err := redis.String(conn.Do("PING"))
	check(err == nil && text == "PONG", "ping", text, err)
	text, err = redis.String(conn.Do("CLIENT", "GETNAME"))
	check(err == nil && text == "scenario", "name", text, err)
	text, err = redis.String(conn.Do("SET", "k", "v", "PX", 60000))
	check(err == nil && text == "OK", "set", text, err)
	text, err = redis.String(conn.Do("GET", "k"))
	check(err == nil && text == "v", "get", text, err)
	_, err = redis.String(conn.Do("GET", "none"))
	check(err == redis.ErrNil, "a miss", err)
	number, err := redis.Int64(conn.Do("INCRBY", "n", 9223372036854775807))
	check(err == nil && number == 9223372036854775807, "incrby", number, err)
	_, err = conn.Do("INCR", "n")
	check(err != nil && err.Error() == "ERR increment or decrement would overflow", "overflow", err)
	_, err = conn.Do("NOSUCH")
	check(err != nil && conn.Err() == nil, "an error is no end", err)
	binary := bytes.Repeat([]byte{0, 13, 10, 255}, 100000)
	_, err = conn.Do("SET", binary[:40], binary)
	check(err == nil, "binary", err)
	got, err := redis.Bytes(conn.Do("GET", binary[:40]))
	check(err == nil && bytes.Equal(got, binary), "binary", err)
	_, err = conn.Do("MSET", redis.Args{}.AddFlat(map[string]int{"a": 1, "b": 2})...)
	check(err == nil, "mset", err)
	numbers, err := redis.Ints(conn.Do("MGET", "a", "b"))
	check(err == nil && numbers[0] == 1 && numbers[1] == 2, "mget", numbers, err)
	for i := 0; i < 2000; i++ {
		check(conn.Send("SET", fmt.Sprint("p:", i), i) == nil, "send")
		check(conn.Send("GET", fmt.Sprint("p:", i)) == nil, "send")
	}
	check(conn.Flush() == nil, "flush")
	for i := 0; i < 2000; i++ {
		text, err = redis.String(conn.Receive())
		check(err == nil && text == "OK", "receive", text, err)
		n, err := redis.Int(conn.Receive())
		check(err == nil && n == i, "receive", n, err)
	}
	check(conn.Close() == nil, "close")

	var all sync.WaitGroup
	for worker := 0; worker < 50; worker++ {
		all.Add(1)
		go func(worker int) {
			defer all.Done()
			for i := 0; i < 40; i++ {
				conn := pool.Get()
				key := fmt.Sprint("w:", worker, ":", i)
				_, err := conn.Do("SET", key, key)
				got, err2 := redis.String(conn.Do("GET", key))
				check(err == nil && err2 == nil && got == key, "a worker", err, err2, got)
				_, err = conn.Do("INCR", "shared")
				check(err == nil, "a worker", err)
				conn.Close()
			}
		}(worker)
	}
	all.Wait()
	conn = pool.Get()
	n, err := redis.Int(conn.Do("GET", "shared"))
	check(err == nil && n == 2000, "no increment is lost", n, err)
	conn.Close()
	fmt.Println("checks", checks)
}
