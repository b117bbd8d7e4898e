// A client made of Go's net/rpc with the MsgpackSpecRpc codec of github.com/ugorji/go.
package main

import (
	"encoding/json"
	"log"
	"net"
	"net/rpc"
	"os"
	"reflect"

	"github.com/ugorji/go/codec"
)

type params = codec.MsgpackSpecRpcMultiArgs

func report(step string, key string, value interface{}) {
	line := map[string]interface{}{"step": step, key: value}
	if err := json.NewEncoder(os.Stdout).Encode(line); err != nil {
		log.Fatal(err)
	}
}

func main() {
	handle := &codec.MsgpackHandle{WriteExt: true}
	handle.RawToString = true
	handle.MapType = reflect.TypeOf(map[string]interface{}(nil))

	connection, err := net.Dial("unix", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	client := rpc.NewClientWithCodec(codec.MsgpackSpecRpc.ClientCodec(connection, handle))
	call := func(method string, arguments params) interface{} {
		var result interface{}
		if err := client.Call(method, arguments, &result); err != nil {
			log.Fatal(err)
		}
		return result
	}

	report("echo", "result", call("echo", params{"Grüße"}))
	structure := []interface{}{1, "two", []interface{}{true, 3.5, -4}}
	report("structure", "result", call("echo", params{structure}))
	report("add", "result", call("add", params{2, 3}))

	var ignored interface{}
	err = client.Call("fail", params{"no luck"}, &ignored)
	if err == nil {
		log.Fatal("the failing call worked")
	}
	report("fail", "error", err.Error())

	calls := make([]*rpc.Call, 50)
	results := make([]int64, len(calls))
	for n := range calls {
		calls[n] = client.Go("add", params{n, 1}, &results[n], make(chan *rpc.Call, 1))
	}
	for _, pending := range calls {
		if done := <-pending.Done; done.Error != nil {
			log.Fatal(done.Error)
		}
	}
	report("pipelined", "result", results)
}
