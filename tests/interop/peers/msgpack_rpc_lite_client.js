// A client made of npm's msgpack-rpc-lite.
'use strict';

const path = require('path');

const [, , socketPath, nodeModules] = process.argv;
const rpc = require(path.join(nodeModules, 'msgpack-rpc-lite'));

function report(step, outcome) {
  console.log(JSON.stringify({ step, ...outcome }));
}

async function main() {
  // createClient() knows only host and port.
  const client = new rpc.Client({ path: socketPath });
  const call = async (method, ...params) => (await client.request(method, ...params))[0];

  report('echo', { result: await call('echo', 'Grüße') });
  report('structure', { result: await call('echo', [1, 'two', [true, 3.5, -4]]) });
  report('add', { result: await call('add', 2, 3) });
  await call('fail', 'no luck').then(
    () => { throw new Error('the failing call worked'); },
    (error) => report('fail', { error }),
  );
  const calls = Array.from({ length: 50 }, (_, n) => call('add', n, 1));
  report('pipelined', { result: await Promise.all(calls) });
  await client.notify('note', 'noted');
  report('notes', { result: await call('notes') });
  client.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
