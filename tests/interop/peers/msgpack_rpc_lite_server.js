// A server made of npm's msgpack-rpc-lite: methods are events.
'use strict';

const path = require('path');

const [, , socketPath, nodeModules] = process.argv;
const rpc = require(path.join(nodeModules, 'msgpack-rpc-lite'));

const noted = [];

const server = rpc.createServer();
server.on('connection', (connection) => connection.on('error', () => {}));
server.on('echo', ([x], reply) => reply(null, x));
server.on('add', ([a, b], reply) => reply(null, a + b));
server.on('fail', ([text], reply) => reply(new Error(text)));
server.on('slow', ([seconds, x], reply) => setTimeout(reply, seconds * 1000, null, x));
// A notification comes without a function to reply with.
server.on('note', ([x]) => noted.push(x));
server.on('notes', (params, reply) => reply(null, noted));
server.listen(socketPath);
