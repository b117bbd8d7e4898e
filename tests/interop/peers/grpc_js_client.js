// The caller of gRPC's interoperability tests on a UNIX socket, by @grpc/grpc-js.
//
//     node grpc_js_client.js SOCKET NODE_MODULES PROTO
//
// Goes through the cases and prints a line of JSON for each: {"step": NAME, "result": "passed"} or
// {"step": NAME, "error": TEXT}.
"use strict";

const assert = require("assert");
const path = require("path");
const [socket, modules, proto] = process.argv.slice(2);
const grpc = require(path.join(modules, "@grpc", "grpc-js"));
const loader = require(path.join(modules, "@grpc", "proto-loader"));

const definition = loader.loadSync(proto, { keepCase: true, defaults: true, enums: Number });
const testing = grpc.loadPackageDefinition(definition).grpc.testing;

const REQUEST_SIZE = 271828;
const RESPONSE_SIZE = 314159;
const STREAM_REQUESTS = [27182, 8, 1828, 45904];
const STREAM_RESPONSES = [31415, 9, 2653, 58979];
const INITIAL = "x-grpc-test-echo-initial";
const TRAILING = "x-grpc-test-echo-trailing-bin";
const TEXT = "test status message";
const SPECIAL_TEXT = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n";
const GZIP = 2;
const DEFLATE = 1;

// grpc.use_local_subchannel_pool: a connection for each client, or they would share one.
function open(service = testing.TestService, options = {}) {
  return new service(`unix:${socket}`, grpc.credentials.createInsecure(), {
    "grpc.use_local_subchannel_pool": 1,
    ...options,
  });
}

function payload(size) {
  return { type: 0, body: Buffer.alloc(size) };
}

const LARGE = { response_size: RESPONSE_SIZE, payload: payload(REQUEST_SIZE) };

function streamRequest(sizes, size = 0, more = {}) {
  return { response_parameters: sizes.map((each) => ({ size: each })), payload: payload(size), ...more };
}

function unary(client, method, request, ...more) {
  return new Promise((resolve, reject) => {
    const seen = {};
    const call = client[method](request, ...more, (error, response) => {
      if (error) reject(error);
      else resolve({ response, seen });
    });
    call.on("metadata", (metadata) => (seen.initial = metadata));
    call.on("status", (status) => (seen.status = status));
  });
}

// All that a call brings: its responses, and its end.
function collect(call) {
  return new Promise((resolve) => {
    const got = { sizes: [] };
    call.on("metadata", (metadata) => (got.initial = metadata));
    call.on("data", (response) => got.sizes.push(response.payload.body.length));
    call.on("error", () => {});
    call.on("status", (status) => resolve({ ...got, status }));
  });
}

async function fails(promise, code, details) {
  let failure = null;
  try {
    await promise;
  } catch (error) {
    failure = error;
  }
  assert(failure, "it did not fail");
  assert.strictEqual(failure.code, code);
  if (details !== undefined) assert.strictEqual(failure.details, details);
}

function input(client, options) {
  return new Promise((resolve, reject) => {
    const call = client.StreamingInputCall(new grpc.Metadata(), options, (error, response) =>
      error ? reject(error) : resolve(response)
    );
    STREAM_REQUESTS.forEach((size) => call.write({ payload: payload(size) }));
    call.end();
  });
}

async function checkStatus(client, text) {
  const response_status = { code: grpc.status.UNKNOWN, message: text };
  await fails(unary(client, "UnaryCall", { response_status }), grpc.status.UNKNOWN, text);
  const call = client.FullDuplexCall();
  const end = collect(call);
  call.write(streamRequest([], 0, { response_status }));
  call.end();
  const { status } = await end;
  assert.strictEqual(status.code, grpc.status.UNKNOWN);
  assert.strictEqual(status.details, text);
}

const CASES = {
  async empty_unary(client) {
    await unary(client, "EmptyCall", {});
  },
  async large_unary(client) {
    const { response } = await unary(client, "UnaryCall", LARGE);
    assert.strictEqual(response.payload.body.length, RESPONSE_SIZE);
  },
  async client_streaming(client) {
    const response = await input(client, {});
    assert.strictEqual(response.aggregated_payload_size, 74922);
  },
  async server_streaming(client) {
    const { sizes, status } = await collect(client.StreamingOutputCall(streamRequest(STREAM_RESPONSES)));
    assert.deepStrictEqual(sizes, STREAM_RESPONSES);
    assert.strictEqual(status.code, 0);
  },
  async ping_pong(client) {
    const call = client.FullDuplexCall();
    const end = collect(call);
    let turn = 0;
    const say = () => call.write(streamRequest([STREAM_RESPONSES[turn]], STREAM_REQUESTS[turn]));
    call.on("data", () => {
      turn += 1;
      if (turn < STREAM_REQUESTS.length) say();
      else call.end();
    });
    say();
    const { sizes, status } = await end;
    assert.deepStrictEqual(sizes, STREAM_RESPONSES);
    assert.strictEqual(status.code, 0);
  },
  async empty_stream(client) {
    const call = client.FullDuplexCall();
    const end = collect(call);
    call.end();
    const { sizes, status } = await end;
    assert.deepStrictEqual(sizes, []);
    assert.strictEqual(status.code, 0);
  },
  async half_duplex(client) {
    const call = client.HalfDuplexCall();
    const end = collect(call);
    STREAM_RESPONSES.forEach((size) => call.write(streamRequest([size])));
    call.end();
    assert.deepStrictEqual((await end).sizes, STREAM_RESPONSES);
  },
  async client_compressed_unary() {
    for (const algorithm of [GZIP, DEFLATE]) {
      const client = open(testing.TestService, { "grpc.default_compression_algorithm": algorithm });
      const { response } = await unary(client, "UnaryCall", LARGE);
      assert.strictEqual(response.payload.body.length, RESPONSE_SIZE);
      client.close();
    }
  },
  async client_compressed_streaming() {
    const client = open(testing.TestService, { "grpc.default_compression_algorithm": GZIP });
    const response = await input(client, {});
    assert.strictEqual(response.aggregated_payload_size, 74922);
    client.close();
  },
  async server_compressed_unary(client) {
    for (const value of [true, false]) {
      const request = { ...LARGE, response_compressed: { value } };
      const { response } = await unary(client, "UnaryCall", request);
      assert.strictEqual(response.payload.body.length, RESPONSE_SIZE);
    }
  },
  async server_compressed_streaming(client) {
    const response_parameters = [
      { size: 31415, compressed: { value: true } },
      { size: 92653, compressed: { value: false } },
    ];
    const { sizes } = await collect(client.StreamingOutputCall({ response_parameters }));
    assert.deepStrictEqual(sizes, [31415, 92653]);
  },
  async cancel_after_begin(client) {
    await fails(
      new Promise((resolve, reject) => {
        const call = client.StreamingInputCall((error) => (error ? reject(error) : resolve()));
        call.cancel();
      }),
      grpc.status.CANCELLED
    );
  },
  async cancel_after_first_response(client) {
    const call = client.FullDuplexCall();
    const end = collect(call);
    call.on("data", () => call.cancel());
    call.write(streamRequest([31415], 27182));
    const { sizes, status } = await end;
    assert.deepStrictEqual(sizes, [31415]);
    assert.strictEqual(status.code, grpc.status.CANCELLED);
  },
  async timeout_on_sleeping_server(client) {
    await unary(client, "EmptyCall", {});
    const call = client.FullDuplexCall(new grpc.Metadata(), { deadline: Date.now() + 50 });
    const end = collect(call);
    call.write(streamRequest([], 27182));
    assert.strictEqual((await end).status.code, grpc.status.DEADLINE_EXCEEDED);
  },
  async custom_metadata(client) {
    const metadata = new grpc.Metadata();
    metadata.add(INITIAL, "test_initial_metadata_value");
    metadata.add(TRAILING, Buffer.from([0xab, 0xab, 0xab]));
    const { seen } = await unary(client, "UnaryCall", LARGE, metadata);
    await new Promise(setImmediate);
    assert.deepStrictEqual(seen.initial.get(INITIAL), ["test_initial_metadata_value"]);
    assert.deepStrictEqual(seen.status.metadata.get(TRAILING), [Buffer.from([0xab, 0xab, 0xab])]);
    const call = client.FullDuplexCall(metadata);
    const end = collect(call);
    call.write(streamRequest([RESPONSE_SIZE]));
    call.end();
    const { initial, status } = await end;
    assert.deepStrictEqual(initial.get(INITIAL), ["test_initial_metadata_value"]);
    assert.deepStrictEqual(status.metadata.get(TRAILING), [Buffer.from([0xab, 0xab, 0xab])]);
  },
  async status_code_and_message(client) {
    await checkStatus(client, TEXT);
  },
  async special_status_message(client) {
    await checkStatus(client, SPECIAL_TEXT);
  },
  async unimplemented_method(client) {
    await fails(unary(client, "UnimplementedCall", {}), grpc.status.UNIMPLEMENTED);
  },
  async unimplemented_service() {
    const client = open(testing.UnimplementedService);
    await fails(unary(client, "UnimplementedCall", {}), grpc.status.UNIMPLEMENTED);
    client.close();
  },
  async rpc_soak(client) {
    for (let turn = 0; turn < 50; turn += 1) await CASES.large_unary(client);
  },
  async channel_soak() {
    for (let turn = 0; turn < 20; turn += 1) {
      const client = open();
      await CASES.large_unary(client);
      client.close();
    }
  },
  async concurrent_large_unary(client) {
    await Promise.all(Array.from({ length: 20 }, () => CASES.large_unary(client)));
  },
};

async function main() {
  const client = open();
  for (const [step, run] of Object.entries(CASES)) {
    try {
      await run(client);
      console.log(JSON.stringify({ step, result: "passed" }));
    } catch (error) {
      console.log(JSON.stringify({ step, error: String(error.stack || error) }));
    }
  }
  client.close();
  process.exit(0); // grpc-js keeps timers of closed connections for a while
}

main();
