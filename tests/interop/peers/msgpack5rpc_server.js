// A server made of npm's msgpack5rpc: one session for each connection.
'use strict';

const net = require('net');
const path = require('path');

const [, , socketPath, nodeModules] = process.argv;
const Session = require(path.join(nodeModules, 'msgpack5rpc'));

const noted = [];

const methods = {
  echo: async (x) => x,
  add: async (a, b) => a + b,
  fail: async (text) => { throw new Error(text); },
  slow: (seconds, x) => new Promise((done) => setTimeout(done, seconds * 1000, x)),
  note: async (x) => { noted.push(x); },
  notes: async () => noted,
};

net.createServer((connection) => {
  const session = new Session();
  session.attach(connection, connection);
  connection.on('error', () => {});
  session.on('request', (name, params, response) => {
    if (!(name in methods)) {
      response.send(`no method ${name}`, true);
      return;
    }
    methods[name](...params).then(
      (result) => response.send(result === undefined ? null : result),
      (error) => response.send(error.message, true),
    );
  });
  session.on('notification', (name, params) => {
    if (name in methods) methods[name](...params);
  });
}).listen(socketPath);
