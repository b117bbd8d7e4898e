// A client made of npm's msgpack5rpc. In the last step the server calls it back.
'use strict';

const net = require('net');
const path = require('path');

const [, , socketPath, nodeModules] = process.argv;
const Session = require(path.join(nodeModules, 'msgpack5rpc'));

function report(step, outcome) {
  console.log(JSON.stringify({ step, ...outcome }));
}

async function main() {
  const connection = net.createConnection(socketPath);
  const session = new Session();
  session.attach(connection, connection);
  session.on('request', (name, params, response) => response.send(42));
  const call = (method, ...params) => new Promise((resolve, reject) => {
    session.request(method, params, (error, result) => (
      error === null ? resolve(result) : reject(error)
    ));
  });

  report('echo', { result: await call('echo', 'Grüße') });
  report('structure', { result: await call('echo', [1, 'two', [true, 3.5, -4]]) });
  report('add', { result: await call('add', 2, 3) });
  await call('fail', 'no luck').then(
    () => { throw new Error('the failing call worked'); },
    (error) => report('fail', { error }),
  );
  const calls = Array.from({ length: 50 }, (_, n) => call('add', n, 1));
  report('pipelined', { result: await Promise.all(calls) });
  session.notify('note', ['noted']);
  report('notes', { result: await call('notes') });
  report('nested', { result: await call('nested', 'answer', []) });
  connection.end();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
