// The service of gRPC's interoperability tests on a UNIX socket, by @grpc/grpc-js.
//
//     node grpc_js_server.js SOCKET NODE_MODULES PROTO
"use strict";

const path = require("path");
const [socket, modules, proto] = process.argv.slice(2);
const grpc = require(path.join(modules, "@grpc", "grpc-js"));
const loader = require(path.join(modules, "@grpc", "proto-loader"));

const INITIAL = "x-grpc-test-echo-initial";
const TRAILING = "x-grpc-test-echo-trailing-bin";

const definition = loader.loadSync(proto, { keepCase: true, defaults: true, enums: Number });
const service = grpc.loadPackageDefinition(definition).grpc.testing.TestService.service;

function payload(size) {
  return { type: 0, body: Buffer.alloc(size) };
}

// What the caller wants to have back: with the first response, and at the end.
function metadataOf(call) {
  const trailing = new grpc.Metadata();
  const initial = new grpc.Metadata();
  call.metadata.get(INITIAL).forEach((value) => initial.add(INITIAL, value));
  call.metadata.get(TRAILING).forEach((value) => trailing.add(TRAILING, value));
  if (call.metadata.get(INITIAL).length) call.sendMetadata(initial);
  return trailing;
}

function statusOf(request) {
  const status = request.response_status;
  return status && status.code ? { code: status.code, details: status.message } : null;
}

async function respond(call, request) {
  for (const parameters of request.response_parameters) {
    if (parameters.interval_us) {
      await new Promise((done) => setTimeout(done, parameters.interval_us / 1000));
    }
    call.write({ payload: payload(parameters.size) });
  }
}

const server = new grpc.Server({ "grpc.max_receive_message_length": -1 });
server.addService(service, {
  EmptyCall: (call, callback) => callback(null, {}),
  UnaryCall: (call, callback) => {
    const trailing = metadataOf(call);
    const status = statusOf(call.request);
    if (status) return callback({ ...status, metadata: trailing });
    callback(null, { payload: payload(call.request.response_size) }, trailing);
  },
  StreamingOutputCall: async (call) => {
    await respond(call, call.request);
    call.end();
  },
  StreamingInputCall: (call, callback) => {
    let total = 0;
    call.on("data", (request) => (total += request.payload.body.length));
    call.on("end", () => callback(null, { aggregated_payload_size: total }));
    call.on("error", () => {});
  },
  // By events: leaving a `for await` would close the stream before it has been answered.
  FullDuplexCall: (call) => {
    const trailing = metadataOf(call);
    let answered = Promise.resolve();
    call.on("data", (request) => {
      const status = statusOf(request);
      if (status) call.emit("error", { ...status, metadata: trailing });
      else answered = answered.then(() => respond(call, request));
    });
    call.on("end", () => answered.then(() => call.end(trailing)));
  },
  HalfDuplexCall: (call) => {
    const requests = [];
    call.on("data", (request) => requests.push(request));
    call.on("end", async () => {
      for (const request of requests) await respond(call, request);
      call.end();
    });
  },
});

server.bindAsync(`unix:${socket}`, grpc.ServerCredentials.createInsecure(), (error) => {
  if (error) throw error;
});
