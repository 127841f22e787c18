// node-redis: node node_redis.js HOST PORT resp2|resp3|cluster
import { createClient, createCluster } from 'redis';
import { done, host, is, mode, port, refuses } from './check.js';

const url = `redis://${host}:${port}`;
const redis =
  mode === 'cluster' ? createCluster({ rootNodes: [{ url }] }) : createClient({ url, name: 'scenario', RESP: mode === 'resp2' ? 2 : 3 });
redis.on('error', (error) => {
  console.error(error);
  process.exit(1);
});
await redis.connect();
is(await redis.set('k', 'grün', { EX: 100 }), 'OK');
is(await redis.get('k'), 'grün');
is(await redis.get('none'), null);
is(await redis.set('k', 'x', { NX: true }), null);
is((await redis.ttl('k')) > 90, true);
is(await redis.incrBy('n', 41), 41);
is(await redis.incr('n'), 42);
is(await redis.append('k', '!'), 6);
is(await redis.getDel('k'), 'grün!');
is(await redis.exists('k'), 0);
await redis.set('text', 'x');
await refuses(redis.incr('text'), /not an integer/);
const large = 'ü'.repeat(500_000);
is(await redis.set('large', large), 'OK');
is((await redis.get('large')) === large, true);
is(await redis.mSet({ '{t}a': '1', '{t}b': '2' }), 'OK');
is(await redis.mGet(['{t}a', '{t}none', '{t}b']), ['1', null, '2']);
// Commands of one turn of the event loop are one pipeline.
const all = await Promise.all(
  Array.from({ length: 2000 }, (_, i) => [redis.set(`p:${i}`, String(i)), redis.get(`p:${i}`)]).flat(),
);
is(all, Array.from({ length: 4000 }, (_, i) => (i % 2 ? String((i - 1) / 2) : 'OK')));
if (mode !== 'cluster') {
  is(await redis.ping(), 'PONG');
  is(await redis.clientGetName(), 'scenario');
  await refuses(redis.sendCommand(['NOSUCH', 'x']), /unknown command/);
  const keys = new Set();
  for await (const page of redis.scanIterator({ MATCH: 'p:*', COUNT: 200 })) [page].flat().forEach((key) => keys.add(key));
  is(keys.size, 2000);
  is((await redis.info('server')).includes('redis_version:7.2.4'), true);
  is(await redis.flushAll(), 'OK');
  is(await redis.dbSize(), 0);
}
await redis.close();
done();
