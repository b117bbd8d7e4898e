// A server made of Go's net/rpc with the MsgpackSpecRpc codec of github.com/ugorji/go.
//
// net/rpc gives every method a name of two parts and exactly one argument.
package main

import (
	"errors"
	"log"
	"net"
	"net/rpc"
	"os"
	"reflect"
	"time"

	"github.com/ugorji/go/codec"
)

type Peer struct{}

func (Peer) Echo(x interface{}, result *interface{}) error {
	*result = x
	return nil
}

func (Peer) Add(numbers []int64, result *int64) error {
	if len(numbers) != 2 {
		return errors.New("add takes two numbers")
	}
	*result = numbers[0] + numbers[1]
	return nil
}

func (Peer) Fail(text string, result *interface{}) error {
	return errors.New(text)
}

func (Peer) Slow(secondsAndX []interface{}, result *interface{}) error {
	seconds, _ := secondsAndX[0].(float64)
	time.Sleep(time.Duration(seconds * float64(time.Second)))
	*result = secondsAndX[1]
	return nil
}

func main() {
	handle := &codec.MsgpackHandle{WriteExt: true}
	handle.RawToString = true
	handle.MapType = reflect.TypeOf(map[string]interface{}(nil))

	server := rpc.NewServer()
	if err := server.RegisterName("Peer", Peer{}); err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go server.ServeCodec(codec.MsgpackSpecRpc.ServerCodec(connection, handle))
	}
}
